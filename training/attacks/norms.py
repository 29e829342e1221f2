"""The geometry of a threat model: starts, steps and projections, all inside the pixel range [0, 1]."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from training.attacks.draws import Draws
from training.attacks.l1 import project_l1

Norm: TypeAlias = Literal["Linf", "L2", "L1"]

# Croce and Hein's reference adds the same constant before it divides by a norm.
_TINY = 1e-12
# An L1 step moves this share of the pixels, those of the largest gradient, at least one.
_SPARSE_SHARE = 0.05


def flat_norm(delta: Tensor) -> Tensor:
    """L2 norm of each example, shape (n, 1, 1, 1)."""
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size.view(-1, 1, 1, 1)


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each example's change, shape (n,)."""
    order = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}[norm]
    measured: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)
    return measured


def unit(delta: Tensor, norm: Norm) -> Tensor:
    """Scale each example to norm 1; shape kept."""
    return delta / (size(delta, norm).view(-1, 1, 1, 1) + _TINY)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Direction of ascent of norm 1: the sign for Linf, the unit gradient for L2.

    For L1, equal moves of the 5 % of pixels with the largest gradient (after Tramer and Boneh 2019,
    section 4): the one steepest pixel alone would leave the pixel range at once.
    """
    if norm == "Linf":
        return gradient.sign()
    return unit(gradient if norm == "L2" else _largest_signs(gradient), norm)


def _largest_signs(gradient: Tensor) -> Tensor:
    flat = gradient.flatten(1)
    count = max(1, round(_SPARSE_SHARE * flat.shape[1]))
    at = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter_(1, at, flat.gather(1, at).sign()).view_as(gradient)


def project(adversarial: Tensor, natural: Tensor, epsilon: float | Tensor, norm: Norm) -> Tensor:
    """Bring images into the ball of radius epsilon around the natural ones and into [0, 1]."""
    if norm == "Linf":
        inside = torch.minimum(torch.maximum(adversarial, natural - epsilon), natural + epsilon)
        return inside.clamp(0.0, 1.0)
    if norm == "L1":
        return project_l1(adversarial, natural, float(epsilon)).clamp(0.0, 1.0)
    delta = adversarial - natural
    length = flat_norm(delta)
    scaled = delta / (length + _TINY) * length.clamp(max=epsilon)
    return (natural + scaled).clamp(0.0, 1.0)


def random_start(natural: Tensor, epsilon: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw from the ball of radius epsilon: uniform for Linf; else a uniform radius and a direction."""
    if norm == "Linf":
        noise = torch.rand(natural.shape, generator=generator) * 2.0 - 1.0
        return (natural + epsilon * noise.to(natural)).clamp(0.0, 1.0)
    direction = unit(torch.randn(natural.shape, generator=generator), norm)
    radius = torch.rand((len(natural), 1, 1, 1), generator=generator)
    return (natural + (epsilon * radius * direction).to(natural)).clamp(0.0, 1.0)


def keyed_start(natural: Tensor, active: Tensor, epsilon: float, norm: Norm, draws: Draws) -> Tensor:
    """Start inside the ball: uniform for Linf, on the sphere for L2 and L1.

    Args:
        natural: images, shape (k, c, h, w).
        active: their positions in the batch, shape (k,); they key the draws.
        epsilon: the radius in pixel units of [0, 1].
        norm: which ball.
        draws: where the numbers come from.
    """
    if norm == "Linf":
        direction = 2.0 * draws.uniform(active, *natural.shape[1:]) - 1.0
    else:
        direction = unit(draws.normal(active, *natural.shape[1:]), norm)
    return project(natural + epsilon * direction, natural, epsilon, norm)
