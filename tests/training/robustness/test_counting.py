"""From outcomes to shares: plain counts, and honest estimates where a budget left examples out."""

import numpy as np
import numpy.typing as npt
import pytest

from training.config import ApgdCeAttack, ApgdTargetedAttack, EvaluationAttack, SquareAttack
from training.robustness.counting import (
    attack_results,
    class_results,
    confusion,
    left_out,
    rate,
    skipped_in_words,
    standing,
)
from training.robustness.results import Outcomes
from training.robustness.statistics import Estimate, Rate, two_phase

BoolArray = npt.NDArray[np.bool_]
ATTACKS: tuple[EvaluationAttack, ...] = (ApgdCeAttack(), ApgdTargetedAttack(targets=2), SquareAttack())


def outcomes(
    labels: list[int], predictions: list[int], stands: list[list[int]], attacked: list[list[int]]
) -> Outcomes:
    """Write 0 and 1 for false and true; the worst prediction of what fell is the class after its own."""
    true, natural = np.array(labels), np.array(predictions)
    stood = np.array(stands, dtype=bool)
    return Outcomes(
        rows=np.arange(len(labels)),
        labels=true,
        predictions=natural,
        worst_predictions=np.where(stood[-1], true, (true + 1) % 3),
        stands=stood,
        attacked=np.array(attacked, dtype=bool),
    )


# Ten examples of three classes; the last two are wrong as they are.
LABELS, PREDICTIONS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 0, 1]
WHOLE = outcomes(
    LABELS,
    PREDICTIONS,
    [[1, 1, 0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 1, 1, 0, 0, 0]],
    [[1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1, 1, 0, 0, 0]],
)
# The same under a budget of three survivors, two of class 0 and one of class 1: none of class 2 is seen.
BUDGETED = outcomes(
    LABELS,
    PREDICTIONS,
    [[1, 1, 0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 1, 1, 0, 0, 0]],
    [[1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]],
)
EVERYONE = np.ones(10, dtype=bool)


def of_class(label: int) -> BoolArray:
    mine: BoolArray = np.array(LABELS) == label
    return mine


# --- without a budget -----------------------------------------------------------------------------


def test_without_a_budget_what_stands_is_counted() -> None:
    assert [standing(WHOLE, attack, EVERYONE) for attack in range(3)] == [
        Rate(count=6, n=10),
        Rate(count=5, n=10),
        Rate(count=4, n=10),
    ]
    assert standing(WHOLE, 2, of_class(0)) == Rate(count=1, n=3)


def test_without_a_budget_nothing_is_left_out() -> None:
    assert not any(left_out(WHOLE, attack).any() for attack in range(3))
    assert skipped_in_words(WHOLE, ATTACKS) == ()


def test_each_attack_is_told_by_what_it_was_given_and_what_it_broke() -> None:
    found = attack_results(WHOLE, ATTACKS, 3)
    assert [(one.attacked, one.broken, one.skipped) for one in found] == [(8, 2, 0), (6, 1, 0), (5, 1, 0)]
    assert [one.robust for one in found] == [Rate(count=count, n=10) for count in (6, 5, 4)]
    assert [one.attack for one in found] == list(ATTACKS)
    assert [one.loss for one in found] == ["cross-entropy", "targeted margin", "margin, without gradients"]


def test_classes_are_counted_apart_and_one_without_examples_is_left_out() -> None:
    found = class_results(WHOLE, ("a", "b", "c", "never seen"))
    assert [one.name for one in found] == ["a", "b", "c"]
    assert [one.natural for one in found] == [
        rate(np.array(hits, bool)) for hits in ([1] * 3, [1] * 3, [1, 1, 0, 0])
    ]
    assert [one.robust for one in found] == [Rate(count=1, n=3), Rate(count=2, n=3), Rate(count=1, n=4)]


def test_a_confusion_has_true_classes_in_its_rows() -> None:
    counts = confusion(np.array(LABELS), np.array(PREDICTIONS), 4)
    assert counts == ((3, 0, 0, 0), (0, 3, 0, 0), (1, 1, 2, 0), (0, 0, 0, 0))
    assert sum(map(sum, counts)) == 10
    assert confusion(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 2) == ((0, 0), (0, 0))


def test_a_rate_counts_hits() -> None:
    assert rate(np.array([True, False, True])) == Rate(count=2, n=3)


# --- under a budget -------------------------------------------------------------------------------


def test_left_out_is_what_stood_and_was_not_attacked() -> None:
    assert left_out(BUDGETED, 0).sum() == 0
    assert left_out(BUDGETED, 1).nonzero()[0].tolist() == [3, 5, 6]
    assert left_out(BUDGETED, 2).nonzero()[0].tolist() == [3, 5, 6]
    assert skipped_in_words(BUDGETED, ATTACKS) == (
        "apgd_t was not run on 3 standing examples",
        "square was not run on 3 standing examples",
    )
    assert [one.skipped for one in attack_results(BUDGETED, ATTACKS, 3)] == [0, 3, 3]


def test_what_stands_is_what_the_first_attack_left_times_what_the_others_left_of_those_they_saw() -> None:
    assert standing(BUDGETED, 0, EVERYONE) == Rate(count=6, n=10)
    assert standing(BUDGETED, 1, EVERYONE) == two_phase(Rate(count=6, n=10), Rate(count=2, n=3))
    assert standing(BUDGETED, 2, EVERYONE) == two_phase(Rate(count=6, n=10), Rate(count=1, n=3))


def test_a_class_of_which_all_were_seen_is_counted() -> None:
    assert standing(BUDGETED, 2, of_class(0)) == Rate(count=1, n=3)


def test_a_class_of_which_some_were_seen_is_estimated_by_those() -> None:
    assert standing(BUDGETED, 2, of_class(1)) == two_phase(Rate(count=3, n=3), Rate(count=0, n=1))


def test_a_class_of_which_none_was_seen_may_be_anything_up_to_what_the_first_attack_left() -> None:
    found = standing(BUDGETED, 2, of_class(2))
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(1 / 4 * 1 / 3)
    assert found.low == 0.0
    assert found.high == Rate(count=1, n=4).high


@pytest.mark.parametrize(("first", "second"), [(0.7, 0.6), (0.3, 0.9)])
def test_the_estimate_covers_what_a_run_without_a_budget_would_count(first: float, second: float) -> None:
    generator = np.random.default_rng(0)
    n, survivors, covered, values, truths = 200, 40, 0, [], []
    for _ in range(300):
        by_first = generator.random(n) < first
        by_both = by_first & (generator.random(n) < second)
        seen = np.zeros(n, dtype=bool)
        left = by_first.nonzero()[0]
        seen[generator.choice(left, min(survivors, len(left)), replace=False)] = True
        found = standing(
            Outcomes(
                rows=np.arange(n),
                labels=np.zeros(n, np.int64),
                predictions=np.zeros(n, np.int64),
                worst_predictions=np.zeros(n, np.int64),
                stands=np.stack([by_first, by_first & (~seen | by_both)]),
                attacked=np.stack([np.ones(n, dtype=bool), seen]),
            ),
            1,
            np.ones(n, dtype=bool),
        )
        truth = float(by_both.mean())
        covered += found.low <= truth <= found.high
        values.append(found.value)
        truths.append(truth)
    assert covered >= 0.95 * 300
    assert float(np.mean(values)) == pytest.approx(float(np.mean(truths)), abs=0.01)
