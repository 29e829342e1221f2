"""The data gate: what a divided source must show before anything is trained on it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

from training.config import Count, DataGate
from training.data.messages import listed, printable
from training.data.split import Division, Selection
from training.errors import DataError
from training.randomness import IntArray


class ClassCounts(BaseModel):
    """The training examples of each class in a snapshot; what the next one is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_names: tuple[str, ...]
    train: tuple[Count, ...]

    @model_validator(mode="after")
    def _one_count_for_each_class(self) -> "ClassCounts":
        if len(self.train) != len(self.class_names):
            msg = f"{len(self.train)} counts for {len(self.class_names)} classes"
            raise ValueError(msg)
        return self


class GateReport(BaseModel):
    """What the gate counted. Shares are in [0, 1].

    Attributes:
        duplicate_rows: training rows whose pixels repeat an earlier training row.
        duplicate_share: of all training rows.
        leaked_rows: validation and test rows whose pixels are also in train.
        leaked_share: of all validation and test rows.
        conflicting_images: distinct images that stand under more than one label, on any side.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    duplicate_rows: int
    duplicate_share: float
    leaked_rows: int
    leaked_share: float
    conflicting_images: int


def check(division: Division, gate: DataGate, last: ClassCounts | None = None) -> GateReport:
    """Count duplicates, leaks and conflicting labels, and compare class shares with the last snapshot.

    Args:
        division: a divided source that meets the schema.
        gate: the bounds; a value may equal its bound.
        last: the last snapshot's counts; None where this is the first.

    Raises:
        DataError: a bound is passed, or the class names differ from the last snapshot's. The message
            names the metric, its value, the bound and the first rows.
    """
    if last is not None:
        _check_drift(division, gate, last)
    sides = (division.train, division.validation, division.test)
    groups = _group([side.keys for side in sides])
    duplicates = _check_duplicates(division.train, groups[0], gate)
    leaked = _check_leaks(sides, groups, gate)
    conflicts = _check_conflicts(division, groups, gate)
    return GateReport(
        duplicate_rows=duplicates,
        duplicate_share=duplicates / len(groups[0]),
        leaked_rows=leaked,
        leaked_share=leaked / (len(groups[1]) + len(groups[2])),
        conflicting_images=conflicts,
    )


def class_share_change(now: ClassCounts, last: ClassCounts) -> tuple[float, ...]:
    """Return how far each class's share of train moved, in [0, 1], in the order of the class names."""
    shares = [np.array(counts.train) / sum(counts.train) for counts in (now, last)]
    return tuple(np.abs(shares[0] - shares[1]).tolist())


def _check_drift(division: Division, gate: DataGate, last: ClassCounts) -> None:
    if division.class_names != last.class_names:
        changed = sorted(set(division.class_names) ^ set(last.class_names))
        what = f"{listed(changed)} came or went" if changed else "their order changed"
        msg = f"data gate: class names differ from the last snapshot's: {what}; restore them"
        raise DataError(msg)
    now = ClassCounts(class_names=division.class_names, train=division.counts("train"))
    changes = class_share_change(now, last)
    worst = int(np.argmax(changes))
    if changes[worst] > gate.max_class_share_change:
        shares = " to ".join(f"{c.train[worst] / sum(c.train):.4g}" for c in (last, now))
        msg = (
            f"data gate: class {printable(now.class_names[worst])} went from {shares} of train, a class "
            f"share change of {changes[worst]:.4g} above data.gate.max_class_share_change "
            f"{gate.max_class_share_change:g}; restore the balance or raise the bound"
        )
        raise DataError(msg)


def _group(keys: Sequence[npt.NDArray[np.uint64]]) -> list[IntArray]:
    """Number distinct images from 0, on all sides together."""
    joined = np.concatenate(keys)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    new = np.any(joined[order][1:] != joined[order][:-1], axis=1)
    numbers = np.empty(len(joined), dtype=np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(new)])
    return np.split(numbers, np.cumsum([len(side) for side in keys])[:-1])


def _check_duplicates(train: Selection, groups: IntArray, gate: DataGate) -> int:
    first = np.unique(groups, return_index=True)[1]
    repeats = np.setdiff1d(np.arange(len(groups)), first)
    share = len(repeats) / len(groups)
    if share > gate.max_duplicate_share:
        rows = listed([train.row_name(row) for row in repeats.tolist()])
        msg = (
            f"data gate: duplicate share {share:.4g} of train is above data.gate.max_duplicate_share "
            f"{gate.max_duplicate_share:g}: {rows} repeat earlier rows; remove them or raise the bound"
        )
        raise DataError(msg)
    return len(repeats)


def _check_leaks(sides: Sequence[Selection], groups: Sequence[IntArray], gate: DataGate) -> int:
    names = [
        side.row_name(row)
        for side, numbers in zip(sides[1:], groups[1:], strict=True)
        for row in np.flatnonzero(np.isin(numbers, groups[0])).tolist()
    ]
    share = len(names) / (len(groups[1]) + len(groups[2]))
    if share > gate.max_leaked_share:
        msg = (
            f"data gate: leaked share {share:.4g} of validation and test is above data.gate.max_leaked_share "
            f"{gate.max_leaked_share:g}: {listed(names)} stand in train too; remove them or raise the bound"
        )
        raise DataError(msg)
    return len(names)


def _check_conflicts(division: Division, groups: Sequence[IntArray], gate: DataGate) -> int:
    sides = (division.train, division.validation, division.test)
    numbers, labels = np.concatenate(groups), np.concatenate([side.labels for side in sides])
    pairs = np.unique(np.stack([numbers, labels], axis=1), axis=0)[:, 0]
    conflicting = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    if len(conflicting) > gate.max_conflicting_labels:
        names = [
            f"{side.row_name(row)} ({printable(division.class_names[side.labels[row]])})"
            for side, own in zip(sides, groups, strict=True)
            for row in np.flatnonzero(np.isin(own, conflicting)).tolist()
        ]
        msg = (
            f"data gate: {len(conflicting)} images with conflicting labels, above "
            f"data.gate.max_conflicting_labels {gate.max_conflicting_labels}: {listed(names)}; "
            "correct the labels or raise the bound"
        )
        raise DataError(msg)
    return len(conflicting)
