"""The geometry of a threat model: starts, steps and projections, all inside the pixel range [0, 1]."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from training.randomness import IntArray, derive_seed, normal, uniform

Norm: TypeAlias = Literal["Linf", "L2"]

# Croce and Hein's reference adds the same constant before it divides by a norm.
_TINY = 1e-12


def flat_norm(delta: Tensor) -> Tensor:
    """L2 norm of each example, shape (n, 1, 1, 1)."""
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size.view(-1, 1, 1, 1)


def unit(delta: Tensor, norm: Norm) -> Tensor:
    """Scale each example to norm 1; shape kept."""
    if norm == "Linf":
        size = delta.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
        return delta / (size + _TINY)
    return delta / (flat_norm(delta) + _TINY)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Direction of steepest ascent of norm 1: the sign for Linf, the unit gradient for L2."""
    return gradient.sign() if norm == "Linf" else unit(gradient, "L2")


def project(adversarial: Tensor, natural: Tensor, epsilon: float | Tensor, norm: Norm) -> Tensor:
    """Bring images into the ball of radius epsilon around the natural ones and into [0, 1]."""
    if norm == "Linf":
        inside = torch.minimum(torch.maximum(adversarial, natural - epsilon), natural + epsilon)
        return inside.clamp(0.0, 1.0)
    delta = adversarial - natural
    size = flat_norm(delta)
    scaled = delta / (size + _TINY) * size.clamp(max=epsilon)
    return (natural + scaled).clamp(0.0, 1.0)


def random_start(natural: Tensor, epsilon: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw from the ball of radius epsilon: uniform for Linf; a uniform radius and direction for L2."""
    if norm == "Linf":
        noise = torch.rand(natural.shape, generator=generator) * 2.0 - 1.0
        return (natural + epsilon * noise.to(natural)).clamp(0.0, 1.0)
    direction = unit(torch.randn(natural.shape, generator=generator), "L2")
    radius = torch.rand((len(natural), 1, 1, 1), generator=generator)
    return (natural + (epsilon * radius * direction).to(natural)).clamp(0.0, 1.0)


def keyed_noise(natural: Tensor, rows: IntArray, norm: Norm, seed: int) -> Tensor:
    """Draw a direction for each example from (seed, row) alone, so that batches do not matter.

    Args:
        natural: images, shape (n, c, h, w); gives shape, type and device.
        rows: the examples' indices in their data set, shape (n,).
        norm: "Linf" draws uniformly in [-1, 1], "L2" a standard normal.
        seed: the key.
    """
    size = natural[0].numel()
    key = derive_seed(seed, "noise", norm)
    draws = uniform(key, rows, size) * 2.0 - 1.0 if norm == "Linf" else normal(key, rows, size)
    return torch.from_numpy(draws).to(natural).view_as(natural)
