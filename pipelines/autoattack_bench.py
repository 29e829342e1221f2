"""How much quicker our AutoAttack is than the public one, and whether it says the same."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from components.environment import configure_compute
from pipelines.peer_autoattack import BATCH, Verdicts, exact, ours, reference, verdict
from pipelines.peer_models import Peer, chosen_data, plain, threat_of, trained_peers
from training.errors import TemperError
from training.validation import LabelledImages

MODES = ("reference", "exact", "verdict")
PEERS = ("pgd_at", "guided")
_LONGEST_SECONDS = 24 * 3600


@dataclass
class Measured:
    """One mode on one model: verdicts of all images in order, and seconds, chunk by chunk."""

    standing: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def verdicts(self) -> np.ndarray:
        """Whether each image stands, shape (n,)."""
        return np.concatenate(self.standing)


def run_mode(mode: str, peer: Peer, data: LabelledImages, seed: int) -> Verdicts:
    """Attack images in one of :data:`MODES`."""
    threat = threat_of(peer)
    if mode == "reference":
        return reference(plain(peer.model), data, threat, seed)
    made = {"exact": exact, "verdict": verdict}[mode]()
    return ours(peer.model, data, threat, seed, made)


def interleaved(peer: Peer, images: int, seed: int, tell: Callable[[str], None]) -> dict[str, Measured]:
    """Run every mode on each chunk of the reference's batch size in turn; who begins changes."""
    measured: dict[str, Measured] = defaultdict(Measured)
    for number, start in enumerate(range(0, images, BATCH)):
        part = slice(start, min(start + BATCH, images))
        data = LabelledImages(peer.images.images[part], peer.images.labels[part])
        turn = number % len(MODES)
        for mode in MODES[turn:] + MODES[:turn]:
            found = run_mode(mode, peer, data, seed)
            measured[mode].standing.append(found.standing)
            measured[mode].seconds.append(found.seconds)
            tell(f"{peer.name} {part.start}-{part.stop} {mode}: {found.seconds:.1f} s")
    return measured


def in_processes(folder: Path, data: str, images: int, seed: int, processes: int) -> dict[str, float]:
    """Return each mode's wall seconds with one single-threaded process for each share of the images.

    A process is timed from when all are ready, so that imports do not count.
    """
    seconds = {}
    for mode in MODES:
        options = {"folder": folder, "data": data, "images": images, "seed": seed}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "pipelines.autoattack_bench", *words, "--shard"]
        shards = [f"{number}/{processes}/{mode}" for number in range(processes)]
        running = [
            subprocess.Popen([*command, shard], stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own words
            for shard in shards
        ]
        answers = [process.communicate(timeout=_LONGEST_SECONDS)[0] for process in running]
        if any(process.returncode for process in running):
            msg = f"a process of mode {mode} failed; what it said stands above"
            raise TemperError(msg)
        seconds[mode] = max(json.loads(answer.splitlines()[-1])["seconds"] for answer in answers)
    return seconds


def run_shard(folder: Path, data: str, images: int, seed: int, shard: str) -> None:
    """Attack every ``processes``-th image of the first peer on one thread, and print the seconds."""
    number, processes, mode = shard.split("/")
    torch.set_num_threads(1)
    peer = next(trained_peers(folder, data, PEERS[:1]))
    at = slice(int(number), images, int(processes))
    found = run_mode(mode, peer, LabelledImages(peer.images.images[at], peer.images.labels[at]), seed)
    click.echo(json.dumps({"seconds": found.seconds}))


def _table(peer: str, measured: dict[str, Measured]) -> Table:
    theirs = measured["reference"]
    table = Table("mode", "robust", "verdicts equal", "seconds", "speed", title=f"model {peer}")
    for mode in MODES:
        found = measured[mode]
        equal = int((found.verdicts == theirs.verdicts).sum())
        ratio = sum(theirs.seconds) / sum(found.seconds)
        robust = f"{100 * found.verdicts.mean():.1f} %"
        count = f"{equal}/{len(theirs.verdicts)}"
        table.add_row(mode, robust, count, f"{sum(found.seconds):.1f}", f"{ratio:.2f}x")
    return table


def result_line(found: dict[str, dict[str, Measured]], processes: dict[str, float]) -> str:
    """Return the line that a program reads; gaps and over-reports are in points, the worst model's."""
    seconds = {mode: sum(sum(measured[mode].seconds) for measured in found.values()) for mode in MODES}
    pairs = [(measured["reference"].verdicts, measured["exact"].verdicts) for measured in found.values()]
    equal = sum(int((theirs == mine).sum()) for theirs, mine in pairs)
    gaps = [
        100 * (measured["verdict"].verdicts.mean() - measured["reference"].verdicts.mean())
        for measured in found.values()
    ]
    line = (
        f"RESULT exact_speedup={seconds['reference'] / seconds['exact']:.2f} "
        f"exact_equal={equal}/{sum(len(theirs) for theirs, _ in pairs)} "
        f"speedup={seconds['reference'] / seconds['verdict']:.2f} "
        f"max_gap_points={max(map(abs, gaps)):.2f} over_reported_points={max(0.0, *gaps):.2f}"
    )
    if processes:
        line += f" exact_speedup_processes={processes['reference'] / processes['exact']:.2f}"
        line += f" speedup_processes={processes['reference'] / processes['verdict']:.2f}"
    return line


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/peers"), show_default=True)
@click.option("--data", type=click.Choice(["fashion-mnist", "digits-small"]), help="[default: what is there]")
@click.option("--images", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--processes", type=click.IntRange(0), help="[default: one for each core; 0 skips that part]")
@click.option("--shard", hidden=True)
def main(
    folder: Path, data: str | None, images: int, seed: int, processes: int | None, shard: str | None
) -> None:
    """Time ours against the public AutoAttack on trained models, interleaved, and compare every verdict."""
    used = chosen_data(data)
    if shard:
        run_shard(folder, used, images, seed, shard)
        return
    threads = configure_compute().threads
    screen = Console(highlight=False, soft_wrap=True)
    screen.print(f"{used}, {images} images, {threads} threads, AutoAttack standard, Linf", markup=False)
    found = {}
    for peer in trained_peers(folder, used, PEERS):
        found[peer.name] = interleaved(peer, min(images, len(peer.images)), seed, screen.print)
        screen.print(_table(peer.name, found[peer.name]))
    count = threads if processes is None else processes
    timed = in_processes(folder, used, min(images, 2 * BATCH), seed, count) if count else {}
    for mode, seconds in timed.items():
        screen.print(f"{count} processes of one thread, {mode}: {seconds:.1f} s", markup=False)
    screen.print(result_line(found, timed), markup=False)


if __name__ == "__main__":
    main()
