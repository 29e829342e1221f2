"""The division: stable under growth, shared by duplicates, stratified under limits."""

from collections import Counter

import numpy as np
import pytest

from training.config import Limits, Split
from training.data.raw import RawData, RawSide
from training.data.split import SIDES, Division, allot, divide, fractions, image_keys
from training.errors import DataError

RNG = np.random.default_rng(1)
POOL = RNG.integers(0, 256, (900, 4, 3, 1), np.uint8)
LABELS = np.arange(900, dtype=np.int64) % 3
ALL = Limits()


def raw_data(n: int = 900, *, test: int = 0) -> RawData:
    fixed = RawSide(POOL[-test:], LABELS[-test:], "test") if test else None
    return RawData(RawSide(POOL[:n], LABELS[:n]), fixed, ("a", "b", "c"))


def sides(division: Division) -> dict[int, str]:
    return {int(row): side for side in SIDES for row in division.side(side).rows}


def refusal(raw: RawData, split: Split, limits: Limits = ALL) -> str:
    with pytest.raises(DataError) as caught:
        divide(raw, split, limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_row_is_on_one_side_in_source_order() -> None:
    division = divide(raw_data(), Split(), ALL)
    rows = [division.side(side).rows for side in SIDES]
    assert sorted(np.concatenate(rows).tolist()) == list(range(900))
    assert all(np.all(np.diff(own) > 0) for own in rows)
    assert np.array_equal(division.test.images, POOL[division.test.rows])
    assert np.array_equal(division.test.labels, LABELS[division.test.rows])


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.25), (0.4, 0.3), (0.02, 0.6)])
def test_shares_are_kept_within_chance(validation: float, test: float) -> None:
    split = Split(validation_share=validation, test_share=test, minimum_per_class=1)
    division = divide(raw_data(), split, ALL)
    for side, share in (("validation", validation), ("test", test)):
        spread = 4 * np.sqrt(share * (1 - share) / 900)
        assert abs(len(getattr(division, side).rows) / 900 - share) < spread


@pytest.mark.parametrize("seed", [0, 7, 2**53 - 1])
def test_growth_and_order_never_move_an_example(seed: int) -> None:
    split = Split(seed=seed)
    small, grown = sides(divide(raw_data(400), split, ALL)), sides(divide(raw_data(900), split, ALL))
    assert all(grown[row] == side for row, side in small.items())
    order = RNG.permutation(900)
    shuffled = RawData(RawSide(POOL[order], LABELS[order]), None, ("a", "b", "c"))
    moved = sides(divide(shuffled, split, ALL))
    assert all(moved[index] == grown[int(row)] for index, row in enumerate(order))


def test_duplicates_share_a_side_and_seeds_differ() -> None:
    twice = RawData(RawSide(np.concatenate([POOL, POOL]), np.tile(LABELS, 2)), None, ("a", "b", "c"))
    by_row = sides(divide(twice, Split(), ALL))
    assert all(by_row[row] == by_row[row + 900] for row in range(900))
    assert sides(divide(raw_data(), Split(seed=1), ALL)) != sides(divide(raw_data(), Split(seed=2), ALL))


def test_a_fixed_test_set_is_taken_as_it_is() -> None:
    division = divide(raw_data(800, test=60), Split(validation_share=0.2), ALL)
    assert division.test.rows.tolist() == list(range(60))
    assert np.array_equal(division.test.images, POOL[-60:])
    assert len(division.train.rows) + len(division.validation.rows) == 800
    assert fractions(division.validation.keys).max() < 0.2 <= fractions(division.train.keys).min()


def test_keys_are_told_by_shape_and_pixels() -> None:
    keys = image_keys(POOL, 0)
    assert np.array_equal(keys, image_keys(np.asfortranarray(POOL), 0))
    assert not np.array_equal(keys, image_keys(POOL.reshape(900, 3, 4, 1), 0))
    assert len(np.unique(keys, axis=0)) == 900
    # A new algorithm would move every example of every snapshot that exists.
    assert image_keys(np.zeros((1, 2, 2, 1), np.uint8), 5).tolist() == [
        [6080716817790812678, 18416047491595982849]
    ]


