"""Random numbers that depend on their key and row alone."""

import numpy as np
import pytest

from training.randomness import derive_seed, normal, permutation, uniform


def test_a_row_does_not_depend_on_the_others() -> None:
    whole = uniform(3, np.arange(1000), 5)
    pick = np.array([999, 0, 41, 41])
    assert np.array_equal(uniform(3, pick, 5), whole[pick])
    assert np.array_equal(normal(3, pick, 5), normal(3, np.arange(1000), 5)[pick])


def test_a_column_does_not_depend_on_how_many_there_are() -> None:
    assert np.array_equal(uniform(3, np.arange(9), 7)[:, :2], uniform(3, np.arange(9), 2))


def test_uniform_numbers_are_spread_evenly() -> None:
    draws = uniform(0, np.arange(2000), 10)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 2000).max() < 200
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.var() == pytest.approx(1 / 12, abs=0.002)


def test_columns_rows_and_keys_are_not_correlated() -> None:
    draws, others = uniform(0, np.arange(2000), 4), uniform(1, np.arange(2000), 4)
    pairs = [(draws[:, 0], draws[:, 1]), (draws[:-1, 0], draws[1:, 0]), (draws[:, 0], others[:, 0])]
    for a, b in pairs:
        assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.08


def test_normal_numbers_have_normal_moments() -> None:
    draws = normal(0, np.arange(4000), 10)
    assert np.isfinite(draws).all()
    assert draws.mean() == pytest.approx(0.0, abs=0.02)
    assert draws.std() == pytest.approx(1.0, abs=0.02)
    assert (draws**4).mean() == pytest.approx(3.0, abs=0.15)
    assert (np.abs(draws) < 1.96).mean() == pytest.approx(0.95, abs=0.005)


def test_seeds_are_below_2_to_the_53_and_differ_by_name() -> None:
    seeds = {derive_seed(0, "epoch", number) for number in range(1000)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**53
    assert max(seeds) > 2**52
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert derive_seed(0, "a") != derive_seed(1, "a")


def splitmix(state: int) -> int:
    """Steele, Lea and Flood's finaliser in whole numbers."""
    mask = 2**64 - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_the_numbers_are_these_on_every_machine() -> None:
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    assert splitmix(golden) == 0xE220A8397B1DCDAF  # SplitMix64's published first output for seed 0
    seed = derive_seed(0, "student")
    assert seed == 399_645_149_502_470
    for row, draws in zip((0, 5, 10**9), uniform(seed, np.array([0, 5, 10**9]), 3), strict=True):
        key = splitmix((seed + golden * (row + 1)) & mask)
        wanted = [splitmix((key + golden * column) & mask) >> 11 for column in (1, 2, 3)]
        assert draws.tolist() == [number * 2.0**-53 for number in wanted]


def test_the_largest_seed_and_rows_wrap_without_a_warning() -> None:
    assert uniform(2**53 - 1, np.array([2**53]), 2).shape == (1, 2)


def test_a_permutation_holds_every_row_once_and_depends_on_the_seed() -> None:
    order = permutation(5, 100)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, permutation(5, 100))
    assert not np.array_equal(order, permutation(6, 100))
