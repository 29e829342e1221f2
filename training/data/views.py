"""Deterministic augmentation: a view of an example depends on (seed, view, example) alone.

The cache of teacher logits relies on this: the row for (view, example) is what the teacher gives on
exactly the image that the student will see.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.config import Augmentation, Section, Seed
from training.randomness import IntArray, derive_seed, uniform

_FLIPPED_SHARE = 0.5


class ViewScheme(Section):
    """How views are drawn; ``version`` changes when the drawing does."""

    version: int = 1
    seed: Seed
    augmentation: Augmentation


class Views:
    """The views of one set of images.

    Args:
        images: pixels 0-255, uint8, shape (n, c, h, w).
        scheme: how the views are drawn.
    """

    def __init__(self, images: Tensor, scheme: ViewScheme) -> None:
        self._images = images
        self._scheme = scheme

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._images)

    def batch(self, rows: IntArray, view: int) -> Tensor:
        """Return view number ``view`` of the examples ``rows``: float32 in [0, 1], shape (b, c, h, w)."""
        images = self._images[torch.from_numpy(rows)].float() / 255.0
        augmentation = self._scheme.augmentation
        draws = torch.from_numpy(uniform(derive_seed(self._scheme.seed, "view", view), rows, 3))
        if augmentation.shift:
            images = _shifted(images, draws[:, :2], augmentation.shift)
        if augmentation.horizontal_flip:
            images = torch.where((draws[:, 2] < _FLIPPED_SHARE).view(-1, 1, 1, 1), images.flip(3), images)
        return images


def _shifted(images: Tensor, draws: Tensor, shift: int) -> Tensor:
    count, channels, height, width = images.shape
    offsets = (draws * (2 * shift + 1)).long()
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    rows = (torch.arange(height) + offsets[:, :1]).view(count, 1, height, 1)
    columns = (torch.arange(width) + offsets[:, 1:]).view(count, 1, 1, width)
    examples = torch.arange(count).view(count, 1, 1, 1)
    channel = torch.arange(channels).view(1, channels, 1, 1)
    return padded[examples, channel, rows, columns]


def to_channels_first(images: npt.NDArray[np.uint8]) -> Tensor:
    """Copy uint8 images (n, h, w, c) into a tensor (n, c, h, w)."""
    return torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C"))
