"""Smearing along a line."""

import numpy as np
import torch
from torch import Tensor

from training.randomness import FloatArray


def smear(images: Tensor, degrees: Tensor, radius: int, sigma: float) -> Tensor:
    """Average copies that are shifted along a line, with half-Gaussian weights; edge pixels are repeated.

    Michaelis et al. 2019 put this in the place of ImageMagick's motion blur: 2 * radius + 1 copies, each
    moved by whole pixels. Copies that would leave the image are left out, their weight is not replaced.

    Args:
        images: float64, shape (n, c, h, w).
        degrees: direction of each example's line, shape (n,).
        radius: half the length of the line in pixels.
        sigma: width of the weights in pixels.

    Returns:
        The shape of ``images``.
    """
    angles = np.deg2rad(degrees.numpy())
    total = torch.zeros_like(images)
    for step, weight in enumerate(_weights(2 * radius + 1, sigma)):
        right = -np.ceil(step * np.cos(angles) - 0.5)
        down = -np.ceil(step * np.sin(angles) - 0.5)
        inside = (np.abs(down) < images.shape[2]) & (np.abs(right) < images.shape[3])
        weights = torch.from_numpy(weight * inside).view(-1, 1, 1, 1)
        total += weights * _moved(images, torch.from_numpy(down), torch.from_numpy(right))
    return total


def _weights(length: int, sigma: float) -> FloatArray:
    weights = np.exp(-0.5 * (np.arange(length) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    height, width = images.shape[2:]
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)
    at = (rows[:, :, None] * width + columns[:, None, :]).long().flatten(1)
    found = images.flatten(2).gather(2, at[:, None].expand(-1, images.shape[1], -1))
    return found.view_as(images)