def test_too_few_of_a_class_names_class_side_and_count() -> None:
    labels = np.where(np.arange(900) < 3, 2, np.arange(900) % 2)
    raw = RawData(RawSide(POOL, labels), None, ("a", "b", "rare"))
    message = refusal(raw, Split(minimum_per_class=4))
    assert "class rare has" in message
    assert "images on the train side, below data.split.minimum_per_class 4" in message


@pytest.mark.parametrize("limit", [9, 50, 101, 300])
def test_limits_are_stratified_and_keep_the_source_order(limit: int) -> None:
    labels = np.searchsorted([500, 750], np.arange(900), side="right").astype(np.int64)
    raw = RawData(RawSide(POOL, labels), None, ("a", "b", "c"))
    whole = divide(raw, Split(), ALL)
    part = divide(raw, Split(), Limits(train=limit))
    counts, full = part.counts("train"), whole.counts("train")
    assert sum(counts) == limit
    assert all(abs(n - limit * m / sum(full)) < 2 for n, m in zip(counts, full, strict=True))
    assert np.all(np.diff(part.train.rows) > 0)
    assert set(part.train.rows) <= set(whole.train.rows)
    assert part.counts("test") == whole.counts("test")


def test_a_grown_snapshot_keeps_most_of_a_limited_one() -> None:
    limits = Limits(train=200)
    small = set(divide(raw_data(800), Split(), limits).train.rows.tolist())
    grown = set(divide(raw_data(900), Split(), limits).train.rows.tolist())
    assert len(small & grown) > 0.75 * 200
    assert {row for row in grown if row < 800} <= small


def test_a_limit_beyond_the_data_changes_nothing() -> None:
    limits = Limits(train=10**6, validation=10**6, test=10**6)
    assert sides(divide(raw_data(), Split(), limits)) == sides(divide(raw_data(), Split(), ALL))


def test_a_limit_too_small_for_every_class_is_refused() -> None:
    message = refusal(raw_data(), Split(minimum_per_class=3), Limits(validation=8))
    assert "data.limits.validation is 8, but 3 classes need 3 each" in message
    assert "at least 9" in message


@pytest.mark.parametrize(
    ("counts", "limit", "minimum", "expected"),
    [
        ((50, 30, 20), 10, 1, (5, 3, 2)),
        ((1, 1, 1), 2, 0, (1, 1, 0)),
        ((33, 33, 34), 10, 1, (3, 3, 4)),
        ((980, 10, 10), 20, 2, (16, 2, 2)),
        ((100, 2), 4, 2, (2, 2)),
        ((2, 2, 96), 99, 2, (2, 2, 95)),
        ((997, 1, 1, 1), 10, 1, (7, 1, 1, 1)),
    ],
)
def test_places_are_allotted_by_largest_remainder(
    counts: tuple[int, ...], limit: int, minimum: int, expected: tuple[int, ...]
) -> None:
    assert allot(counts, limit, minimum) == expected


def test_allotment_always_fits() -> None:
    for _ in range(300):
        counts = tuple(RNG.integers(2, 60, RNG.integers(2, 12)).tolist())
        limit = int(RNG.integers(2 * len(counts), sum(counts) + 1))
        places = allot(counts, limit, 2)
        assert sum(places) == limit
        assert all(2 <= place <= count for place, count in zip(places, counts, strict=True))


def test_duplicates_with_different_labels_share_a_side() -> None:
    twins = RawData(RawSide(np.repeat(POOL, 2, axis=0), np.arange(1800) % 2), None, ("a", "b"))
    counts = Counter(sides(divide(twins, Split(), ALL)).values())
    assert all(count % 2 == 0 for count in counts.values())
