"""Auto-PGD on the cross-entropy, the difference of logits ratio (DLR) and its targeted form.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (2020), algorithm 1 and section 4; the larger epsilons of L1 are from Croce and Hein, "Mind the
box" (2021), section 3.3. Examples do not influence each other, so one that has been fooled is dropped from
the batch without changing any outcome.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from training.attacks.apgd_steps import (
    ApgdBudget,
    State,
    first_density,
    first_step,
    move,
    reconsider,
)
from training.attacks.attempts import in_turn, likeliest_targets
from training.attacks.draws import Draws
from training.attacks.gradients import PerExampleLoss
from training.attacks.l1 import l1_correction
from training.attacks.losses import (
    LossAt,
    cross_entropy,
    logit_difference_ratio,
    targeted_logit_difference_ratio,
    targeted_margin,
)
from training.attacks.norms import unit
from training.attacks.victim import Batch, Victim

_CLASSES_FOR_DLR = 3
_CLASSES_FOR_TARGETED_DLR = 4
# Multiples of epsilon and their shares of the iterations; the last takes what is left.
_LARGER = ((3.0, 0.3), (2.0, 0.3))

_TargetedLoss: TypeAlias = Callable[[Tensor, Tensor], PerExampleLoss]


def apgd_ce(
    victim: Victim, batch: Batch, budget: ApgdBudget, draws: Draws, restarts: int = 1
) -> tuple[Tensor, Tensor]:
    """Run APGD on the cross-entropy.

    Args:
        victim: the model.
        batch: the examples.
        budget: the ball and the iterations.
        draws: where the starts come from.
        restarts: runs from new starts, each on what the earlier ones left.

    Returns:
        The adversarial images (n, c, h, w) and whether each fooled the model (n,).

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    run = partial(_search, victim, batch, budget, draws, lambda at: cross_entropy(batch.labels[at]))
    return in_turn(batch, [run] * restarts)


def dlr_name(classes: int) -> str:
    """Name what :func:`apgd_dlr` maximises with so many classes."""
    return "DLR" if classes >= _CLASSES_FOR_DLR else "margin"


def apgd_dlr(
    victim: Victim, batch: Batch, budget: ApgdBudget, draws: Draws, restarts: int = 1
) -> tuple[Tensor, Tensor]:
    """Run APGD on the DLR; with 2 classes on the margin. Otherwise as :func:`apgd_ce`."""
    if batch.logits.shape[1] < _CLASSES_FOR_DLR:
        return apgd_t(victim, batch, budget, draws, targets=1, restarts=restarts)
    run = partial(_search, victim, batch, budget, draws, lambda at: logit_difference_ratio(batch.labels[at]))
    return in_turn(batch, [run] * restarts)


def targeted_dlr_name(classes: int) -> str:
    """Name what :func:`apgd_t` maximises with so many classes."""
    return "targeted DLR" if classes >= _CLASSES_FOR_TARGETED_DLR else "targeted margin"


def apgd_t(
    victim: Victim, batch: Batch, budget: ApgdBudget, draws: Draws, *, targets: int, restarts: int = 1
) -> tuple[Tensor, Tensor]:
    """Run APGD on the targeted DLR towards each of the likeliest ``targets`` classes, at most classes - 1.

    With fewer than 4 classes, where the targeted DLR is not defined, on the targeted margin. Otherwise as
    :func:`apgd_ce`.
    """
    chosen = likeliest_targets(batch, targets)
    scaled = batch.logits.shape[1] >= _CLASSES_FOR_TARGETED_DLR
    loss = targeted_logit_difference_ratio if scaled else targeted_margin
    runs = [
        partial(_search, victim, batch, budget, draws, _towards(loss, batch.labels, chosen[:, target]))
        for target in range(chosen.shape[1])
        for _ in range(restarts)
    ]
    return in_turn(batch, runs)


def _towards(loss: _TargetedLoss, labels: Tensor, targets: Tensor) -> LossAt:
    return lambda at: loss(labels[at], targets[at])


def _search(
    victim: Victim, batch: Batch, budget: ApgdBudget, draws: Draws, loss_at: LossAt, at: Tensor
) -> tuple[Tensor, Tensor]:
    """Make one run on the examples at positions ``at``."""
    part = batch.select(at)

    def loss_of(rows: Tensor) -> PerExampleLoss:
        return loss_at(at[rows])

    if budget.larger_epsilons:
        return _from_afar(victim, part, budget, draws, loss_of, at)
    return search_from(victim, part, _start(part, at, budget, draws), budget, loss_of)


