"""Intervals against published numbers and by simulation, McNemar's test, and how many examples it takes."""

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError
from scipy.stats import binom, norm

from training.robustness.statistics import (
    Estimate,
    Rate,
    advise_examples,
    compare_paired,
    estimate_of,
    examples_for,
    margin_of,
    paired_difference,
    two_phase,
    wilson,
)

BoolArray = npt.NDArray[np.bool_]


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),  # the same
        (0, 20, 0.0, 0.1611),  # the same
        (1, 29, 0.0061, 0.1718),  # the same
        (5000, 10_000, 0.4902, 0.5098),
    ],
)
def test_wilson_intervals_are_the_published_ones(count: int, n: int, low: float, high: float) -> None:
    rate = Rate(count=count, n=n)
    assert rate.low == pytest.approx(low, abs=5e-5)
    assert rate.high == pytest.approx(high, abs=5e-5)
    assert rate.value == count / n


def test_the_ends_solve_wilsons_equation() -> None:
    z = 1.959963984540054
    for count, n in ((3, 7), (250, 300), (1, 1), (0, 1)):
        rate = Rate(count=count, n=n)
        for end in (rate.low, rate.high):
            if 0 < end < 1:
                assert abs(rate.value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-9)
        assert 0.0 <= rate.low <= rate.value <= rate.high <= 1.0


def test_a_dump_holds_the_interval() -> None:
    assert set(Rate(count=1, n=2).model_dump()) == {"count", "n", "value", "low", "high"}


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 5), (6, 5), (1, -1)])
def test_what_is_no_share_is_refused(count: int, n: int) -> None:
    with pytest.raises(ValidationError):
        Rate(count=count, n=n)


def test_a_paired_difference_is_of_the_same_examples() -> None:
    ours = np.array([True] * 60 + [False] * 40)
    theirs = np.array([True] * 50 + [False] * 50)
    found = paired_difference(ours, theirs)
    spread = math.sqrt(0.1 - 0.1**2) / 10  # ten of a hundred examples differ, all one way
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - 1.959964 * spread, rel=1e-6)
    assert found.high == pytest.approx(0.1 + 1.959964 * spread, rel=1e-6)


def test_pairing_matters() -> None:
    ours = np.array([True] * 60 + [False] * 40)
    apart = paired_difference(ours, np.roll(ours, 50))
    assert apart.value == 0.0
    assert apart.high - apart.low > 0.1
    same = paired_difference(ours, ours)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_difference_has_a_sign() -> None:
    ours, theirs = np.array([False, False, True]), np.array([True, True, True])
    assert paired_difference(ours, theirs).value == pytest.approx(-2 / 3)


@pytest.mark.parametrize("n", [1, 34, 36, 41, 44, 999])
def test_the_value_is_within_its_own_interval_at_the_ends(n: int) -> None:
    for rate in (Rate(count=0, n=n), Rate(count=n, n=n)):
        assert rate.low <= rate.value <= rate.high


# --- other intervals ------------------------------------------------------------------------------


def test_a_wider_interval_takes_another_quantile() -> None:
    for count, n in ((3, 7), (250, 300)):
        low, high = wilson(count / n, n, float(norm.ppf(0.9875)))
        rate = Rate(count=count, n=n)
        assert low < rate.low < rate.high < high
    assert norm.ppf(0.975) == pytest.approx(1.959963984540054, abs=1e-12)


def test_a_mean_share_has_the_interval_of_one_share_of_as_many_images() -> None:
    found, rate = estimate_of(0.7, 200), Rate(count=140, n=200)
    assert (found.value, found.low, found.high) == pytest.approx((rate.value, rate.low, rate.high))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.01, 1.01])
def test_an_estimate_that_is_no_share_is_refused(bad: float) -> None:
    for name in ("value", "low", "high"):
        fields = {"value": 0.5, "low": 0.4, "high": 0.6} | {name: bad}
        with pytest.raises(ValidationError):
            Estimate.model_validate(fields)
        with pytest.raises(ValidationError):
            Estimate.model_validate_json(json.dumps(fields))


def test_a_share_after_two_phases_is_the_product_and_its_interval_is_wider() -> None:
    found = two_phase(Rate(count=600, n=1000), Rate(count=40, n=50))
    assert found.value == pytest.approx(0.48)
    quantile = float(norm.ppf(0.9875))
    ends = [wilson(0.6, 1000, quantile), wilson(0.8, 50, quantile)]
    assert found.low == pytest.approx(ends[0][0] * ends[1][0])
    assert found.high == pytest.approx(ends[0][1] * ends[1][1])
    whole = Rate(count=480, n=1000)
    assert found.low < whole.low < whole.high < found.high


