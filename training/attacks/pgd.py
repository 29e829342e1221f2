"""Projected gradient descent (Madry et al., "Towards deep learning models resistant to attacks", 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.attacks.gradients import PerExampleLoss, input_gradient, refuse_nan
from training.attacks.losses import cross_entropy
from training.attacks.norms import Norm, keyed_noise, project, steepest, unit
from training.randomness import IntArray


@dataclass(frozen=True)
class Ascent:
    """Steps of steepest ascent inside a ball; ``epsilon`` and ``step_size`` in pixel units of [0, 1]."""

    norm: Norm
    epsilon: float
    step_size: float
    steps: int


def ascend(model: nn.Module, natural: Tensor, start: Tensor, loss: PerExampleLoss, ascent: Ascent) -> Tensor:
    """Take every step and return the last images, shape (n, c, h, w); the model must be frozen."""
    x = start
    for _ in range(ascent.steps):
        gradient, _, _ = input_gradient(model, x, loss)
        x = x + ascent.step_size * steepest(gradient, ascent.norm)
        x = project(x, natural, ascent.epsilon, ascent.norm)
    return x.detach()


def keyed_start(natural: Tensor, rows: IntArray, ascent: Ascent, seed: int) -> Tensor:
    """Start inside the ball from (seed, row) alone: uniform for Linf, on the sphere for L2."""
    noise = keyed_noise(natural, rows, ascent.norm, seed)
    direction = noise if ascent.norm == "Linf" else unit(noise, "L2")
    return project(natural + ascent.epsilon * direction, natural, ascent.epsilon, ascent.norm)


def pgd(
    model: nn.Module, natural: Tensor, labels: Tensor, rows: IntArray, ascent: Ascent, seed: int
) -> tuple[Tensor, Tensor]:
    """Attack until misclassified: every iterate counts, and an example that fell is left alone.

    Args:
        model: frozen, in eval mode.
        natural: images in [0, 1], shape (n, c, h, w).
        labels: true classes, shape (n,).
        rows: the examples' indices in their data set, shape (n,); with ``seed`` they key the start.
        ascent: the ball and the steps.
        seed: the key of this restart.

    Returns:
        The adversarial images (n, c, h, w) and whether each fooled the model (n,).

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    found = keyed_start(natural, rows, ascent, seed)
    fooled = torch.zeros(len(natural), dtype=torch.bool, device=natural.device)
    active = torch.arange(len(natural), device=natural.device)
    for step in range(ascent.steps + 1):
        x, clean, true = found[active], natural[active], labels[active]
        if step == ascent.steps:
            with torch.no_grad():
                logits = model(x)
            refuse_nan(logits)
            fooled[active] = logits.argmax(dim=1) != true
            break
        gradient, logits, _ = input_gradient(model, x, cross_entropy(true))
        refuse_nan(gradient, logits)
        fell = logits.argmax(dim=1) != true
        fooled[active] = fell
        moved = x + ascent.step_size * steepest(gradient, ascent.norm)
        active = active[~fell]
        if not len(active):
            break
        found[active] = project(moved, clean, ascent.epsilon, ascent.norm)[~fell]
    return found, fooled
