"""Grey values of colour images, and colours for grey ones."""

from typing import TypeAlias

import torch
from torch import Tensor

Colour: TypeAlias = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""

# ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def luma(images: Tensor) -> Tensor:
    """Return the brightness of images (n, c, h, w), c 1 or 3, as shape (n, 1, h, w)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def paint(colour: Colour, channels: int) -> Tensor:
    """Return a colour, float64, shape (1, channels, 1, 1): its brightness where there is one channel."""
    painted = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1)
    return luma(painted) if channels == 1 else painted
