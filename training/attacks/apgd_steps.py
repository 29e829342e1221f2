"""How Auto-PGD moves and when it reconsiders: with momentum for Linf and L2, sparsely for L1.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (2020), algorithm 1 and section 3: momentum 0.75, rho 0.75, checkpoints from p = 0.22 shrinking by
0.03 to no less than 0.06. Croce and Hein, "Mind the box" (2021), section 3.2, for L1: the number of
pixels that a step moves and the step size follow the sparsity of the best point.
"""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from training.attacks.norms import Norm, project, steepest

_MOMENTUM = 0.75
_RHO = 0.75
_SPARSE_PERIOD = 0.04
_SPARSE_START = 0.2
_SPARSER = 0.95
_SPARSITY_DIVISOR = 1.5
_SPARSE_STEP_DIVISOR = 1.5
_SPARSE_LEAST_STEP = 0.1
_TINY_COUNT = 1e-10


@dataclass(frozen=True)
class ApgdBudget:
    """The ball and how many iterations; ``epsilon`` in pixel units of [0, 1].

    ``larger_epsilons``: 30 % of the iterations each at 3 and at 2 times epsilon come first.
    """

    norm: Norm
    epsilon: float
    steps: int
    larger_epsilons: bool = False

    @property
    def periods(self) -> dict[int, int]:
        """Checkpoint (an iteration, counted from 1) to the number of iterations since the one before."""
        if self.norm == "L1":
            every = max(int(_SPARSE_PERIOD * self.steps), 1)
            return dict.fromkeys(range(every, self.steps + 1, every), every)
        period, shrink = max(int(0.22 * self.steps), 1), max(int(0.03 * self.steps), 1)
        shortest = max(int(0.06 * self.steps), 1)
        at, periods = period, {}
        while at <= self.steps:
            periods[at] = period
            period = max(period - shrink, shortest)
            at += period
        return periods


@dataclass
class State:
    """One row for each example that is searched; every field has examples first.

    ``rows`` are positions in the batch, ``density`` the share of pixels that an L1 step moves and
    ``sparsity`` the number that the best point had changed at the last checkpoint.
    """

    rows: Tensor
    natural: Tensor
    labels: Tensor
    x: Tensor
    gradient: Tensor
    best_loss: Tensor
    step_size: Tensor
    density: Tensor
    sparsity: Tensor
    previous: Tensor = field(init=False)
    best: Tensor = field(init=False)
    best_gradient: Tensor = field(init=False)
    checked_loss: Tensor = field(init=False)
    was_reduced: Tensor = field(init=False)
    rises: Tensor = field(init=False)
    last_loss: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.previous = self.best = self.x
        self.best_gradient, self.checked_loss = self.gradient, self.best_loss
        self.was_reduced = torch.ones_like(self.best_loss, dtype=torch.bool)
        self.rises = torch.zeros_like(self.best_loss)
        # The reference compares the first loss with an entry that is still zero.
        self.last_loss = torch.zeros_like(self.best_loss)

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where ``mask`` is false."""
        if not bool(mask.all()):
            for each in fields(self):
                setattr(self, each.name, getattr(self, each.name)[mask])

    def see(self, gradient: Tensor, loss: Tensor) -> None:
        """Take in what the model gave for ``x``."""
        self.gradient = gradient
        self.rises = self.rises + (loss > self.last_loss)
        self.last_loss = loss
        better = loss > self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        wide = better.view(-1, 1, 1, 1)
        self.best = torch.where(wide, self.x, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)

    def return_to_best(self, which: Tensor) -> None:
        """Send the rows where ``which`` is true back to their best point."""
        wide = which.view(-1, 1, 1, 1)
        self.x = torch.where(wide, self.best, self.x)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)


def first_step(norm: Norm, epsilon: float) -> float:
    """Return the step size at the start, in pixel units."""
    return epsilon if norm == "L1" else 2.0 * epsilon


def first_density(start: Tensor, natural: Tensor, *, resumed: bool) -> tuple[Tensor, Tensor]:
    """Return density and sparsity at the start, each (n,): fixed, or those of a start that was searched."""
    pixels = natural[0].numel()
    if not resumed:
        density = torch.full((len(natural),), _SPARSE_START, device=natural.device)
        return density, torch.full_like(density, pixels)
    changed = changed_pixels(start, natural)
    return changed / pixels / _SPARSITY_DIVISOR, changed


def changed_pixels(x: Tensor, natural: Tensor) -> Tensor:
    """Count the values that differ, shape (n,), as float32."""
    return (x != natural).flatten(1).sum(dim=1).float()


def move(state: State, budget: ApgdBudget, *, first: bool) -> None:
    """Take one step from every row's ``x``."""
    if budget.norm == "L1":
        stepped = state.x + _sparse_step(state)
        state.previous = state.x
        state.x = project(stepped, state.natural, budget.epsilon, "L1")
        return
    momentum = 1.0 if first else _MOMENTUM
    drift = state.x - state.previous
    state.previous = state.x
    stepped = state.x + state.step_size * steepest(state.gradient, budget.norm)
    stepped = project(stepped, state.natural, budget.epsilon, budget.norm)
    mixed = state.x + momentum * (stepped - state.x) + (1.0 - momentum) * drift
    state.x = project(mixed, state.natural, budget.epsilon, budget.norm)


def _sparse_step(state: State) -> Tensor:
    # In the reference's order of operations: sparsity counts what rounding leaves of a change.
    size = state.gradient.abs().flatten(1)
    pixels = size.shape[1]
    rank = ((1.0 - state.density) * pixels).clamp(0, pixels - 1).long()
    least = size.sort(dim=1).values.gather(1, rank.unsqueeze(1)).view(-1, 1, 1, 1)
    signs = (state.gradient * (state.gradient.abs() >= least)).sign()
    count = signs.abs().flatten(1).sum(dim=1).view(-1, 1, 1, 1)
    return state.step_size * signs / (count + _TINY_COUNT)


def reconsider(state: State, budget: ApgdBudget, period: int) -> None:
    """At a checkpoint, choose new step sizes and send rows back to their best point."""
    if budget.norm == "L1":
        _reconsider_sparsity(state, budget.epsilon)
    else:
        _reconsider_progress(state, period)


def _reconsider_progress(state: State, period: int) -> None:
    """Halve the step of rows that oscillate or stall."""
    oscillates = state.rises <= _RHO * period
    stalls = ~state.was_reduced & (state.checked_loss >= state.best_loss)
    reduce = oscillates | stalls
    state.was_reduced, state.checked_loss = reduce, state.best_loss
    state.rises = torch.zeros_like(state.rises)
    state.step_size = torch.where(reduce.view(-1, 1, 1, 1), state.step_size / 2.0, state.step_size)
    state.return_to_best(reduce)


def _reconsider_sparsity(state: State, epsilon: float) -> None:
    """Start anew, with full steps, the rows whose best point became sparser; shorten the others' steps."""
    changed = changed_pixels(state.best, state.natural)
    sparser = changed / state.sparsity < _SPARSER
    state.density = changed / state.natural[0].numel() / _SPARSITY_DIVISOR
    state.sparsity = changed
    shorter = (state.step_size / _SPARSE_STEP_DIVISOR).clamp(min=epsilon * _SPARSE_LEAST_STEP)
    state.step_size = torch.where(sparser.view(-1, 1, 1, 1), torch.full_like(shorter, epsilon), shorter)
    state.return_to_best(sparser)
