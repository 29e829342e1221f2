"""Linear maps along one axis as matrices: blurs, zooms and box averages, each with its edge rule.

A separable map of images is then ``down @ images @ across.T``, for any size, batch and channel count.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from training.randomness import FloatArray, IntArray

Fold: TypeAlias = Callable[[IntArray, int], IntArray]
"""An edge rule: brings positions outside 0 .. size - 1 back inside."""


def edge(positions: IntArray, size: int) -> IntArray:
    """Repeat the last pixel: a a a b c d d d."""
    return np.clip(positions, 0, size - 1)


def mirror(positions: IntArray, size: int) -> IntArray:
    """Reflect about the last pixel's centre: c b a b c d c b."""
    period = 2 * (size - 1)
    wrapped = positions % period
    return np.minimum(wrapped, period - wrapped)


def symmetric(positions: IntArray, size: int) -> IntArray:
    """Reflect about the last pixel's outer edge: b a a b c d d c."""
    wrapped = positions % (2 * size)
    return np.minimum(wrapped, 2 * size - 1 - wrapped)


def separable(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Apply one matrix along the height and one along the width.

    Args:
        images: float64, shape (..., h, w).
        down: shape (h', h).
        across: shape (w', w).

    Returns:
        Shape (..., h', w').
    """
    return down @ images @ across.T


def correlation(weights: FloatArray, size: int, fold: Fold) -> Tensor:
    """Matrix (size, size) that weighs each pixel's neighbours; ``weights`` has odd length, its centre 0."""
    offsets = np.arange(len(weights)) - len(weights) // 2
    rows = np.arange(size)[:, None]
    matrix = np.zeros((size, size))
    np.add.at(matrix, (rows, fold(rows + offsets, size)), weights)
    return torch.from_numpy(matrix)


def gaussian_weights(radius: int, sigma: float) -> FloatArray:
    """Gaussian weights at -radius .. radius, sum 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def gaussian(size: int, sigma: float, fold: Fold = edge, reach: float = 4.0) -> Tensor:
    """Matrix (size, size) of a Gaussian blur of ``sigma`` pixels, cut off at ``reach`` sigmas."""
    return correlation(gaussian_weights(int(reach * sigma + 0.5), sigma), size, fold)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images (..., h, w) by a Gaussian of ``sigma`` pixels; edge pixels are repeated."""
    return separable(images, gaussian(images.shape[-2], sigma), gaussian(images.shape[-1], sigma))


def zoom(size: int, factor: float) -> Tensor:
    """Matrix that enlarges the middle of an axis by linear interpolation, end to end.

    The middle is ceil(size / factor) pixels; rounding may leave up to ``factor`` more pixels than ``size``.

    Returns:
        Shape (size' >= size, size).
    """
    inner = math.ceil(size / factor)
    first = (size - inner) // 2
    outer = round(inner * factor)
    positions = np.arange(outer) * (inner - 1) / (outer - 1)
    low = np.minimum(np.floor(positions).astype(np.int64), inner - 2)
    matrix = np.zeros((outer, size))
    matrix[np.arange(outer), first + low] = 1.0 - (positions - low)
    matrix[np.arange(outer), first + low + 1] = positions - low
    return torch.from_numpy(matrix)


def box(size: int, fewer: int) -> Tensor:
    """Matrix (fewer, size) that averages the pixels whose centres lie in each of ``fewer`` equal boxes."""
    scale = size / fewer
    centres = (np.arange(fewer)[:, None] + 0.5) * scale
    distances = (np.arange(size) + 0.5 - centres) / scale
    inside = (np.ceil(distances - 0.5) == 0).astype(np.float64)
    return torch.from_numpy(inside / inside.sum(axis=1, keepdims=True))
