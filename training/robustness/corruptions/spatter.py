"""Spatter on the lens: water or mud. Images and results are float64, shape (n, c, h, w)."""

import torch
from torch import Tensor

from training.robustness.corruptions.colour import paint
from training.robustness.corruptions.draws import Draws
from training.robustness.corruptions.edges import (
    average3,
    distance,
    equalise,
    find_edges,
    pad,
    sum_of,
)
from training.robustness.corruptions.matrices import blur

_LEVELS = 255
_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)
_LEAST_MUD = 0.8
_CANNY = (50.0, 150.0)
_FURTHEST = 20
_EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


def spatter(  # noqa: PLR0913, PLR0917 - the source's six parameters
    images: Tensor,
    draws: Draws,
    mean: float,
    scale: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: int,
) -> Tensor:
    """Splash drops: normal noise (``mean``, ``scale``), blurred by ``sigma``, above ``threshold``.

    ``strength`` is the opacity of water, or the Gaussian that softens mud.
    """
    height, width = images.shape[2:]
    drops = blur(mean + scale * draws.normal(height, width), sigma)
    drops = torch.where(drops < threshold, 0.0, drops)
    if not mud:
        return images + strength * _water(drops) * paint(_WATER, images.shape[1])
    soft = blur((drops > threshold).double(), strength)
    cover = torch.where(soft < _LEAST_MUD, 0.0, soft)[:, None]
    return images * (1 - cover) + cover * paint(_MUD, images.shape[1])


def _water(drops: Tensor) -> Tensor:
    """Shade drops (n, h, w) by their distance from their rims, in [0, 1], shape (n, 1, h, w)."""
    levels = torch.floor(drops.clamp(max=1.0) * _LEVELS)
    depth = torch.floor(average3(distance(find_edges(levels, *_CANNY), _FURTHEST)).float()).double()
    embossed = sum_of(pad(equalise(depth), 1, "reflect"), _EMBOSS).clamp(0, _LEVELS)
    shaded = levels * torch.round(average3(embossed))
    brightest = shaded.amax(dim=(1, 2), keepdim=True)
    return (shaded / brightest.clamp(min=1.0))[:, None]
