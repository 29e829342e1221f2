"""Snapshots on disk: whole, repeatable, and refused when damaged."""

from pathlib import Path

import numpy as np
import pytest

from training.artefact import publish
from training.config import Data, DataGate, Digits, Limits, Split
from training.data.gate import ClassCounts
from training.data.raw import RawData, RawSide
from training.data.snapshot import channel_statistics, load_side, read_info, write_snapshot
from training.data.sources import load_source
from training.data.split import SIDES, SideName, divide
from training.errors import ArtefactError, DataError

DATA = Data(limits=Limits(train=200, test=60))


@pytest.fixture(scope="module", name="digits")
def _digits() -> RawData:
    return load_source(Digits(), None)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_snapshot_holds_the_division(tmp_path: Path, digits: RawData) -> None:
    info = write_snapshot(tmp_path, digits, DATA)
    division = divide(digits, DATA.split, DATA.limits)
    for side in SIDES:
        loaded = load_side(tmp_path, side)
        assert np.array_equal(loaded.images, division.side(side).images)
        assert np.array_equal(loaded.labels, division.side(side).labels)
        assert info.counts[side] == division.counts(side)
    assert read_info(tmp_path) == info
    assert info.shape == (8, 8, 1)
    assert info.source == "digits"
    assert sum(info.counts["train"]) == 200
    assert isinstance(load_side(tmp_path, "train").images, np.memmap)
    assert set(content(tmp_path)) == {"snapshot.json"} | {
        f"{side}_{array}.npy" for side in SIDES for array in ("images", "labels")
    }


def test_the_same_data_give_the_same_bytes_whatever_came_before(tmp_path: Path, digits: RawData) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    info = write_snapshot(first, digits, DATA)
    shifted = tuple(count + index for index, count in enumerate(info.counts["train"]))
    write_snapshot(second, digits, DATA, ClassCounts(class_names=info.class_names, train=shifted))
    assert content(first) == content(second)


@pytest.mark.parametrize(
    "change", [{"split": Split(seed=1)}, {"limits": Limits(train=201, test=60)}, {"limits": Limits()}]
)
def test_other_configuration_gives_other_bytes(
    tmp_path: Path, digits: RawData, change: dict[str, object]
) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    write_snapshot(first, digits, DATA)
    write_snapshot(second, digits, DATA.model_copy(update=change))
    assert content(first)["train_images.npy"] != content(second)["train_images.npy"]


def test_normalisation_is_of_train_in_pixel_units(tmp_path: Path, digits: RawData) -> None:
    info = write_snapshot(tmp_path, digits, DATA)
    pixels = load_side(tmp_path, "train").images / 255
    assert info.normalisation.mean == pytest.approx((pixels.mean(),), rel=1e-12)
    assert info.normalisation.std == pytest.approx((pixels.std(),), rel=1e-12)


def test_channels_are_normalised_apart_and_constants_stay_finite() -> None:
    images = np.zeros((5, 2, 2, 3), np.uint8)
    images[..., 1] = 255
    images[:, 0, :, 2] = 255
    found = channel_statistics(images)
    assert found.mean == (0.0, 1.0, 0.5)
    assert found.std == (1 / 255, 1 / 255, 0.5)


def test_a_refused_snapshot_leaves_nothing(tmp_path: Path, digits: RawData) -> None:
    twice = RawData(
        RawSide(np.repeat(digits.train.images, 2, axis=0), np.repeat(digits.train.labels, 2)),
        None,
        digits.class_names,
    )
    with pytest.raises(DataError, match="max_duplicate_share"), publish(tmp_path / "out") as folder:
        write_snapshot(folder, twice, Data(gate=DataGate()))
    assert list(tmp_path.iterdir()) == []


def test_unlabelled_data_are_refused_before_they_are_divided(tmp_path: Path, digits: RawData) -> None:
    labels = digits.train.labels.copy()
    labels[17] = 10
    bad = RawData(RawSide(digits.train.images, labels), None, digits.class_names)
    with pytest.raises(DataError, match=r"digits: .*train row 17 \(label 10\)"):
        write_snapshot(tmp_path, bad, DATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("validation_images.npy", b""),
        ("validation_images.npy", b"\x93NUMPY\x01\x00"),
        ("validation_images.npy", b"\x80\x04K\x01."),
        ("validation_labels.npy", None),
    ],
)
def test_damaged_arrays_are_refused(
    tmp_path: Path, digits: RawData, name: str, damaged: bytes | None
) -> None:
    write_snapshot(tmp_path, digits, DATA)
    (tmp_path / name).unlink()
    if damaged is not None:
        (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ArtefactError, match=name):
        load_side(tmp_path, "validation")


@pytest.mark.parametrize(
    ("side", "labels"), [("train", np.zeros(3, np.int64)), ("test", np.zeros(60, np.int32))]
)
def test_arrays_of_another_form_are_refused(
    tmp_path: Path, digits: RawData, side: SideName, labels: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    write_snapshot(tmp_path, digits, DATA)
    np.save(tmp_path / f"{side}_labels.npy", labels)
    with pytest.raises(ArtefactError, match=rf"{side} is uint8 .* labels {labels.dtype}"):
        load_side(tmp_path, side)


@pytest.mark.parametrize("text", [None, "", "{}", '{"source": "digits", "surplus": 1}'])
def test_a_damaged_description_is_refused(tmp_path: Path, digits: RawData, text: str | None) -> None:
    write_snapshot(tmp_path, digits, DATA)
    (tmp_path / "snapshot.json").unlink()
    if text is not None:
        (tmp_path / "snapshot.json").write_text(text)
    with pytest.raises(ArtefactError, match="make the snapshot again"):
        read_info(tmp_path)
