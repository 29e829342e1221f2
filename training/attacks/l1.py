"""The exact Euclidean projection onto an L1 ball and the pixel range together.

Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (2021),
section 2.2. The nearest point takes from each pixel's change a common amount alpha, but no less than the
box asks for and no more than the change itself; the norm that remains is piecewise linear in alpha, so
sorting its kinks finds the alpha that leaves epsilon.

The arithmetic is that of AutoAttack's code to the last bit, but where all pixels, or all but one, leave the
box and alpha lies before the second kink: that code takes the wrong slope there and misses the norm.
"""

import numpy as np
import torch
from torch import Tensor


def project_l1(adversarial: Tensor, natural: Tensor, epsilon: float) -> Tensor:
    """Move images to the nearest points within L1 distance epsilon of the natural ones and in [0, 1].

    Args:
        adversarial: any images, shape (n, c, h, w).
        natural: the centres of the balls, in [0, 1], shape (n, c, h, w).
        epsilon: the radius: a sum of absolute pixel changes; above 0.

    Returns:
        The projected images, shape (n, c, h, w); in the ball and the box to within float32's rounding.
    """
    delta = adversarial - natural
    return natural + delta + l1_correction(natural, delta, epsilon)


def l1_correction(natural: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    """Return what to add to ``delta`` so that ``natural`` and both together lie in the ball and the box.

    Args:
        natural: the centres of the balls, in [0, 1], shape (n, c, h, w).
        delta: the changes to be projected, shape (n, c, h, w).
        epsilon: the radius, above 0.
    """
    flat, centre = delta.flatten(1), natural.flatten(1)
    size = flat.abs()
    least = torch.minimum(1.0 - centre - flat, centre + flat).clamp_(max=0.0).neg_()
    over = (least.sum(dim=1) + (epsilon - size.sum(dim=1)) < 0.0).nonzero().squeeze(1)
    if len(over):
        common = _common_amount(least[over], size[over], epsilon)
        least[over] = torch.minimum(torch.maximum(least[over], common), size[over])
    return (-flat.sign() * least).view_as(delta)


def _common_amount(least: Tensor, size: Tensor, epsilon: float) -> Tensor:
    """Return the alpha (n, 1) at which clamping it to [least, size], both (n, d), leaves norm epsilon."""
    kinks, bends = _kinks(least, size)
    # Between two kinks the pixels lose alpha that have passed their least and have not yet reached zero.
    slope = bends.cumsum(dim=1)
    lacking = torch.zeros_like(kinks)
    torch.cumsum(kinks.diff(dim=1) * slope[:, :-1], dim=1, out=lacking[:, 1:])
    lacking += least.sum(dim=1, keepdim=True)
    lacking += epsilon - size.sum(dim=1, keepdim=True)
    at = ((lacking < 0.0).sum(dim=1, keepdim=True) - 1).clamp_(min=0)
    return kinks.gather(1, at) - lacking.gather(1, at) / slope.gather(1, at).clamp_(min=1.0)


def _kinks(least: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Sort both, neither below 0, into one row each, (n, 2 d); 1 marks what was a least, -1 a size."""
    values = torch.cat((least, size), dim=1)
    if values.device.type == "cpu" and values.dtype == torch.float32:
        return _quick_kinks(values)
    kinks, order = values.sort(dim=1)
    return kinks, torch.where(order < least.shape[1], 1.0, -1.0).to(values)


def _quick_kinks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sort as :func:`_kinks`, several times faster: NumPy sorts plain integers with vector instructions.

    The bits of floats from 0 up are ordered as the floats are; in the sign's place goes the mark.
    """
    keys = values.numpy().view(np.uint32) << 1
    keys[:, keys.shape[1] // 2 :] |= 1
    keys.sort(axis=1)
    kinks, bends = (keys >> 1).view(np.float32), 1.0 - 2.0 * (keys & 1).astype(np.float32)
    return torch.from_numpy(kinks), torch.from_numpy(bends)
