"""What every source is read into: uint8 images with int64 labels, before any division."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from training.data.messages import printable

ImageArray: TypeAlias = npt.NDArray[np.uint8]
LabelArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawSide:
    """The images that a source publishes together, in the source's order.

    Attributes:
        images: shape (n, height, width, channels), values 0-255.
        labels: shape (n,), class indices.
        title: the source's word for this set, ``train`` or ``test``.
        names: a name for each row, such as a file's; without them rows are counted from 0.
    """

    images: ImageArray
    labels: LabelArray
    title: str = "train"
    names: tuple[str, ...] | None = None

    def row_name(self, row: int) -> str:
        """Return what an error calls a row: its file name, or ``train row 17``."""
        return f"{self.title} row {row}" if self.names is None else printable(self.names[row])


@dataclass(frozen=True)
class RawData:
    """A source as read; ``test`` is None where the source fixes no test set."""

    train: RawSide
    test: RawSide | None
    class_names: tuple[str, ...]

    @property
    def parts(self) -> tuple[RawSide, ...]:
        """The train set, then the test set where there is one."""
        return (self.train,) if self.test is None else (self.train, self.test)
