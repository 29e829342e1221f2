"""Projected gradient descent (Madry et al., "Towards deep learning models resistant to attacks", 2018)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from training.attacks.attempts import in_turn
from training.attacks.draws import Draws
from training.attacks.gradients import PerExampleLoss, input_gradient
from training.attacks.losses import LossAt, cross_entropy
from training.attacks.norms import Norm, keyed_start, project, steepest
from training.attacks.victim import Batch, Victim


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


def pgd(
    victim: Victim,
    batch: Batch,
    ascent: Ascent,
    draws: Draws,
    loss_at: LossAt | None = None,
    *,
    restarts: int = 1,
) -> tuple[Tensor, Tensor]:
    """Attack until misclassified: every iterate counts, and an example that fell is left alone.

    Args:
        victim: the model.
        batch: the examples.
        ascent: the ball and the steps.
        draws: where the starts come from.
        loss_at: what is maximised; by default the cross-entropy to the labels.
        restarts: runs from new starts, each on what the earlier ones left.

    Returns:
        The adversarial images (n, c, h, w) and whether each fooled the model (n,).

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    run = partial(_run, victim, batch, ascent, draws, loss_at)
    return in_turn(batch, [run] * restarts)


def _run(
    victim: Victim, batch: Batch, ascent: Ascent, draws: Draws, loss_at: LossAt | None, at: Tensor
) -> tuple[Tensor, Tensor]:
    natural, labels = batch.images[at], batch.labels[at]
    found = keyed_start(natural, at, ascent.epsilon, ascent.norm, draws)
    fooled = torch.zeros(len(at), dtype=torch.bool, device=at.device)
    active = torch.arange(len(at), device=at.device)
    for _ in range(ascent.steps):
        x, true = found[active], labels[active]
        loss = loss_at(at[active]) if loss_at else cross_entropy(true)
        gradient, logits, _ = victim.gradient(x, loss)
        fell = victim.fooled(x, true, logits)
        fooled[active[fell]] = True
        active = active[~fell]
        if not len(active):
            return found, fooled
        moved = x[~fell] + ascent.step_size * steepest(gradient[~fell], ascent.norm)
        found[active] = project(moved, natural[active], ascent.epsilon, ascent.norm)
    x = found[active]
    fooled[active] = victim.fooled(x, labels[active], victim.logits(x))
    return found, fooled
