"""Wilson intervals against published numbers, and paired differences."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from training.robustness.statistics import Rate, paired_difference


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