def _start(batch: Batch, at: Tensor, budget: ApgdBudget, draws: Draws) -> Tensor:
    shape, epsilon = batch.images.shape[1:], budget.epsilon
    if budget.norm == "L1":
        noise = draws.normal(at, *shape)
        return (batch.images + noise + l1_correction(batch.images, noise, epsilon)).clamp(0.0, 1.0)
    signed = budget.norm == "Linf"
    noise = 2.0 * draws.uniform(at, *shape) - 1.0 if signed else draws.normal(at, *shape)
    return (batch.images + epsilon * unit(noise, budget.norm)).clamp(0.0, 1.0)


def _from_afar(
    victim: Victim, batch: Batch, budget: ApgdBudget, draws: Draws, loss_at: LossAt, at: Tensor
) -> tuple[Tensor, Tensor]:
    """Search at larger epsilons first, where nothing counts as fooled, and go on from the best point."""
    stages = [(factor * budget.epsilon, math.ceil(share * budget.steps)) for factor, share in _LARGER]
    left = budget.steps - sum(steps for _, steps in stages)
    x = _nearer(batch, batch.images + draws.normal(at, *batch.images.shape[1:]), stages[0][0])
    for epsilon, steps in stages:
        stage = replace(budget, epsilon=epsilon, steps=steps)
        _start(batch, at, stage, draws)  # the reference draws a start here too, and does not use it
        x = _climb(victim, batch, _nearer(batch, x, epsilon), stage, loss_at)
    last = replace(budget, steps=left)
    _start(batch, at, last, draws)
    return search_from(victim, batch, _nearer(batch, x, budget.epsilon), last, loss_at, resumed=True)


def _nearer(batch: Batch, x: Tensor, epsilon: float) -> Tensor:
    """Project into the L1 ball, summed as the reference does: sparsity counts what rounding leaves."""
    return x + l1_correction(batch.images, x - batch.images, epsilon)


def search_from(
    victim: Victim, batch: Batch, start: Tensor, budget: ApgdBudget, loss_at: LossAt, *, resumed: bool = False
) -> tuple[Tensor, Tensor]:
    """Run APGD from given starting images until each example has fallen; larger epsilons are not used.

    Args:
        victim: the model.
        batch: the examples.
        start: images in the ball, shape (n, c, h, w).
        budget: the ball and the iterations.
        loss_at: what is maximised.
        resumed: the start is the best point of an earlier search: L1 begins as sparse as it is.

    Returns:
        The adversarial images (n, c, h, w) and whether each fooled the model (n,).
    """
    found = start.clone()
    fooled = torch.zeros(len(batch), dtype=torch.bool, device=start.device)
    state, logits = _begin(victim, batch, start, budget, loss_at, resumed=resumed)
    periods = budget.periods
    for iteration in range(budget.steps + 1):
        if iteration:
            logits = _advance(victim, state, budget, loss_at, first=iteration == 1)
        fell = victim.fooled(state.x, state.labels, logits)
        found[state.rows[fell]], fooled[state.rows[fell]] = state.x[fell], True
        state.keep(~fell)
        if not len(state.rows):
            return found, fooled
        if iteration in periods:
            reconsider(state, budget, periods[iteration])
    found[state.rows] = state.best
    if victim.search is not None:
        # Rounding may have hidden from the search that its best point fools the model.
        fooled[state.rows] = victim.fools_model(state.best, state.labels)
    return found, fooled


def _climb(victim: Victim, batch: Batch, start: Tensor, budget: ApgdBudget, loss_at: LossAt) -> Tensor:
    """Return the points of highest loss, shape (n, c, h, w); none is dropped."""
    state, _ = _begin(victim, batch, start, budget, loss_at, resumed=True)
    periods = budget.periods
    for iteration in range(1, budget.steps + 1):
        _advance(victim, state, budget, loss_at, first=iteration == 1)
        if iteration in periods:
            reconsider(state, budget, periods[iteration])
    return state.best


def _begin(
    victim: Victim, batch: Batch, start: Tensor, budget: ApgdBudget, loss_at: LossAt, *, resumed: bool
) -> tuple[State, Tensor]:
    rows = torch.arange(len(batch), device=start.device)
    start = start.clamp(0.0, 1.0)
    gradient, logits, loss = victim.gradient(start, loss_at(rows))
    density, sparsity = first_density(start, batch.images, resumed=resumed)
    state = State(
        rows=rows,
        natural=batch.images,
        labels=batch.labels,
        x=start,
        gradient=gradient,
        best_loss=loss,
        step_size=torch.full_like(loss, first_step(budget.norm, budget.epsilon)).view(-1, 1, 1, 1),
        density=density,
        sparsity=sparsity,
    )
    return state, logits


def _advance(victim: Victim, state: State, budget: ApgdBudget, loss_at: LossAt, *, first: bool) -> Tensor:
    """Move every row and look; return the logits, shape (n, classes)."""
    move(state, budget, first=first)
    gradient, logits, loss = victim.gradient(state.x, loss_at(state.rows))
    state.see(gradient, loss)
    return logits
