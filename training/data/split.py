"""Which side an example falls on, told by its pixels alone.

Each image has a key: the BLAKE2b (RFC 7693) of its shape and pixels under the split's seed. A key read
as a fraction of 1 decides the side, so an example keeps its side when the data grow, and duplicates
share one. Where a limit takes a part of a class, it takes the lowest keys, so a grown snapshot keeps
most of them.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from training.config import Limits, Split
from training.data.messages import printable
from training.data.raw import ImageArray, LabelArray, RawData, RawSide
from training.errors import DataError
from training.randomness import FloatArray, IntArray

SideName: TypeAlias = Literal["train", "validation", "test"]
KeyArray: TypeAlias = npt.NDArray[np.uint64]

SIDES: tuple[SideName, ...] = ("train", "validation", "test")
KEY_BYTES = 16


@dataclass(frozen=True)
class Selection:
    """The rows of a source's set that make up one side, in the source's order.

    Attributes:
        part: the set of the source that they come from.
        rows: indices into ``part``, shape (n,), rising.
        keys: keys of these rows, shape (n, 2); equal keys mean equal pixels.
    """

    part: RawSide
    rows: IntArray
    keys: KeyArray

    @property
    def images(self) -> ImageArray:
        """The images, shape (n, h, w, c); a copy is made at each call."""
        return self.part.images[self.rows]

    @property
    def labels(self) -> LabelArray:
        """The class indices, shape (n,)."""
        return self.part.labels[self.rows]

    def row_name(self, index: int) -> str:
        """Return what an error calls the row at ``index`` of this side."""
        return self.part.row_name(int(self.rows[index]))


@dataclass(frozen=True)
class Division:
    """A source divided into its three sides."""

    class_names: tuple[str, ...]
    train: Selection
    validation: Selection
    test: Selection

    def counts(self, side: SideName) -> tuple[int, ...]:
        """Return how many examples of each class a side has."""
        return _count(self.side(side).labels, len(self.class_names))

    def side(self, name: SideName) -> Selection:
        """Return a side by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def image_keys(images: ImageArray, seed: int) -> KeyArray:
    """Return the key of each image, shape (n, 2): the two halves of 16 bytes, big-endian.

    Args:
        images: uint8, shape (n, h, w, c).
        seed: in [0, 2^53); another seed divides the same images otherwise.
    """
    base = hashlib.blake2b(digest_size=KEY_BYTES, key=seed.to_bytes(8, "big"))
    base.update(repr(images.shape[1:]).encode())
    content = bytearray()
    for image in np.ascontiguousarray(images):
        image_hash = base.copy()
        image_hash.update(image.data)
        content += image_hash.digest()
    return np.frombuffer(bytes(content), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def fractions(keys: KeyArray) -> FloatArray:
    """Return the key's first 53 bits as a number in [0, 1), shape (n,)."""
    return (keys[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53


def divide(raw: RawData, split: Split, limits: Limits) -> Division:
    """Divide a source that meets the schema into train, validation and test.

    Raises:
        DataError: a class with fewer than ``split.minimum_per_class`` images on a side, or a limit too
            small for that many of each class.
    """
    keys = image_keys(raw.train.images, split.seed)
    numbers = fractions(keys)
    bound = 0.0 if raw.test is not None else split.test_share
    on_test = numbers < bound
    on_validation = ~on_test & (numbers < bound + split.validation_share)
    division = Division(
        class_names=raw.class_names,
        train=_select(raw.train, keys, ~on_test & ~on_validation),
        validation=_select(raw.train, keys, on_validation),
        test=_select(raw.train, keys, on_test) if raw.test is None else _select_all(raw.test, split.seed),
    )
    _check_minimum(division, split.minimum_per_class)
    return Division(
        raw.class_names,
        *(_limit(division, side, getattr(limits, side), split.minimum_per_class) for side in SIDES),
    )


def _select(part: RawSide, keys: KeyArray, mask: npt.NDArray[np.bool_]) -> Selection:
    rows = np.flatnonzero(mask).astype(np.int64)
    return Selection(part, rows, keys[rows])


def _select_all(part: RawSide, seed: int) -> Selection:
    return Selection(part, np.arange(len(part.images), dtype=np.int64), image_keys(part.images, seed))


def _count(labels: LabelArray, classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _check_minimum(division: Division, minimum: int) -> None:
    for side in SIDES:
        for name, count in zip(division.class_names, division.counts(side), strict=True):
            if count < minimum:
                msg = (
                    f"class {printable(name)} has {count} images on the {side} side, below "
                    f"data.split.minimum_per_class {minimum}; add images of it or change data.split's shares"
                )
                raise DataError(msg)


def _limit(division: Division, side: SideName, limit: int | None, minimum: int) -> Selection:
    selection, counts = division.side(side), division.counts(side)
    if limit is None or limit >= sum(counts):
        return selection
    if limit < minimum * len(counts):
        msg = (
            f"data.limits.{side} is {limit}, but {len(counts)} classes need {minimum} each "
            f"(data.split.minimum_per_class): give at least {minimum * len(counts)}"
        )
        raise DataError(msg)
    labels = selection.labels
    order = np.lexsort((selection.rows, selection.keys[:, 1], selection.keys[:, 0]))
    chosen = [order[labels[order] == index][:n] for index, n in enumerate(allot(counts, limit, minimum))]
    kept = np.sort(np.concatenate(chosen))
    return Selection(selection.part, selection.rows[kept], selection.keys[kept])


def allot(counts: tuple[int, ...], limit: int, minimum: int) -> tuple[int, ...]:
    """Share ``limit`` places among classes in proportion to ``counts``, by largest remainder.

    Args:
        counts: examples of each class, each at least ``minimum``.
        limit: places in all, from ``minimum * len(counts)`` to ``sum(counts)``.
        minimum: places that each class has at least; the others share what is left.

    Returns:
        Places for each class, none above its count; of equal remainders the first class wins.
    """
    free = np.ones(len(counts), dtype=bool)
    sizes = np.array(counts, dtype=np.int64)
    while True:
        places = limit - minimum * int((~free).sum())
        total = max(int(sizes[free].sum()), 1)
        short = free & (sizes * places < minimum * total)
        if not short.any():
            break
        free &= ~short
    share = np.where(free, sizes * places // total, minimum)
    remainder = np.where(free, sizes * places % total, -1)
    rest = limit - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:rest]] += 1
    return tuple(share.tolist())
