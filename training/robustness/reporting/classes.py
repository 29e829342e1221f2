"""Classes: their names by label, their accuracies, and which do worst."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.robustness.results import EvaluationResult, Share
from training.robustness.statistics import Rate

MOST_SHOWN = 20
"""Above this many classes the page shows the worst ones, and matrices without numbers."""
WORST = 10


@dataclass(frozen=True)
class ClassRow:
    """A class that has evaluated examples; ``label`` is its number."""

    label: int
    name: str
    natural: Rate
    robust: Share


def label_names(result: EvaluationResult, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a name for each label.

    Args:
        result: it names the classes that have evaluated examples, in the order of their labels.
        given: a name for each label; without it, labels without examples are called by their number.
    """
    found = iter(result.classes)
    names = tuple(next(found).name if any(row) else f"class {label}" for label, row in _rows(result))
    return tuple(name_label(given, label) for label in range(len(names))) if given else names


def name_label(names: Sequence[str], label: int) -> str:
    """Return the name of a label, or its number where there is none."""
    return names[label] if label < len(names) else f"class {label}"


def class_rows(result: EvaluationResult, names: Sequence[str]) -> tuple[ClassRow, ...]:
    """Return the classes that have examples, in the order of their labels."""
    labels = [label for label, row in _rows(result) if any(row)]
    return tuple(
        ClassRow(label, name_label(names, label), found.natural, found.robust)
        for label, found in zip(labels, result.classes, strict=True)
    )


def worst_first(rows: Sequence[ClassRow]) -> tuple[ClassRow, ...]:
    """Order classes by robust accuracy, then natural accuracy, the worst first."""
    return tuple(sorted(rows, key=lambda row: (row.robust.value, row.natural.value, row.label)))


def _rows(result: EvaluationResult) -> list[tuple[int, tuple[int, ...]]]:
    return list(enumerate(result.confusion))
