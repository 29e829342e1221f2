"""Hold every corruption against an independent implementation (PyPI: imagecorruptions)."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor

from pipelines import corruption_reference
from training.data.digits import read_digits
from training.errors import TemperError
from training.randomness import FloatArray, derive_seed
from training.robustness.corruptions.catalogue import (
    CORRUPTIONS,
    PARAMETER_SOURCES,
    SEVERITIES,
    Compared,
    Corruption,
    ParameterSet,
)
from training.robustness.corruptions.draws import Draws

PYTHON = Path(".venv-corruptions/bin/python")

_SEED = 0
# Enough that a deviation in the pictures of frost that were drawn stays well below the tolerance.
_DRAWS = 200

_Pixels: TypeAlias = npt.NDArray[np.uint8]
Job: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """How far one kind is from the reference, over severities and pictures.

    Attributes:
        kind: the corruption.
        parameters: whose parameters it had.
        furthest: the largest difference, or gap of a distribution, in pixel units of [0, 1].
    """

    kind: Corruption
    parameters: ParameterSet
    furthest: float

    @property
    def agrees(self) -> bool:
        """Whether the kind's tolerance is kept."""
        return self.furthest <= self.kind.tolerance


class RecordedDraws(Draws):
    """Draws that remember their numbers in the order in which the reference asks for them.

    Args:
        seed: the key of one corruption at one severity.
        images: what is corrupted, shape (n, c, h, w); rows are 0 to n - 1.
    """

    def __init__(self, seed: int, images: Tensor) -> None:
        super().__init__(seed, np.arange(len(images)))
        self._shape = images.shape[1:]
        self._drawn: list[Tensor] = []

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1), float64, shape (n, *shape)."""
        return self._remember(super().uniform(*shape))

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, float64, shape (n, *shape)."""
        return self._remember(super().normal(*shape))

    def numbers(self) -> FloatArray | None:
        """Everything drawn so far, shape (n, k); None if there was nothing to draw."""
        return torch.cat(self._drawn, dim=1).numpy() if self._drawn else None

    def _remember(self, drawn: Tensor) -> Tensor:
        # The reference keeps channels last.
        ordered = drawn.permute(0, 2, 3, 1) if drawn.shape[1:] == self._shape else drawn
        self._drawn.append(ordered.flatten(1) if ordered.ndim > 1 else ordered[:, None])
        return drawn


def photographs(size: tuple[int, int], *, grey: bool = False) -> _Pixels:
    """Return scikit-learn's two photographs at ``size`` (height, width), uint8, shape (2, h, w, c)."""
    found = []
    for photograph in load_sample_images().images:  # type: ignore[no-untyped-call]
        picture = Image.fromarray(photograph).resize((size[1], size[0]), Image.Resampling.LANCZOS)
        found.append(np.asarray(picture.convert("L") if grey else picture))
    stacked = np.stack(found)
    return stacked[..., None] if grey else stacked


