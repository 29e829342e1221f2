"""Confusion matrices as heat maps: what is taken for what, with numbers where there is room for them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.robustness.reporting.classes import MOST_SHOWN
from training.robustness.reporting.pictures import Picture, encode_png

ERROR_STEPS = (0.0, 0.02, 0.05, 0.1, 0.2)
"""A share of a class above each of these makes a mistake one shade stronger."""
MOST_MISTAKES = 5

_RIGHT = (0x35, 0x7D, 0xBF)
_WRONG = (0xD9, 0x6A, 0x1B)


@dataclass(frozen=True)
class Cell:
    """A cell: how many images, and the CSS class of its shade."""

    count: int
    shade: str


@dataclass(frozen=True)
class Row:
    """The images of one true class, by predicted class."""

    label: int
    name: str
    n: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Mistake:
    """A true class that was taken for another, ``count`` of its ``n`` times."""

    true: str
    predicted: str
    count: int
    n: int


@dataclass(frozen=True)
class Matrix:
    """A matrix as shown: with ``rows``, or with too many classes for them as a ``picture``."""

    title: str
    rows: tuple[Row, ...]
    picture: str
    right: int
    n: int
    mistakes: tuple[Mistake, ...]


def show_matrix(title: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> Matrix:
    """Prepare a confusion matrix, true class (row) against predicted class (column)."""
    table = np.array(counts, dtype=np.int64)
    numbered = len(table) <= MOST_SHOWN
    return Matrix(
        title=title,
        rows=_rows(table, names) if numbered else (),
        picture="" if numbered else encode_png(draw(table)),
        right=int(np.trace(table)),
        n=int(table.sum()),
        mistakes=_mistakes(table, names),
    )


def heat(share: float) -> str:
    """Return the shade of a share in [0, 1], from h0 to h10."""
    return f"h{round(10 * share)}"


def draw(table: npt.NDArray[np.int64]) -> Picture:
    """Draw a matrix (k, k), a pixel for each cell, as RGBA (4, k, k) that suits light and dark pages."""
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(table), dtype=bool)
    shades = np.searchsorted(ERROR_STEPS, shares, side="left") / len(ERROR_STEPS)
    colours = np.where(diagonal[..., None], _RIGHT, _WRONG) / 255
    drawn = np.concatenate([colours, np.where(diagonal, shares, shades)[..., None]], axis=2)
    return drawn.transpose(2, 0, 1).astype(np.float32)


def _rows(table: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(
        Row(label, names[label], int(counts.sum()), _cells(label, counts))
        for label, counts in enumerate(table)
    )


def _cells(label: int, counts: npt.NDArray[np.int64]) -> tuple[Cell, ...]:
    n = max(int(counts.sum()), 1)
    return tuple(
        Cell(int(count), _shade(int(count) / n, right=column == label)) for column, count in enumerate(counts)
    )


def _shade(share: float, *, right: bool) -> str:
    return heat(share) if right else f"e{bisect_left(ERROR_STEPS, share)}"


def _mistakes(table: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Mistake, ...]:
    wrong = table * (1 - np.eye(len(table), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MISTAKES]
    pairs = [divmod(int(place), len(table)) for place in order]
    return tuple(
        Mistake(names[true], names[predicted], int(table[true, predicted]), int(table[true].sum()))
        for true, predicted in pairs
        if wrong[true, predicted]
    )
