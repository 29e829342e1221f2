"""An evaluation in the small forms that a platform's user interface draws: scalars and a confusion matrix."""

from collections import Counter
from collections.abc import Sequence

from training.robustness.reporting.classes import label_names
from training.robustness.results import EvaluationResult


def scalar_summary(result: EvaluationResult) -> dict[str, float]:
    """Return each metric that a gate may name with the ends of its interval, and how the checks went.

    A check is 1 if it passed and 0 if it failed or was not run; the counts tell those two apart.
    """
    values: dict[str, float] = {}
    for name, share in result.metrics.items():
        values |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    teacher = result.shift.mean(of_teacher=True)
    if teacher is not None:
        values["corruption_teacher"] = teacher
    values |= {f"sanity_{check.name}": float(check.status == "passed") for check in result.sanity}
    found = Counter(check.status for check in result.sanity)
    for status in ("passed", "failed", "not run"):
        values[f"sanity_checks_{status.replace(' ', '_')}"] = float(found[status])
    return values


def classification_summary(
    result: EvaluationResult, class_names: Sequence[str] = (), *, worst: bool = False
) -> tuple[list[str], list[list[int]]]:
    """Return class names and the confusion matrix, true class (row) against predicted class (column).

    Args:
        result: what the evaluation found.
        class_names: a name for each label; without it, labels without examples are called by their number.
        worst: the matrix of the worst images found instead of the natural ones.
    """
    table = result.robust_confusion if worst else result.confusion
    return _distinct(label_names(result, class_names)), [list(row) for row in table]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the names that stand twice: a matrix whose rows are found by name needs each of them once."""
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} ({label})" if name in twice else name for label, name in enumerate(names)]
