"""The user's own shifted test set: what moved, and how much of the loss other class shares explain."""

from training.robustness.reporting.wording import percentage, points
from training.robustness.results import ShiftedSetResult
from training.robustness.statistics import Rate


def explain_shift(shifted: ShiftedSetResult, natural: Rate) -> str:
    """Divide the change from the test side into what the class shares explain and what the images do."""
    change = shifted.natural.value - natural.value
    by_labels = shifted.natural_reweighted - natural.value
    return (
        f"Against the test side accuracy changes by {points(change)} points. With the class shares of the "
        f"shifted set the test side itself would give {percentage(shifted.natural_reweighted)}: other class "
        f"shares alone explain {points(by_labels)} points, and different images the other "
        f"{points(change - by_labels)}."
    )
