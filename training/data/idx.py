"""MNIST and Fashion-MNIST: the IDX format of yann.lecun.com/exdb/mnist, gzip or not.

A file is a big-endian magic number (0, 0, 8 for unsigned byte, number of dimensions), a 32-bit size for
each dimension, and the values.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from training.data.messages import fault
from training.data.raw import ImageArray, RawData, RawSide

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
UNSIGNED_BYTE = 8
GZIP_MAGIC = b"\x1f\x8b"


def read_mnist(root: Path, class_names: tuple[str, ...]) -> RawData:
    """Read the four IDX files of a folder, by their published names.

    Raises:
        DataError: a file that is missing, truncated, too long, or no IDX file of unsigned bytes; or
            image and label files of different lengths.
    """
    return RawData(_read_side(root, "train", "train"), _read_side(root, "t10k", "test"), class_names)


def _read_side(root: Path, prefix: str, title: str) -> RawSide:
    label_path = find_idx(root, f"{prefix}-labels", 1)
    image_path = find_idx(root, f"{prefix}-images", 3)
    labels, images = read_idx(label_path, 1), read_idx(image_path, 3)
    if len(labels) != len(images):
        msg = f"{len(images)} images, but {label_path.name} has {len(labels)} labels; fetch both again"
        raise fault(image_path, msg)
    return RawSide(images[..., np.newaxis], labels.astype(np.int64), title)


def find_idx(root: Path, stem: str, dimensions: int) -> Path:
    """Return the file ``stem-idx3-ubyte`` (or ``stem.idx3-ubyte``), with or without ``.gz``."""
    published = f"{stem}-idx{dimensions}-ubyte"
    for name in (published, f"{stem}.idx{dimensions}-ubyte"):
        for suffix in ("", ".gz"):
            if (root / f"{name}{suffix}").is_file():
                return root / f"{name}{suffix}"
    raise fault(root / published, "missing, also with .gz; put the published IDX files there")


def read_idx(path: Path, dimensions: int) -> ImageArray:
    """Read unsigned bytes of a known number of dimensions; gzip is told by content, not by name.

    Raises:
        DataError: as :func:`read_mnist`.
    """
    with path.open("rb") as probe:
        packed = probe.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            return _parse(stream, path, dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise fault(path, "truncated or damaged gzip; fetch it again") from error


def _parse(stream: io.BufferedIOBase, path: Path, dimensions: int) -> ImageArray:
    magic = stream.read(4)
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if magic != expected:
        msg = f"starts with {magic.hex() or 'nothing'}, not {expected.hex()}"
        raise fault(path, f"{msg}; it is no IDX file of {dimensions} dimensions of unsigned bytes")
    header = stream.read(4 * dimensions)
    if len(header) != 4 * dimensions:
        raise fault(path, "truncated within its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", header)
    size = math.prod(shape)
    content = stream.read(size + 1)
    if len(content) != size:
        found = "more follow" if len(content) > size else f"only {len(content)} are there"
        raise fault(path, f"its header {shape} promises {size} bytes but {found}; fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
