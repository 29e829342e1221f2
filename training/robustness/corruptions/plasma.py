"""Cloud-like maps: the diamond-square fractal of Fournier, Fussell and Carpenter (1982), on a torus."""

import torch
from torch import Tensor

from training.robustness.corruptions.draws import Draws

_FIRST_WOBBLE = 100.0


def plasma(draws: Draws, size: tuple[int, ...], decay: float) -> Tensor:
    """Draw a map for each example, float64, shape (n, *size), cut from a square whose side is a power of two.

    The square covers [0, 1]. ``size`` is (height, width); a larger ``decay`` makes the map smoother.
    """
    height, width = size
    side = 1 << (max(height, width) - 1).bit_length()
    field = torch.zeros(len(draws), side, side, dtype=torch.float64)
    step, wobble = side, _FIRST_WOBBLE
    while step > 1:
        _fill_squares(field, step, wobble, draws)
        _fill_diamonds(field, step, wobble, draws)
        step //= 2
        wobble /= decay
    low, high = field.amin(dim=(1, 2), keepdim=True), field.amax(dim=(1, 2), keepdim=True)
    return ((field - low) / (high - low))[:, :height, :width]


def _fill_squares(field: Tensor, step: int, wobble: float, draws: Draws) -> None:
    corners = field[:, ::step, ::step]
    pairs = corners + corners.roll(-1, dims=1)
    field[:, step // 2 :: step, step // 2 :: step] = _wobbled(pairs + pairs.roll(-1, dims=2), wobble, draws)


def _fill_diamonds(field: Tensor, step: int, wobble: float, draws: Draws) -> None:
    corners = field[:, ::step, ::step]
    centres = field[:, step // 2 :: step, step // 2 :: step]
    top = centres + centres.roll(1, dims=1) + corners + corners.roll(-1, dims=2)
    field[:, ::step, step // 2 :: step] = _wobbled(top, wobble, draws)
    left = centres + centres.roll(1, dims=2) + corners + corners.roll(-1, dims=1)
    field[:, step // 2 :: step, ::step] = _wobbled(left, wobble, draws)


def _wobbled(total: Tensor, wobble: float, draws: Draws) -> Tensor:
    # The published code multiplies by the wobble twice.
    return total / 4 + wobble**2 * (2 * draws.uniform(*total.shape[1:]) - 1)
