"""The dataset step: a refusal publishes nothing; a grown snapshot is compared with the last."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from components.step import execute
from training.artefact import Manifest, open_artefact
from training.data.snapshot import read_info
from training.errors import TemperError

Step: TypeAlias = Callable[[], Manifest]


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> Path:
    """Name an npz file of three classes."""
    return write(tmp_path / "source.npz", {0: 60, 1: 60, 2: 60})


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    return tmp_path / "artefacts" / "dataset"


def write(path: Path, counts: dict[int, int]) -> Path:
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.full(count, label) for label, count in counts.items()])
    images = generator.integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    np.savez(path, x=images, y=labels)
    return path


def make(source: Path, out: Path, **data: object) -> Manifest:
    section = {"source": {"name": "npz", "path": str(source)}, **data}
    return execute("dataset", {"data": section}, {}, out)


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir()) if out.parent.exists() else []


def test_the_same_data_gives_the_same_digest_wherever_it_lies(
    source: Path, out: Path, tmp_path: Path
) -> None:
    first = make(source, out)
    elsewhere = Path(shutil.copy(source, tmp_path / "elsewhere.npz"))
    assert make(elsewhere, tmp_path / "other").digest == first.digest
    assert first.config == {
        "data": {
            "source": {"name": "npz"},
            "split": {"seed": 0, "validation_share": 0.1, "test_share": 0.25, "minimum_per_class": 2},
            "limits": {"train": None, "validation": None, "test": None},
            "gate": first.config["data"]["gate"],  # type: ignore[index]
        }
    }


def test_other_pixels_give_another_digest(source: Path, out: Path, tmp_path: Path) -> None:
    first = make(source, out)
    with np.load(source) as arrays:
        images, labels = arrays["x"], arrays["y"]
    images[0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", x=images, y=labels)
    assert make(tmp_path / "other.npz", tmp_path / "other").digest != first.digest


def test_a_refusal_publishes_nothing(out: Path, tmp_path: Path) -> None:
    with pytest.raises(TemperError, match="class"):
        make(write(tmp_path / "one.npz", {0: 60}), out)
    assert left(out) == []


def test_a_refusal_leaves_an_earlier_artefact_as_it_was(source: Path, out: Path, tmp_path: Path) -> None:
    first = make(source, out)
    (tmp_path / "broken.npz").write_bytes(source.read_bytes()[:500])
    for bad in ("broken.npz", "missing.npz"):
        with pytest.raises(TemperError, match=bad):
            make(tmp_path / bad, out)
    assert open_artefact(out, "snapshot") == first
    assert left(out) == ["dataset"]


def test_the_next_snapshot_is_compared_with_the_last(source: Path, out: Path) -> None:
    first = make(source, out)
    write(source, {0: 60, 1: 60, 2: 600})
    with pytest.raises(TemperError, match=r"went from 0\.\d+ to 0\.\d+ of train"):
        make(source, out)
    assert open_artefact(out, "snapshot") == first
    assert make(source, out, gate={"max_class_share_change": 1.0}).digest != first.digest
    # What was accepted is what the next one is compared with.
    make(source, out)
    assert read_info(out).class_counts.train[2] > 300


def test_a_refused_snapshot_is_not_remembered(source: Path, out: Path) -> None:
    make(source, out)
    good = source.read_bytes()
    write(source, {0: 60, 1: 60, 2: 600})
    for _ in range(2):
        with pytest.raises(TemperError, match="data gate"):
            make(source, out)
    source.write_bytes(good)
    make(source, out)


def test_a_class_that_went_is_refused(source: Path, out: Path) -> None:
    make(source, out)
    write(source, {0: 60, 1: 60})
    with pytest.raises(TemperError, match="class names differ from the last snapshot's"):
        make(source, out)


def test_another_source_has_a_memory_of_its_own(source: Path, out: Path, tmp_path: Path) -> None:
    make(source, out)
    make(write(tmp_path / "two.npz", {0: 60, 1: 600}), tmp_path / "two")


def test_a_memory_that_is_damaged_is_one_line(source: Path, out: Path, tmp_path: Path) -> None:
    make(source, out)
    (memory,) = (tmp_path / "state" / "snapshots").iterdir()
    memory.write_text("{")
    with pytest.raises(TemperError, match="remove it") as caught:
        make(source, out)
    assert str(memory) in str(caught.value)
