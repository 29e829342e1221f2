"""From per-example outcomes to shares with intervals."""

import numpy as np
import numpy.typing as npt

from training.config import EvaluationAttack
from training.robustness.ensemble import loss_name
from training.robustness.results import AttackResult, ClassResult, Outcomes, Share
from training.robustness.statistics import Estimate, Rate, two_phase, wilson

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def rate(hits: BoolArray) -> Rate:
    """Count hits, shape (n,)."""
    return Rate(count=int(hits.sum()), n=len(hits))


def left_out(outcomes: Outcomes, attack: int) -> BoolArray:
    """Tell which examples stood before an attack and were kept from it by a budget, shape (n,)."""
    before = outcomes.stands[attack - 1] if attack else outcomes.predictions == outcomes.labels
    kept_away: BoolArray = before & ~outcomes.attacked[attack]
    return kept_away


def standing(outcomes: Outcomes, attack: int, among: BoolArray) -> Share:
    """Return the share of the examples ``among``, shape (n,), that stands after an attack.

    Where a budget left some out it is an estimate: what the first attack left of all, times what the
    later ones left of those they saw (of the whole test side, where they saw none of these).
    """
    if not (left_out(outcomes, attack) & among).any():
        return rate(outcomes.stands[attack][among])
    first = rate(outcomes.stands[0][among])
    seen = outcomes.attacked[1]
    if (seen & among).any():
        return two_phase(first, rate(outcomes.stands[attack][seen & among]))
    share = float(outcomes.stands[attack][seen].mean())
    return Estimate(value=first.value * share, low=0.0, high=wilson(first.value, first.n)[1])


def attack_results(
    outcomes: Outcomes, attacks: tuple[EvaluationAttack, ...], classes: int
) -> tuple[AttackResult, ...]:
    """Say of each attack what it was given, what it broke, and what stands after it."""
    everyone = np.ones(len(outcomes.labels), dtype=bool)
    before = [outcomes.predictions == outcomes.labels, *outcomes.stands[:-1]]
    return tuple(
        AttackResult(
            attack=attack,
            loss=loss_name(attack, classes),
            attacked=int(outcomes.attacked[number].sum()),
            broken=int(before[number].sum() - outcomes.stands[number].sum()),
            skipped=int(left_out(outcomes, number).sum()),
            robust=standing(outcomes, number, everyone),
        )
        for number, attack in enumerate(attacks)
    )


def class_results(outcomes: Outcomes, names: tuple[str, ...]) -> tuple[ClassResult, ...]:
    """Count within each class that has examples."""
    right = outcomes.predictions == outcomes.labels
    last = len(outcomes.stands) - 1
    return tuple(
        ClassResult(name=name, natural=rate(right[mine]), robust=standing(outcomes, last, mine))
        for label, name in enumerate(names)
        if (mine := outcomes.labels == label).any()
    )


def confusion(labels: IntArray, predictions: IntArray, classes: int) -> tuple[tuple[int, ...], ...]:
    """Count true class (row) against predicted class (column)."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return tuple(tuple(int(count) for count in row) for row in counts.reshape(classes, classes))


def skipped_in_words(outcomes: Outcomes, attacks: tuple[EvaluationAttack, ...]) -> tuple[str, ...]:
    """Say what a budget left out."""
    counts = {attack.name: int(left_out(outcomes, number).sum()) for number, attack in enumerate(attacks)}
    return tuple(
        f"{name} was not run on {count} standing examples" for name, count in counts.items() if count
    )
