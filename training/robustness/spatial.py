"""Small rotations and shifts as a threat: every view of a grid (Engstrom et al. 2019, grid search)."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.errors import DataError

_RANK = 4


def even_grid(limit: float, points: int) -> tuple[float, ...]:
    """Return ``points`` even values from -limit to limit; (0.0,) where there is but one to return."""
    if points == 1 or limit == 0:
        return (0.0,)
    return tuple(float(value) for value in np.linspace(-limit, limit, points))


def spatial_views(images: Tensor, angles: Sequence[float], shifts: Sequence[float]) -> Iterator[Tensor]:
    """Yield the images turned by each angle, then moved by each pair of shifts.

    Angles vary slowest, then the shift downwards, then the shift to the right. Zeros enter at the edges.

    Args:
        images: pixels in [0, 1], floating point, shape (n, c, h, w).
        angles: degrees, counter-clockwise about the image's middle.
        shifts: pixels, downwards and to the right; need not be whole.

    Yields:
        Views of the shape, type and device of ``images``, len(angles) * len(shifts) ** 2 of them.

    Raises:
        DataError: images of another shape or type, or an angle or shift that is not finite.
    """
    _check(images, (*angles, *shifts))
    return (_moved(images, degrees, down, right) for degrees, down, right in product(angles, shifts, shifts))


def _check(images: Tensor, values: tuple[float, ...]) -> None:
    if images.ndim != _RANK or not images.is_floating_point():
        msg = f"{images.dtype} of shape {tuple(images.shape)} cannot be turned; give floats (n, c, h, w)"
        raise DataError(msg)
    if not all(math.isfinite(value) for value in values):
        msg = f"angles and shifts must be finite, not {values}"
        raise DataError(msg)


def _moved(images: Tensor, degrees: float, down: float, right: float) -> Tensor:
    # In float64, so that whole shifts and quarter turns stay exact but for rounding in the last digits.
    grid = _positions(images, degrees, down, right).expand(len(images), -1, -1, -1)
    found: Tensor = F.grid_sample(images.double(), grid, "bilinear", "zeros", align_corners=False)
    return found.to(images.dtype)


def _positions(images: Tensor, degrees: float, down: float, right: float) -> Tensor:
    """Where each pixel comes from, in grid_sample's units, shape (1, h, w, 2)."""
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float64, device=images.device) - (height - 1) / 2 - down
    columns = torch.arange(width, dtype=torch.float64, device=images.device) - (width - 1) / 2 - right
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    from_row = rows[:, None] * cosine + columns * sine
    from_column = columns * cosine - rows[:, None] * sine
    return torch.stack([from_column * (2 / width), from_row * (2 / height)], dim=2)[None]
