"""The data gate: each bound kept, met exactly, and passed."""

import numpy as np
import pytest
from pydantic import ValidationError

from training.config import DataGate, Limits, Split
from training.data.gate import ClassCounts, GateReport, check
from training.data.raw import RawData, RawSide
from training.data.schema import check_schema
from training.data.split import Division, Selection, divide
from training.errors import DataError

RNG = np.random.default_rng(2)
IMAGES = RNG.integers(0, 256, (400, 4, 4, 3), np.uint8)
LABELS = np.arange(400, dtype=np.int64) % 2
OPEN = DataGate(
    max_duplicate_share=1, max_leaked_share=1, max_conflicting_labels=10**6, max_class_share_change=1
)


def division(raw: RawData) -> Division:
    return divide(raw, Split(), Limits())


def data(extra: list[int], labels: list[int] | None = None, *, names: bool = False) -> RawData:
    """Return 300 images and repeats of some of them, with a fixed test set of 100 others."""
    rows = np.array([*range(300), *extra])
    own = LABELS[rows]
    if labels is not None:
        own[300:] = labels
    text = tuple(f"dir/{row}.png" for row in range(len(rows))) if names else None
    return RawData(
        RawSide(IMAGES[rows], own, "train", text), RawSide(IMAGES[300:], LABELS[300:], "test"), ("cat", "dog")
    )


def leaky(rows: list[int]) -> RawData:
    raw = data([])
    test = RawSide(
        np.concatenate([IMAGES[300:], IMAGES[rows]]), np.append(LABELS[300:], LABELS[rows]), "test"
    )
    return RawData(raw.train, test, raw.class_names)


def train_rows(count: int) -> list[int]:
    return [int(row) for row in division(data([])).train.rows[:count]]


def refusal(raw: RawData, gate: DataGate, last: ClassCounts | None = None) -> str:
    with pytest.raises(DataError) as caught:
        check(division(raw), gate, last)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clean_data_pass_the_strictest_gate() -> None:
    gate = DataGate(
        max_duplicate_share=0, max_leaked_share=0, max_conflicting_labels=0, max_class_share_change=0
    )
    divided = division(data([]))
    last = ClassCounts(class_names=("cat", "dog"), train=divided.counts("train"))
    report = check(divided, gate, last)
    assert report == GateReport(
        duplicate_rows=0, duplicate_share=0, leaked_rows=0, leaked_share=0, conflicting_images=0
    )


def test_duplicates_are_counted_beyond_the_first() -> None:
    row = train_rows(1)[0]
    divided = division(data([row] * 4))
    report = check(divided, OPEN)
    assert report.duplicate_rows == 4
    assert report.duplicate_share == 4 / len(divided.train.rows)
    at_bound = DataGate(**{**OPEN.model_dump(), "max_duplicate_share": report.duplicate_share})
    assert check(divided, at_bound).duplicate_rows == 4


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (False, "train row 300, train row 301, train row 302, train row 303, train row 304 and 2 more"),
        (True, "dir/300.png, dir/301.png, dir/302.png, dir/303.png, dir/304.png and 2 more"),
    ],
)
def test_duplicates_above_the_bound_are_named(*, names: bool, expected: str) -> None:
    message = refusal(data(train_rows(7), names=names), DataGate())
    assert "duplicate share 0.02" in message
    assert "above data.gate.max_duplicate_share 0.02" in message
    assert expected in message


def test_duplicates_on_other_sides_are_no_duplicates_of_train() -> None:
    row = int(division(data([])).validation.rows[0])
    assert check(division(data([row] * 30)), OPEN).duplicate_rows == 0


def test_leaks_into_a_fixed_test_set_are_refused() -> None:
    raw = leaky(train_rows(2))
    message = refusal(raw, DataGate())
    assert "above data.gate.max_leaked_share 0.001" in message
    assert "test row 100, test row 101 stand in train too" in message
    report = check(division(raw), OPEN)
    assert report.leaked_rows == 2
    divided = division(raw)
    assert report.leaked_share == 2 / (len(divided.validation.rows) + len(divided.test.rows))


