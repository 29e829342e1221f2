"""Auto-PGD on the cross-entropy.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (2020), algorithm 1 and section 3; momentum 0.75, rho 0.75, checkpoints from
p = 0.22 shrinking by 0.03 to no less than 0.06. Examples do not influence each other, so one that has
been fooled is dropped from the batch without changing any outcome.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from training.attacks.gradients import input_gradient, refuse_nan
from training.attacks.losses import cross_entropy
from training.attacks.norms import Norm, keyed_noise, project, steepest, unit
from training.randomness import IntArray

_MOMENTUM = 0.75
_RHO = 0.75
_FIRST_STEP = 2.0


@dataclass(frozen=True)
class ApgdBudget:
    """The ball and how many iterations; ``epsilon`` in pixel units of [0, 1]."""

    norm: Norm
    epsilon: float
    steps: int

    @property
    def periods(self) -> dict[int, int]:
        """Checkpoint (an iteration, counted from 1) to the number of iterations since the one before."""
        period, shrink = max(int(0.22 * self.steps), 1), max(int(0.03 * self.steps), 1)
        shortest = max(int(0.06 * self.steps), 1)
        at, periods = period, {}
        while at <= self.steps:
            periods[at] = period
            period = max(period - shrink, shortest)
            at += period
        return periods


@dataclass
class _State:
    """One row for each example that still stands; every field has examples first."""

    rows: Tensor
    natural: Tensor
    labels: Tensor
    x: Tensor
    previous: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    checked_loss: Tensor
    was_reduced: Tensor
    step_size: Tensor
    rises: Tensor
    last_loss: Tensor

    def keep(self, mask: Tensor) -> None:
        if not bool(mask.all()):
            for field in fields(self):
                setattr(self, field.name, getattr(self, field.name)[mask])


def apgd_ce(
    model: nn.Module, natural: Tensor, labels: Tensor, rows: IntArray, budget: ApgdBudget, seed: int
) -> tuple[Tensor, Tensor]:
    """Run one restart of APGD-CE.

    Args:
        model: frozen, in eval mode.
        natural: images in [0, 1], shape (n, c, h, w).
        labels: true classes, shape (n,).
        rows: the examples' indices in their data set, shape (n,); with ``seed`` they key the start.
        budget: the ball and the iterations.
        seed: the key of this restart.

    Returns:
        The adversarial images (n, c, h, w) and whether each fooled the model (n,).

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    noise = keyed_noise(natural, rows, budget.norm, seed)
    start = (natural + budget.epsilon * unit(noise, budget.norm)).clamp(0.0, 1.0)
    return apgd_ce_from(model, natural, labels, start, budget)


def apgd_ce_from(
    model: nn.Module, natural: Tensor, labels: Tensor, start: Tensor, budget: ApgdBudget
) -> tuple[Tensor, Tensor]:
    """Run APGD-CE from given starting images; otherwise as :func:`apgd_ce`."""
    found = start.clone()
    fooled = torch.zeros(len(natural), dtype=torch.bool, device=natural.device)
    state, stands = _begin(model, natural, labels, start, budget)
    fooled[~stands] = True
    state.keep(stands)
    periods = budget.periods
    for iteration in range(1, budget.steps + 1):
        if not len(state.rows):
            break
        _move(state, budget, momentum=_MOMENTUM if iteration > 1 else 1.0)
        stands = _observe(model, state)
        fell = state.rows[~stands]
        found[fell], fooled[fell] = state.x[~stands], True
        state.keep(stands)
        if iteration in periods:
            _reconsider(state, periods[iteration])
    return found, fooled


def _begin(
    model: nn.Module, natural: Tensor, labels: Tensor, start: Tensor, budget: ApgdBudget
) -> tuple[_State, Tensor]:
    gradient, logits, loss = input_gradient(model, start, cross_entropy(labels))
    refuse_nan(gradient, logits, loss)
    state = _State(
        rows=torch.arange(len(natural), device=natural.device),
        natural=natural,
        labels=labels,
        x=start,
        previous=start,
        gradient=gradient,
        best=start,
        best_gradient=gradient,
        best_loss=loss,
        checked_loss=loss,
        was_reduced=torch.ones_like(loss, dtype=torch.bool),
        step_size=torch.full_like(loss, _FIRST_STEP * budget.epsilon).view(-1, 1, 1, 1),
        rises=torch.zeros_like(loss),
        # The reference compares the first loss with an entry that is still zero.
        last_loss=torch.zeros_like(loss),
    )
    return state, logits.argmax(dim=1) == labels


def _move(state: _State, budget: ApgdBudget, momentum: float) -> None:
    drift = state.x - state.previous
    state.previous = state.x
    stepped = state.x + state.step_size * steepest(state.gradient, budget.norm)
    stepped = project(stepped, state.natural, budget.epsilon, budget.norm)
    mixed = state.x + momentum * (stepped - state.x) + (1.0 - momentum) * drift
    state.x = project(mixed, state.natural, budget.epsilon, budget.norm)


def _observe(model: nn.Module, state: _State) -> Tensor:
    state.gradient, logits, loss = input_gradient(model, state.x, cross_entropy(state.labels))
    refuse_nan(state.gradient, logits, loss)
    state.rises = state.rises + (loss > state.last_loss)
    state.last_loss = loss
    better = loss > state.best_loss
    wide = better.view(-1, 1, 1, 1)
    state.best = torch.where(wide, state.x, state.best)
    state.best_gradient = torch.where(wide, state.gradient, state.best_gradient)
    state.best_loss = torch.where(better, loss, state.best_loss)
    return logits.argmax(dim=1) == state.labels


def _reconsider(state: _State, period: int) -> None:
    """Halve the step of examples that oscillate or stall, and send them back to their best point."""
    oscillates = state.rises <= _RHO * period
    stalls = ~state.was_reduced & (state.checked_loss >= state.best_loss)
    reduce = oscillates | stalls
    state.was_reduced, state.checked_loss = reduce, state.best_loss
    state.rises = torch.zeros_like(state.rises)
    wide = reduce.view(-1, 1, 1, 1)
    state.step_size = torch.where(wide, state.step_size / 2.0, state.step_size)
    state.x = torch.where(wide, state.best, state.x)
    state.gradient = torch.where(wide, state.best_gradient, state.gradient)
