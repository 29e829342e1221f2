"""Attack by attack and norm by norm: our robust accuracy beside the public AutoAttack's."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from components.environment import configure_compute
from pipelines.peer_autoattack import exact, keyed, ours, reference
from pipelines.peer_models import NAMES, Peer, chosen_data, plain, threat_of, trained_peers
from training.config import Evaluation, EvaluationAttack, ThreatModel
from training.robustness.ensemble import ensemble
from training.robustness.threats import usual_threats

SEEDS = (0, 1, 2)
LEAST_TOLERANCE = 0.2
"""Points; where the reference's own spread over the seeds is larger, that counts."""


@dataclass(frozen=True)
class Row:
    """One attack on one model: robust accuracies in percent, and outcomes equal for the same draws."""

    peer: str
    norm: str
    attack: str
    theirs: tuple[float, ...]
    ours: tuple[float, ...]
    equal: float

    @property
    def gap(self) -> float:
        """Our mean less the reference's mean over the seeds, in points."""
        return statistics.mean(self.ours) - statistics.mean(self.theirs)

    @property
    def tolerance(self) -> float:
        """The larger of 0.2 points and the reference's spread."""
        return max(LEAST_TOLERANCE, max(self.theirs) - min(self.theirs))


def compare(peer: Peer, images: int, seeds: tuple[int, ...]) -> Iterator[Row]:
    """Run every attack of the standard version by itself, in every norm."""
    trained = threat_of(peer)
    pixels = peer.images.images[0].numel()
    classes = int(peer.images.labels.max()) + 1
    for threat in (trained, *usual_threats(trained, pixels)):
        for attack in ensemble(Evaluation(), threat, classes):
            yield _row(peer, images, threat, attack, seeds)


def _row(
    peer: Peer, images: int, threat: ThreatModel, attack: EvaluationAttack, seeds: tuple[int, ...]
) -> Row:
    data, model = peer.first(images), plain(peer.model)
    theirs = [reference(model, data, threat, seed, attack.name) for seed in seeds]
    same = ours(peer.model, data, threat, seeds[0], exact((attack,)))
    mine = [ours(peer.model, data, threat, seed, keyed((attack,))) for seed in seeds]
    return Row(
        peer=peer.name,
        norm=threat.norm,
        attack=attack.name,
        theirs=tuple(100 * float(found.standing.mean()) for found in theirs),
        ours=tuple(100 * float(found.standing.mean()) for found in mine),
        equal=100 * float((same.standing == theirs[0].standing).mean()),
    )


def _listed(shares: tuple[float, ...]) -> str:
    return " ".join(f"{share:.1f}" for share in shares)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/peers"), show_default=True)
@click.option("--data", type=click.Choice(["fashion-mnist", "digits-small"]), help="[default: what is there]")
@click.option("--images", type=click.IntRange(1), default=1000, show_default=True)
def main(folder: Path, data: str | None, images: int) -> None:
    """Compare robust accuracy attack by attack; both run with three seeds."""
    configure_compute()
    used = chosen_data(data)
    screen = Console(highlight=False, soft_wrap=True)
    table = Table(
        "model", "norm", "attack", "reference, seeds 0 1 2", "ours, seeds 0 1 2", "gap", "same draws: equal"
    )
    rows = []
    for peer in trained_peers(folder, used, NAMES):
        for row in compare(peer, min(images, len(peer.images)), SEEDS):
            rows.append(row)
            cells = (_listed(row.theirs), _listed(row.ours), f"{row.gap:+.2f}", f"{row.equal:.1f} %")
            table.add_row(row.peer, row.norm, row.attack, *cells)
            screen.print(row.peer, row.norm, row.attack, *cells, markup=False)
    screen.print(table)
    within = sum(abs(row.gap) <= row.tolerance for row in rows)
    worst = max(row.gap - row.tolerance for row in rows)
    screen.print(
        f"RESULT data={used} images={images} within={within}/{len(rows)} "
        f"max_gap_points={max(abs(row.gap) for row in rows):.2f} "
        f"over_tolerance_points={max(0.0, worst):.2f} "
        f"least_equal_percent={min(row.equal for row in rows):.1f}",
        markup=False,
    )
    if within < len(rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
