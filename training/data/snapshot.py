"""A snapshot on disk: three sides as uint8 arrays, and what describes them.

Written from the same data and configuration it is the same byte for byte, whatever was there before.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from training.artefact import write_json
from training.config import Data, Normalisation
from training.data.gate import ClassCounts, GateReport, check
from training.data.raw import ImageArray, LabelArray, RawData
from training.data.schema import check_schema
from training.data.split import SIDES, SideName, divide
from training.errors import ArtefactError

INFO = "snapshot.json"
WHITE = 255
GREY_LEVELS = WHITE + 1
MIN_STD = 1 / WHITE


@dataclass(frozen=True)
class Side:
    """One side of a snapshot: images uint8 (n, h, w, c), mapped read-only; labels int64 (n,)."""

    images: ImageArray
    labels: LabelArray


class SnapshotInfo(BaseModel):
    """What describes a snapshot; nothing in it depends on an earlier snapshot.

    Attributes:
        source: the name of the source, such as ``digits``.
        class_names: a name for each label.
        shape: height, width, channels.
        counts: for each side, the examples of each class.
        split_seed: the seed of the division.
        normalisation: mean and standard deviation of train for each channel, pixels in [0, 1].
        gate: what the data gate counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    counts: dict[SideName, tuple[int, ...]]
    split_seed: int
    normalisation: Normalisation
    gate: GateReport

    @property
    def class_counts(self) -> ClassCounts:
        """What the next snapshot's gate compares itself with."""
        return ClassCounts(class_names=self.class_names, train=self.counts["train"])


def write_snapshot(folder: Path, raw: RawData, data: Data, last: ClassCounts | None = None) -> SnapshotInfo:
    """Divide a source, put it through the data gate, and write it.

    Args:
        folder: an empty folder, from :func:`training.artefact.publish`.
        raw: what :func:`training.data.sources.load_source` read.
        data: the section ``data``.
        last: the last snapshot's class counts; None where this is the first.

    Raises:
        DataError: the schema, the division or the data gate refuses; nothing is written then.
    """
    check_schema(raw, data.source.name)
    division = divide(raw, data.split, data.limits)
    report = check(division, data.gate, last)
    height, width, channels = raw.train.images.shape[1:]
    for side in SIDES:
        selection = division.side(side)
        np.save(folder / f"{side}_images.npy", selection.images)
        np.save(folder / f"{side}_labels.npy", selection.labels)
    info = SnapshotInfo(
        source=data.source.name,
        class_names=raw.class_names,
        shape=(height, width, channels),
        counts={side: division.counts(side) for side in SIDES},
        split_seed=data.split.seed,
        normalisation=channel_statistics(np.load(folder / "train_images.npy", mmap_mode="r")),
        gate=report,
    )
    write_json(folder / INFO, info.model_dump(mode="json"))
    return info


def channel_statistics(images: ImageArray) -> Normalisation:
    """Return mean and standard deviation for each channel in [0, 1], exactly, from grey-level counts.

    A standard deviation is at least one grey level (1/255), so that a constant channel stays finite.
    """
    means, deviations = [], []
    for channel in range(images.shape[3]):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=GREY_LEVELS).tolist()
        # Whole numbers, so that every processor gives the same bits.
        total = sum(counts)
        first = sum(level * count for level, count in enumerate(counts))
        second = sum(level * level * count for level, count in enumerate(counts))
        means.append(first / (WHITE * total))
        deviations.append(max(math.sqrt(second * total - first * first) / (WHITE * total), MIN_STD))
    return Normalisation(mean=tuple(means), std=tuple(deviations))


def read_info(folder: Path) -> SnapshotInfo:
    """Read what describes a snapshot.

    Raises:
        ArtefactError: no snapshot there, or one of another form.
    """
    path = folder / INFO
    try:
        return SnapshotInfo.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        msg = f"{path}: missing, or not of this version of Temper; make the snapshot again"
        raise ArtefactError(msg) from error


def load_side(folder: Path, side: SideName) -> Side:
    """Map a side's images read-only and read its labels.

    Raises:
        ArtefactError: arrays that are missing, damaged, or not of a snapshot's form.
    """
    images = _load(folder / f"{side}_images.npy", "r")
    labels = _load(folder / f"{side}_labels.npy", None)
    if images.dtype != np.uint8 or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        form = f"{images.dtype} {images.shape} with labels {labels.dtype} {labels.shape}"
        msg = f"{folder}: {side} is {form}, which no snapshot has; make the snapshot again"
        raise ArtefactError(msg)
    return Side(images, labels)


def _load(path: Path, mmap_mode: Literal["r"] | None) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        msg = f"{path}: missing or damaged; make the snapshot again"
        raise ArtefactError(msg) from error
    return array
