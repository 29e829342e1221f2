"""Weather. Images and results are float64, shape (n, c, h, w)."""

import torch
from torch import Tensor

from training.robustness.corruptions.colour import luma
from training.robustness.corruptions.draws import Draws
from training.robustness.corruptions.matrices import separable, zoom
from training.robustness.corruptions.motion import smear
from training.robustness.corruptions.plasma import plasma

_LEVELS = 255

# Red, green, blue and contrast of the five published pictures of frost, as measured.
_FROST_TONES = (
    (0.305, 0.585, 0.650, 0.074),
    (0.787, 0.805, 0.841, 0.086),
    (0.787, 0.805, 0.841, 0.086),
    (0.540, 0.599, 0.648, 0.113),
    (0.441, 0.484, 0.528, 0.168),
)
# Shares of that contrast within a crop of a picture and between crops of it.
_FROST_WITHIN, _FROST_BETWEEN = 0.8, 0.5
_FROST_DECAY = 1.5


def snow(  # noqa: PLR0913, PLR0917 - the source's seven parameters
    images: Tensor,
    draws: Draws,
    mean: float,
    scale: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Tensor:
    """Whiten the image and add two layers of falling flakes, the one upside down.

    Flakes are normal noise (``mean``, ``scale``) above ``threshold``, enlarged by ``size`` and smeared.
    """
    height, width = images.shape[2:]
    layer = mean + scale * draws.normal(1, height, width)
    layer = separable(layer, zoom(height, size), zoom(width, size))
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0.0, 1.0)
    flakes = smear(layer, draws.uniform() * 90.0 - 135.0, radius, sigma)
    flakes = (torch.round(flakes * _LEVELS) / _LEVELS)[:, :, :height, :width]
    whitened = kept * images + (1 - kept) * torch.maximum(images, luma(images) * 1.5 + 0.5)
    return whitened + flakes + flakes.flip(2, 3)


def frost(images: Tensor, draws: Draws, kept: float, strength: float) -> Tensor:
    """Lay frost over the image: ``kept`` of the image and ``strength`` of the frost."""
    return kept * images + strength * _frost(draws, images)


def _frost(draws: Draws, images: Tensor) -> Tensor:
    """Frost without pictures: a fractal in the tones of a published picture, in [0, 1]."""
    field = plasma(draws, images.shape[2:], _FROST_DECAY)
    centred = (field - field.mean(dim=(1, 2), keepdim=True)) / field.std(dim=(1, 2), keepdim=True)
    pattern = _FROST_WITHIN * centred[:, None] + _FROST_BETWEEN * draws.normal(1, 1, 1)
    picture = torch.floor(draws.uniform() * len(_FROST_TONES)).long()
    tones = torch.tensor(_FROST_TONES, dtype=torch.float64)[picture].view(-1, 4, 1, 1)
    layer = (tones[:, :3] + tones[:, 3:] * pattern).clamp(0.0, 1.0)
    return luma(layer) if images.shape[1] == 1 else layer


def fog(images: Tensor, draws: Draws, strength: float, decay: float) -> Tensor:
    """Add a cloudy map, then scale so that the brightest pixel stays as bright as it was."""
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    clouds = plasma(draws, images.shape[2:], decay)[:, None]
    return (images + strength * clouds) * brightest / (brightest + strength)


def brightness(images: Tensor, _draws: Draws, rise: float) -> Tensor:
    """Raise the value of hue, saturation and value by ``rise``; hue and saturation stay.

    At fixed hue and saturation red, green and blue are proportional to the value.
    """
    value = images.amax(dim=1, keepdim=True)
    risen = (value + rise).clamp(max=1.0)
    return torch.where(value > 0, images * (risen / value.clamp(min=1e-12)), risen)