def structures(side: int) -> _Pixels:
    """Return a chequerboard, a ramp, and black with a bright spot, uint8, shape (3, side, side, 3)."""
    rows, columns = np.indices((side, side))
    board = np.repeat(((rows // 4 + columns // 4) % 2 * 255)[..., None], 3, axis=2)
    ramp = np.stack([rows, columns, np.full_like(rows, side // 2)], axis=2) * 255 // side
    spot = (
        np.repeat((((rows - side // 3) ** 2 + (columns - side // 2) ** 2) < side)[..., None], 3, axis=2) * 250
    )
    return np.stack([board, ramp, spot]).astype(np.uint8)


def digits() -> _Pixels:
    """Return three grey digits, uint8, shape (3, 8, 8, 1)."""
    return read_digits().train.images[:3]


def pictures(parameters: ParameterSet) -> tuple[_Pixels, ...]:
    """Return the batches that a set of parameters is compared on: those it is for, and smaller ones."""
    small = (photographs((32, 32)), structures(32), photographs((28, 28), grey=True))
    if parameters == "cifar":
        return (*small, digits())
    return (photographs((64, 64)), photographs((80, 96)), photographs((64, 64), grey=True), *small)


def as_images(pixels: _Pixels) -> Tensor:
    """Turn uint8 (n, h, w, c) into float64 in [0, 1], shape (n, c, h, w)."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255.0


def reference_values(kind: Corruption, severity: int, parameters: ParameterSet) -> object:
    """Return one severity's parameters as the reference's code holds them; None for its own."""
    if parameters == "imagenet":
        return None
    values = kind.cifar[severity - 1]
    if kind.name == "zoom_blur":
        return [float(factor) for factor in np.arange(1, *values)]
    return values if len(values) > 1 else values[0]


def is_comparable(kind: Corruption, parameters: ParameterSet) -> bool:
    """Whether the reference has the algorithm: its elastic transform has no affine part, CIFAR-10-C's has."""
    return kind.name != "elastic_transform" or parameters == "imagenet"


class Check:
    """One comparison, in a folder that the reference's interpreter shares.

    Args:
        folder: an empty folder.
        python: the interpreter that has imagecorruptions.
    """

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder = folder
        self._python = python
        self._jobs: list[Job] = []
        self._ours: list[tuple[Corruption, ParameterSet, FloatArray]] = []

    def run(self, kinds: tuple[Corruption, ...] = CORRUPTIONS) -> list[Finding]:
        """Corrupt by both, compare.

        Raises:
            TemperError: the reference cannot be run.
        """
        if shutil.which(self._python) is None:
            msg = f"{self._python}: no such program; make check-corruptions installs it"
            raise TemperError(msg)
        for kind, parameters, severity in _cases(kinds):
            for pixels in pictures(parameters) if kind.compared == "numbers" else (_repeated(parameters),):
                self._corrupt(kind, parameters, severity, pixels)
        self._run_reference()
        return self._findings()

    def _corrupt(self, kind: Corruption, parameters: ParameterSet, severity: int, pixels: _Pixels) -> None:
        images = as_images(pixels)
        draws = RecordedDraws(derive_seed(_SEED, kind.name, severity), images)
        ours = kind.apply(images, draws, *kind.settings(parameters)[severity - 1]).clamp(0.0, 1.0)
        number = len(self._jobs)
        numbers = draws.numbers() if kind.compared == "numbers" else None
        self._ours.append((kind, parameters, ours.permute(0, 2, 3, 1).numpy()))
        self._jobs.append(
            {
                "kind": kind.name,
                "severity": severity,
                "values": reference_values(kind, severity, parameters),
                "images": self._save(f"{number}-images.npy", pixels),
                "numbers": None if numbers is None else self._save(f"{number}-numbers.npy", numbers),
                "seed": _SEED,
                "out": f"{number}-out.npy",
            }
        )

    def _save(self, name: str, values: npt.NDArray[Any]) -> str:
        np.save(self._folder / name, values, allow_pickle=False)
        return name

    def _run_reference(self) -> None:
        (self._folder / "jobs.json").write_text(json.dumps(self._jobs), encoding="utf-8")
        words = [str(self._python), str(corruption_reference.__file__), str(self._folder)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603 - ours
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            msg = (
                f"the reference failed with {said!r}; remove .venv-corruptions and run make check-corruptions"
            )
            raise TemperError(msg)

    def _findings(self) -> list[Finding]:
        furthest: dict[tuple[str, ParameterSet], float] = {}
        kinds = {}
        for (kind, parameters, ours), job in zip(self._ours, self._jobs, strict=True):
            theirs = np.load(self._folder / job["out"], allow_pickle=False)
            measure = difference if kind.compared == "numbers" else gap
            key = (kind.name, parameters)
            kinds[kind.name] = kind
            furthest[key] = max(furthest.get(key, 0.0), measure(ours, theirs))
        return [Finding(kinds[name], parameters, found) for (name, parameters), found in furthest.items()]


def _cases(kinds: tuple[Corruption, ...]) -> Iterator[tuple[Corruption, ParameterSet, int]]:
    for kind in kinds:
        for parameters in PARAMETER_SOURCES:
            if is_comparable(kind, parameters):
                yield from ((kind, parameters, severity) for severity in SEVERITIES)


def _repeated(parameters: ParameterSet) -> _Pixels:
    side = 64 if parameters == "imagenet" else 32
    return np.repeat(photographs((side, side))[:1], _DRAWS, axis=0)


def difference(ours: FloatArray, theirs: FloatArray) -> float:
    """Return the largest difference of a pixel."""
    return float(np.abs(ours - theirs).max())


def gap(ours: FloatArray, theirs: FloatArray) -> float:
    """Return the largest gap between moments of draws of one picture, shape (draws, h, w, c).

    They are the channels' means, the mean deviation of a pixel over the draws, and that of a draw over its
    pixels.
    """
    gaps = [np.abs(ours.mean(axis=(0, 1, 2)) - theirs.mean(axis=(0, 1, 2))).max()]
    gaps += [abs(ours.std(axis=axes).mean() - theirs.std(axis=axes).mean()) for axes in (0, (1, 2))]
    return float(max(gaps))


def table(findings: list[Finding]) -> Table:
    """Return one line for each kind: the furthest it is from the reference, with either set of parameters."""
    shown = Table("corruption", "group", "compared by", *PARAMETER_SOURCES, "tolerance", "")
    for kind in dict.fromkeys(finding.kind for finding in findings):
        mine = {finding.parameters: finding for finding in findings if finding.kind == kind}
        cells = [f"{mine[name].furthest:.1e}" if name in mine else "-" for name in PARAMETER_SOURCES]
        verdict = "agrees" if all(finding.agrees for finding in mine.values()) else "DIFFERS"
        shown.add_row(kind.name, kind.group, kind.compared, *cells, f"{kind.tolerance:.1e}", verdict)
    return shown


def summary(findings: list[Finding]) -> str:
    """Return the result in one line."""
    furthest: dict[Compared, float] = {"numbers": 0.0, "distribution": 0.0}
    for finding in findings:
        how = finding.kind.compared
        furthest[how] = max(furthest[how], finding.furthest)
    compared = Counter(kind.compared for kind in {finding.kind for finding in findings})
    return (
        f"RESULT kinds={compared.total()} compared_exactly={compared['numbers']} "
        f"compared_in_distribution={compared['distribution']} max_abs_diff={furthest['numbers']:.2e} "
        f"max_distribution_gap={furthest['distribution']:.2e} "
        f"broken={sum(not finding.agrees for finding in findings)}"
    )


@click.command()
@click.option("--python", type=click.Path(path_type=Path), default=PYTHON, show_default=True)
def main(python: Path) -> None:
    """Hold every corruption against imagecorruptions, which the interpreter PYTHON has."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            findings = Check(Path(folder), python).run()
    except TemperError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    Console(width=110).print(table(findings))
    for finding in {finding.kind.name: finding for finding in findings if finding.kind.note}.values():
        click.echo(f"{finding.kind.name}: {finding.kind.note}")
    click.echo(summary(findings))
    sys.exit(not all(finding.agrees for finding in findings))


if __name__ == "__main__":
    main()
