"""Are masked gradients caught? Models that only seem robust must fail a check, honest ones must pass all.

Everything is trained on the embedded digits; the thresholds are the configuration's defaults.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from components.environment import configure_compute
from components.training_step import labelled_images
from pipelines.masked_models import MASKED, Ingredients, make_masked
from pipelines.peer_models import threat_of, trained_peers
from training.config import (
    MAX_SEED,
    ApgdCeAttack,
    ApgdDlrAttack,
    Curve,
    Evaluation,
    PgdAttack,
    Shift,
    Spatial,
    ThreatModel,
)
from training.errors import TemperError
from training.randomness import derive_seed
from training.robustness.results import EvaluationResult, SanityCheck
from training.robustness.subject import Plan, Subject
from training.robustness.suite import Suite
from training.validation import LabelledImages

Kind: TypeAlias = Literal["honest", "masked"]
Verdict: TypeAlias = Literal["caught", "passed", "not judged"]

HONEST = ("pgd_at", "trades", "guided")
EVALUATION = Evaluation(
    attacks=(PgdAttack(), ApgdCeAttack(steps=50), ApgdDlrAttack(steps=50)),
    examples=300,
    curve=Curve(multiples=(0.0,)),
    shift=Shift(corruptions="none", threats=(), spatial=Spatial(degrees=0, pixels=0)),
)
"""A short ensemble, as its PGD is what a first look would report, and every check as configured."""

_WIDTH = 130


@dataclass(frozen=True)
class Candidate:
    """A model in eval mode, and whether it is known to be honest or masked."""

    name: str
    kind: Kind
    model: nn.Module


@dataclass(frozen=True)
class Surroundings:
    """What every candidate is judged with: a clean teacher, the sides, the threat, a seed."""

    teacher: nn.Module
    test: LabelledImages
    train: LabelledImages
    threat: ThreatModel
    seed: int


@dataclass(frozen=True)
class Judged:
    """What an evaluation says of a candidate, and what it took in seconds."""

    candidate: Candidate
    result: EvaluationResult
    seconds: float

    @property
    def failed(self) -> tuple[SanityCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.result.sanity if check.status == "failed")

    @property
    def verdict(self) -> Verdict:
        """Caught by at least one failed check; passed only if every check was made and passed."""
        if self.failed:
            return "caught"
        made = self.result.sanity and all(check.status == "passed" for check in self.result.sanity)
        return "passed" if made else "not judged"

    @property
    def as_it_should_be(self) -> bool:
        """Whether a masked model was caught, or an honest one passed."""
        return self.verdict == ("caught" if self.candidate.kind == "masked" else "passed")


def judge(candidate: Candidate, around: Surroundings, evaluation: Evaluation = EVALUATION) -> Judged:
    """Evaluate a candidate as a user would; what a model draws itself is keyed by the seed.

    Raises:
        TrainingError: a model that gives NaN or infinity.
    """
    started = time.perf_counter()
    classes = int(around.test.labels.max()) + 1
    subject = Subject(
        model=candidate.model,
        model_digest=candidate.name,
        test=around.test,
        snapshot_digest="digits",
        class_names=tuple(str(number) for number in range(classes)),
        device=torch.device("cpu"),
        teacher=around.teacher,
        train=around.train,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(around.seed, candidate.name))
        result, _, _ = Suite(subject, Plan(evaluation, around.threat, around.seed)).run()
    return Judged(candidate, result, time.perf_counter() - started)


def candidates(folder: Path, seed: int, only: tuple[str, ...]) -> tuple[Surroundings, list[Candidate]]:
    """Train the models below ``folder``, reusing those that are there, and mask the clean one.

    Args:
        folder: where artefacts are kept.
        seed: of the masked models and of every judgement.
        only: the names of the candidates; none means all.
    """
    wanted = only or (*HONEST, *MASKED)
    # The clean network is everyone's teacher; the first honest one is masked too.
    needed = ("clean", HONEST[0], *(name for name in HONEST[1:] if name in wanted))
    clean, *honest = trained_peers(folder, "digits", needed)
    sides = [labelled_images(folder / "digits" / "dataset", side) for side in ("test", "train", "validation")]
    test, train, validation = sides
    parts = Ingredients(clean.model.eval(), honest[0].model.eval(), train, validation, seed)
    made = [Candidate(peer.name, "honest", peer.model.eval()) for peer in honest if peer.name in wanted]
    made += [Candidate(name, "masked", make_masked(name, parts)) for name in MASKED if name in wanted]
    return Surroundings(clean.model, test, train, threat_of(clean), seed), made


def table(found: list[Judged]) -> Table:
    """Return a row for each candidate, and below it one for each check that failed."""
    shown = Table(
        "model", "kind", "natural", "PGD", "ensemble", "verdict", "s", "failed checks", width=_WIDTH
    )
    for judged in found:
        result = judged.result
        shares = (result.natural.value, result.attacks[0].robust.value, result.robust.value)
        numbers = [f"{100 * share:.1f}" for share in shares]
        reasons = "\n".join(f"{check.name}: {check.evidence}" for check in judged.failed)
        verdict = judged.verdict if judged.as_it_should_be else judged.verdict.upper()
        candidate = judged.candidate
        shown.add_row(candidate.name, candidate.kind, *numbers, verdict, f"{judged.seconds:.0f}", reasons)
    return shown


def result_line(found: list[Judged], seconds: float) -> str:
    """Count what is as it should be."""
    counts = []
    for word, kind in (("caught", "masked"), ("honest_passed", "honest")):
        mine = [judged.as_it_should_be for judged in found if judged.candidate.kind == kind]
        counts.append(f"{word}={sum(mine)}/{len(mine)}")
    return f"RESULT {' '.join(counts)} seconds={seconds:.0f}"


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/peers"), show_default=True)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True)
@click.option(
    "--only", type=click.Choice((*HONEST, *MASKED)), multiple=True, help="A model; may be given again."
)
def main(folder: Path, seed: int, only: tuple[str, ...]) -> None:
    """Evaluate honest and masked models on the embedded digits."""
    configure_compute()
    started = time.perf_counter()
    try:
        around, models = candidates(folder, seed, only)
        found = []
        for candidate in models:
            found.append(judge(candidate, around))
            click.echo(f"{candidate.name}: {found[-1].verdict}")
    except TemperError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    Console(width=_WIDTH).print(table(found))
    click.echo(result_line(found, time.perf_counter() - started))
    sys.exit(not all(judged.as_it_should_be for judged in found))


if __name__ == "__main__":
    main()
