"""The binary version of CIFAR-10 and CIFAR-100 (www.cs.toronto.edu/~kriz/cifar.html).

A row is one label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes: 1,024 red, 1,024 green,
1,024 blue, each 32 x 32 in row-major order.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.messages import fault
from training.data.raw import RawData, RawSide

SIDE = 32
CHANNELS = 3
PIXELS = CHANNELS * SIDE * SIDE


@dataclass(frozen=True)
class Layout:
    """The published file names of one data set; the last of ``label_bytes`` is the class."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    classes: int
    label_bytes: int


CIFAR10 = Layout(
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    names="batches.meta.txt",
    classes=10,
    label_bytes=1,
)
CIFAR100 = Layout(
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    names="fine_label_names.txt",
    classes=100,
    label_bytes=2,
)


def read_cifar(root: Path, layout: Layout) -> RawData:
    """Read a folder of the published files, or the folder that their tar file makes below ``root``.

    Raises:
        DataError: a file that is missing or does not hold whole rows, or a wrong number of class names.
    """
    folder = root / layout.folder if (root / layout.folder).is_dir() else root
    names = _read_names(folder / layout.names, layout.classes)
    train = _read_side(folder, layout.train, "train", layout)
    return RawData(train, _read_side(folder, layout.test, "test", layout), names)


def _read_names(path: Path, classes: int) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise fault(path, "missing; put the published binary version there") from error
    except UnicodeDecodeError as error:
        raise fault(path, "is not text; fetch it again") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != classes:
        raise fault(path, f"has {len(names)} class names, not {classes}; fetch it again")
    return names


def _read_side(folder: Path, files: tuple[str, ...], title: str, layout: Layout) -> RawSide:
    rows = np.concatenate([_read_rows(folder / name, layout.label_bytes) for name in files])
    planes = rows[:, layout.label_bytes :].reshape(-1, CHANNELS, SIDE, SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return RawSide(images, rows[:, layout.label_bytes - 1].astype(np.int64), title)


def _read_rows(path: Path, label_bytes: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if not path.is_file():
        raise fault(path, "missing; put the published binary version there")
    width = label_bytes + PIXELS
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0 or content.size % width:
        msg = f"{content.size} bytes are not whole rows of {width}"
        raise fault(path, f"{msg}; truncated, or not the binary version: fetch it again")
    return content.reshape(-1, width)