@pytest.mark.parametrize(("first", "second"), [(0.6, 0.8), (0.05, 0.5), (0.95, 0.97), (0.3, 0.02)])
@pytest.mark.parametrize(("n", "sample"), [(1000, 50), (200, 100), (60, 10)])
def test_the_interval_of_two_phases_covers_the_truth_at_least_95_times_in_100(
    first: float, second: float, n: int, sample: int
) -> None:
    left = np.arange(1, n + 1)
    covered = 1.0 - float(binom.pmf(0, n, first))
    for count, chance in zip(left, binom.pmf(left, n, first), strict=True):
        if chance < 1e-9:
            covered -= chance
            continue
        drawn = min(sample, int(count))
        missed = [
            float(binom.pmf(stands, drawn, second))
            for stands in range(drawn + 1)
            if not _covers(first * second, Rate(count=count, n=n), Rate(count=stands, n=drawn))
        ]
        covered -= chance * sum(missed)
    assert covered >= 0.95


def _covers(truth: float, first: Rate, second: Rate) -> bool:
    found = two_phase(first, second)
    return found.low <= truth <= found.high


# --- comparisons ----------------------------------------------------------------------------------


def outcomes(both: int, gained: int, lost: int, neither: int) -> tuple[BoolArray, BoolArray]:
    counts = [both, gained, lost, neither]
    ours = np.repeat([True, True, False, False], counts)
    return ours, np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 5, 0.0625),  # 2 / 2^5
        (1, 4, 0.375),  # 2 (1 + 5) / 2^5
        (10, 2, 79 * 2 / 4096),  # 1 + 12 + 66 = 79 ways, two-sided
        (3, 3, 1.0),
        (0, 0, 1.0),
        (5, 15, 0.04138946533203125),
    ],
)
def test_mcnemars_test_is_the_exact_binomial_one(gained: int, lost: int, p_value: float) -> None:
    for both, neither in ((0, 0), (40, 7)):
        if gained + lost + both + neither == 0:
            continue
        found = compare_paired(*outcomes(both, gained, lost, neither))
        assert (found.gained, found.lost, found.n) == (gained, lost, gained + lost + both + neither)
        assert found.p_value == pytest.approx(p_value)
        assert found.difference.value == pytest.approx((gained - lost) / found.n)


def test_a_comparison_turned_round_is_the_same_with_the_other_sign() -> None:
    ours, theirs = outcomes(30, 9, 2, 5)
    there, back = compare_paired(ours, theirs), compare_paired(theirs, ours)
    assert (there.gained, there.lost) == (back.lost, back.gained) == (9, 2)
    assert there.p_value == back.p_value
    assert there.difference.low == pytest.approx(-back.difference.high)


@pytest.mark.parametrize("decided", [5, 6, 17, 40])
def test_where_there_is_no_difference_the_test_finds_one_at_most_5_times_in_100(decided: int) -> None:
    found = [
        compare_paired(*outcomes(3, gained, decided - gained, 3)).p_value for gained in range(decided + 1)
    ]
    chances = binom.pmf(np.arange(decided + 1), decided, 0.5)
    assert float(chances[np.array(found) < 0.05].sum()) <= 0.05


# --- how many examples ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "n"), [(0.01, 9604), (0.05, 385), (0.02, 2401), (0.005, 38415), (0.001, 960365)]
)
def test_a_margin_takes_the_textbook_number_of_examples(margin: float, n: int) -> None:
    assert examples_for(margin) == n
    assert margin_of(n) <= margin < margin_of(n - 1)


def test_a_share_far_from_a_half_takes_fewer_examples() -> None:
    assert examples_for(0.01, value=0.9) == 3458
    assert margin_of(3458, value=0.9) <= 0.01


@pytest.mark.parametrize(("n", "points"), [(10_000, 0.98), (1000, 3.1), (300, 5.66)])
def test_margins_are_the_published_ones(n: int, points: float) -> None:
    assert 100 * margin_of(n) == pytest.approx(points, abs=0.005 if n != 1000 else 0.05)
    rate = Rate(count=n // 2, n=n)
    assert (rate.high - rate.low) / 2 == pytest.approx(margin_of(n), rel=0.01)


@pytest.mark.parametrize(
    ("n", "points", "wanted"),
    [
        (100, "9.8", "5 you need 385"),
        (1000, "3.1", "2 you need 2,401"),
        (10_000, "1.0", "0.5 you need 38,415"),
    ],
)
def test_the_advice_says_what_the_examples_tell_and_what_more_would(n: int, points: str, wanted: str) -> None:
    sign = "\N{PLUS-MINUS SIGN}"
    assert advise_examples(n) == f"{n:,} examples give {sign}{points} points at worst; for {sign}{wanted}"


@pytest.mark.parametrize("n", [1, 50, 385, 9604, 50_000, 500_000])
def test_the_advice_always_asks_for_more(n: int) -> None:
    wanted = int(advise_examples(n).rsplit(" ", 1)[1].replace(",", ""))
    assert wanted > n
