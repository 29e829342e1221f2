"""Corruptions as a heat map: kind against severity, by group, beside the teacher where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.robustness.results import CorruptionResult, ShiftResult, corruption_mean
from training.robustness.statistics import Estimate, Rate

GROUPS = ("noise", "blur", "weather", "digital", "extra")
"""The order of Hendrycks and Dietterich (2019); a group that is not named here comes after them."""


@dataclass(frozen=True)
class Mean:
    """A mean over corruptions; ``difference`` is this model less its teacher on the same images."""

    value: float
    teacher: float | None
    difference: float | None


@dataclass(frozen=True)
class Kind:
    """One corruption: its accuracy at each severity shown (None where it was not measured), and the mean."""

    title: str
    rates: tuple[Rate | None, ...]
    mean: Mean


@dataclass(frozen=True)
class Group:
    """Corruptions of one group."""

    title: str
    kinds: tuple[Kind, ...]
    mean: Mean


@dataclass(frozen=True)
class Grid:
    """All corruptions that were measured."""

    severities: tuple[int, ...]
    groups: tuple[Group, ...]
    mean: Mean
    accuracy: Estimate
    n: int

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher was measured on the same images."""
        return self.mean.teacher is not None

    @property
    def hardest(self) -> Kind:
        """The kind with the lowest mean."""
        return min((kind for group in self.groups for kind in group.kinds), key=lambda kind: kind.mean.value)


def show_corruptions(shift: ShiftResult) -> Grid | None:
    """Lay out the corruptions, or return None where none was measured."""
    found = shift.corruptions
    if not found:
        return None
    severities = tuple(sorted({result.severity for result in found}))
    groups = sorted({result.group for result in found}, key=_order)
    return Grid(
        severities=severities,
        groups=tuple(_group(name, found, severities) for name in groups),
        mean=_mean(found),
        accuracy=corruption_mean(found),
        n=min(result.accuracy.n for result in found),
    )


def _order(group: str) -> tuple[int, str]:
    return (GROUPS.index(group) if group in GROUPS else len(GROUPS)), group


def _group(name: str, found: Sequence[CorruptionResult], severities: tuple[int, ...]) -> Group:
    mine = [result for result in found if result.group == name]
    kinds = tuple(_kind(kind, mine, severities) for kind in dict.fromkeys(result.kind for result in mine))
    return Group(title=_title(name), kinds=kinds, mean=_mean(mine))


def _kind(name: str, found: Sequence[CorruptionResult], severities: tuple[int, ...]) -> Kind:
    mine = {result.severity: result for result in found if result.kind == name}
    rates = tuple(mine[severity].accuracy if severity in mine else None for severity in severities)
    return Kind(title=_title(name), rates=rates, mean=_mean(tuple(mine.values())))


def _mean(found: Sequence[CorruptionResult]) -> Mean:
    value = _average([result.accuracy for result in found])
    paired = [(result.accuracy, result.teacher) for result in found if result.teacher is not None]
    if not paired:
        return Mean(value, None, None)
    teacher = _average([rate for _, rate in paired])
    return Mean(value, teacher, _average([rate for rate, _ in paired]) - teacher)


def _average(rates: Sequence[Rate]) -> float:
    return sum(rate.value for rate in rates) / len(rates)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Jpeg", "JPEG")
