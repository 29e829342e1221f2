"""Noise: each pixel and channel for itself. Images and results are float64, shape (n, c, h, w)."""

import torch
from torch import Tensor

from training.robustness.corruptions.draws import Draws

_SALT_SHARE = 0.5


def gaussian_noise(images: Tensor, draws: Draws, scale: float) -> Tensor:
    """Add normal noise of standard deviation ``scale``."""
    return images + scale * draws.normal(*images.shape[1:])


def shot_noise(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """Count photons: a white pixel expects ``photons`` of them."""
    return draws.poisson(images * photons) / photons


def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Turn a ``share`` of the values black or white, as likely the one as the other."""
    hit = draws.uniform(*images.shape[1:]) <= share
    salt = draws.uniform(*images.shape[1:]) <= _SALT_SHARE
    return torch.where(hit, salt.double(), images)


def speckle_noise(images: Tensor, draws: Draws, scale: float) -> Tensor:
    """Add normal noise of standard deviation ``scale`` times the pixel."""
    return images + images * scale * draws.normal(*images.shape[1:])