def test_conflicting_labels_are_counted_by_image() -> None:
    first, second = train_rows(2)
    wrong = [1 - int(LABELS[first])] * 2 + [1 - int(LABELS[second])]
    raw = data([first, first, second], wrong)
    assert check(division(raw), OPEN).conflicting_images == 2
    message = refusal(raw, DataGate(**{**OPEN.model_dump(), "max_conflicting_labels": 1}))
    assert "2 images with conflicting labels, above data.gate.max_conflicting_labels 1" in message
    assert f"train row {first} ({('cat', 'dog')[LABELS[first]]})" in message
    assert "train row 302" in message


def test_conflicts_across_sides_count() -> None:
    raw = leaky(train_rows(1))
    assert raw.test is not None
    raw.test.labels[-1] = 1 - raw.test.labels[-1]
    assert check(division(raw), OPEN).conflicting_images == 1


def test_a_shift_of_class_shares_is_refused() -> None:
    divided = division(data([]))
    cats, dogs = divided.counts("train")
    last = ClassCounts(class_names=("cat", "dog"), train=(cats * 3, dogs))
    message = refusal(data([]), DataGate(), last)
    change = 3 * cats / (3 * cats + dogs) - cats / (cats + dogs)
    assert f"class share change of {change:.4g} above data.gate.max_class_share_change 0.1" in message
    assert "class cat" in message
    assert check(divided, OPEN, last).duplicate_rows == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("cat", "fox"), "dog, fox came or went"),
        (("dog", "cat"), "their order changed"),
        (("cat", "dog", "fox"), "fox came or went"),
    ],
)
def test_other_class_names_than_the_last_snapshot_are_refused(names: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(data([]), OPEN, ClassCounts(class_names=names, train=(100,) * len(names)))


@pytest.mark.parametrize("train", [(5,), (5, 0), (5, -1), (1, 2, 3)])
def test_class_counts_must_fit_their_names(train: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        ClassCounts(class_names=("a", "b"), train=train)


GREY = np.zeros((4, 2, 2, 1), np.uint8)
TWO = np.arange(4, dtype=np.int64) % 2


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (RawData(RawSide(GREY.astype(np.float32), TWO), None, ("a", "b")), "train images are float32"),
        (RawData(RawSide(GREY, TWO.astype(np.int32)), None, ("a", "b")), "labels int32"),
        (RawData(RawSide(GREY[..., 0], TWO), None, ("a", "b")), "shape (4, 2, 2)"),
        (RawData(RawSide(np.repeat(GREY, 4, axis=3), TWO), None, ("a", "b")), "shape (4, 2, 2, 4)"),
        (RawData(RawSide(GREY[:0], TWO[:0]), None, ("a", "b")), "shape (0, 2, 2, 1)"),
        (RawData(RawSide(GREY, TWO[:3]), None, ("a", "b")), "labels of shape (3,)"),
        (RawData(RawSide(GREY, TWO, "train", ("x", "y")), None, ("a", "b")), "2 names"),
        (RawData(RawSide(GREY, TWO * 2), None, ("a", "b")), "train row 1 (label 2), train row 3 (label 2)"),
        (RawData(RawSide(GREY, -TWO), None, ("a", "b")), "train row 1 (label -1)"),
        (RawData(RawSide(GREY, TWO), None, ("a", "b", "c")), "no train images of class c"),
        (RawData(RawSide(GREY, TWO), None, ("a",)), "1 class (a)"),
        (RawData(RawSide(GREY, TWO), None, ("a", " ")), "class name ' ' is empty"),
    ],
)
def test_schema_names_what_is_wrong(raw: RawData, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        check_schema(raw, "here")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("here: ")


def test_leaks_into_validation_count_too() -> None:
    divided = division(data([]))
    mixed = Selection(
        divided.validation.part,
        np.append(divided.validation.rows, divided.train.rows[0]),
        np.concatenate([divided.validation.keys, divided.train.keys[:1]]),
    )
    report = check(Division(divided.class_names, divided.train, mixed, divided.test), OPEN)
    assert report.leaked_rows == 1
