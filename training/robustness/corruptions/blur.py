"""Blurs. Images and results are float64, shape (n, c, h, w)."""

import math

import numpy as np
import torch
from torch import Tensor

from training.randomness import FloatArray
from training.robustness.corruptions.draws import Draws
from training.robustness.corruptions.matrices import (
    blur,
    correlation,
    gaussian_weights,
    mirror,
    separable,
    zoom,
)
from training.robustness.corruptions.motion import smear

_LEVELS = 255
# Discs up to this radius share one grid and one width of smoothing.
_SMALL_DISC = 8


def gaussian_blur(images: Tensor, _draws: Draws, sigma: float) -> Tensor:
    """Blur by a Gaussian of ``sigma`` pixels."""
    return blur(images, sigma)


def defocus_blur(images: Tensor, _draws: Draws, radius: float, smoothing: float) -> Tensor:
    """Average over a disc of ``radius`` pixels whose rim is smoothed by a Gaussian."""
    kernel = _disc(radius, smoothing)
    height, width = images.shape[2:]
    total = torch.zeros_like(images)
    for line, down in zip(kernel, range(-(len(kernel) // 2), len(kernel) // 2 + 1), strict=True):
        rows = torch.from_numpy(mirror(np.arange(height) + down, height))
        total += images[:, :, rows] @ correlation(line, width, mirror).T
    return total


def _disc(radius: float, smoothing: float) -> FloatArray:
    reach, rim = (_SMALL_DISC, 1) if radius <= _SMALL_DISC else (math.ceil(radius), 2)
    squares = np.arange(-reach, reach + 1) ** 2
    disc = (squares[:, None] + squares <= radius**2).astype(np.float64)
    smooth = correlation(gaussian_weights(rim, smoothing), len(disc), mirror)
    kernel = separable(torch.from_numpy(disc / disc.sum()), smooth, smooth).numpy()
    unused = int(np.argmax(kernel.any(axis=1)))
    kept = slice(unused, len(kernel) - unused)
    return np.asarray(kernel[kept, kept])


def motion_blur(images: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Smear along a line within 45 degrees of the horizontal."""
    return smear(images, draws.uniform() * 90.0 - 45.0, radius, sigma)


def zoom_blur(images: Tensor, _draws: Draws, end: float, step: float) -> Tensor:
    """Average the image and its enlargements by 1, 1 + step, ... up to ``end``."""
    height, width = images.shape[2:]
    factors = np.arange(1.0, end, step)
    total = images.clone()
    for factor in factors:
        total += separable(images, zoom(height, factor)[:height], zoom(width, factor)[:width])
    return total / (len(factors) + 1)


def glass_blur(images: Tensor, draws: Draws, sigma: float, reach: int, passes: int) -> Tensor:
    """Blur, let each pixel take the value of a neighbour up to ``reach`` away, blur again.

    The published code means to swap the two pixels, but its views of one array copy: so does this.
    """
    levels = torch.floor(blur(images, sigma) * _LEVELS) / _LEVELS
    count, _, height, width = images.shape
    for _ in range(passes):
        at = _sources(draws, height, width, reach).view(count, 1, -1).expand(-1, images.shape[1], -1)
        levels = levels.flatten(2).gather(2, at).view_as(images)
    return blur(levels, sigma)


def _sources(draws: Draws, height: int, width: int, reach: int) -> Tensor:
    """Return where each pixel's value comes from after one pass, int64, shape (n, height * width).

    A pass goes backwards through the pixels, so a neighbour that comes later in the image has its new value
    already. Node p says "the new value of p", node size + p "the old value of p"; following the links to
    their ends takes log2(size) doublings.
    """
    size = height * width
    rows = torch.arange(reach + 1, height - reach + 1).flip(0)
    columns = torch.arange(reach + 1, width - reach + 1).flip(0)
    moves = torch.floor(draws.uniform(len(rows), len(columns), 2) * 2 * reach).long() - reach
    here = (rows[:, None] * width + columns).expand(len(moves), -1, -1).flatten(1)
    there = here + (moves[..., 1] * width + moves[..., 0]).flatten(1)
    renewed = torch.zeros(size, dtype=torch.bool)
    renewed[here[0]] = True
    links = (torch.arange(2 * size) % size + size).repeat(len(moves), 1)
    links.scatter_(1, here, torch.where((there > here) & renewed[there], there, there + size))
    for _ in range(size.bit_length()):
        links = links.gather(1, links)
    return links[:, :size] - size
