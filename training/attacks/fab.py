"""FAB: the fast adaptive boundary attack, untargeted and targeted.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (2020),
algorithm 1 with AutoAttack's settings. It seeks the smallest perturbation, epsilon only sets how far off
it starts, and AutoAttack then asks whether the smallest lies in the ball. So does the first that does:
here an example is done with it. Examples do not influence each other, so it is dropped from the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import product

import torch
from torch import Tensor

from training.attacks.attempts import in_turn, likeliest_targets
from training.attacks.draws import Draws
from training.attacks.gradients import refuse_nan
from training.attacks.hyperplane import towards_hyperplane
from training.attacks.norms import Norm, size
from training.attacks.victim import Batch, Victim

_ALPHA_MAX = 0.1
_ETA = 1.05
_BETA = 0.9
# The reference's constants, where a gradient or a move may be zero.
_TINY = 1e-12
_LEAST_MOVE = 1e-8
# In a hurry: after so many steps, an example whose nearest boundary found is so many epsilons off is let go.
_PATIENCE = 20
_HOPELESS = 1.5
# How long a boundary's normal is decides how far off it is: in the dual norm.
_DUAL: dict[Norm, Norm] = {"Linf": "L1", "L2": "L2", "L1": "Linf"}


@dataclass(frozen=True)
class FabBudget:
    """The ball and how many iterations; ``epsilon`` in pixel units of [0, 1].

    ``hurried`` lets go, after 20 steps, of examples whose smallest perturbation so far is above 1.5
    epsilon: the later steps shorten it by little. This is ours; the reference goes on.
    """

    norm: Norm
    epsilon: float
    steps: int
    hurried: bool = False


@dataclass
class _State:
    """One row for each example that still stands; every field has examples first.

    ``rivals`` (n, r) are the classes whose boundaries with the true class are sought; ``smallest`` is the
    norm of the smallest perturbation found.
    """

    rows: Tensor
    natural: Tensor
    labels: Tensor
    rivals: Tensor
    x: Tensor
    smallest: Tensor

    def keep(self, mask: Tensor) -> None:
        if not bool(mask.all()):
            for field in fields(self):
                setattr(self, field.name, getattr(self, field.name)[mask])


def fab(
    victim: Victim, batch: Batch, budget: FabBudget, draws: Draws, restarts: int
) -> tuple[Tensor, Tensor]:
    """Run untargeted FAB: each step heads for the nearest of the boundaries with all other classes.

    A step costs a backward pass for each other class; with many classes :func:`fab_t` costs less.

    Args:
        victim: the model.
        batch: the examples.
        budget: the ball and the iterations.
        draws: where the starts come from, beginning with the second restart; the first is the image.
        restarts: how many, at least 1.

    Returns:
        Adversarial images in the ball (n, c, h, w), the natural ones where none was found, and whether
        each fooled the model (n,).

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    classes = batch.logits.shape[1]
    others = torch.arange(classes - 1, device=batch.labels.device).expand(len(batch), -1)
    others = others + (others >= batch.labels.unsqueeze(1)).long()
    return _runs(victim, batch, budget, draws, [others], restarts)


def fab_t(
    victim: Victim, batch: Batch, budget: FabBudget, draws: Draws, *, targets: int, restarts: int
) -> tuple[Tensor, Tensor]:
    """Run targeted FAB: for one target after another, each step heads for its boundary alone.

    Args:
        victim: the model.
        batch: the examples; the targets are the other classes by descending natural logit.
        budget: the ball and the iterations.
        draws: where the starts come from, beginning with the second restart of each target.
        targets: how many; cut to classes - 1.
        restarts: how many for each target, at least 1.

    Returns:
        As :func:`fab`.

    Raises:
        TrainingError: as :func:`fab`.
    """
    ranked = likeliest_targets(batch, targets)
    rivals = [ranked[:, rank, None] for rank in range(ranked.shape[1])]
    return _runs(victim, batch, budget, draws, rivals, restarts)


def _runs(
    victim: Victim, batch: Batch, budget: FabBudget, draws: Draws, rivals: Sequence[Tensor], restarts: int
) -> tuple[Tensor, Tensor]:
    """Run all restarts against each of ``rivals``, which are (n, r) each."""

    def attempt(chosen: Tensor, restart: int, left: Tensor) -> tuple[Tensor, Tensor]:
        part = batch.select(left)
        start = _random_start(part.images, budget, draws, left) if restart else part.images
        rows = torch.arange(len(left), device=left.device)
        smallest = torch.full((len(left),), torch.inf, device=left.device)
        state = _State(rows, part.images, part.labels, chosen[left], start, smallest)
        return _run(victim, state, budget)

    plan = product(rivals, range(restarts))
    return in_turn(batch, (partial(attempt, chosen, restart) for chosen, restart in plan))


def _random_start(natural: Tensor, budget: FabBudget, draws: Draws, left: Tensor) -> Tensor:
    """Draw a direction for each example and go half of epsilon."""
    shape = natural.shape[1:]
    noise = 2 * draws.uniform(left, *shape) - 1 if budget.norm == "Linf" else draws.normal(left, *shape)
    noise = noise.to(natural)
    away = budget.epsilon * noise / _wide(size(noise, budget.norm)) * 0.5
    return (natural + away).clamp(0.0, 1.0)


def _run(victim: Victim, state: _State, budget: FabBudget) -> tuple[Tensor, Tensor]:
    """Take the steps of one run, for each example until a point in the ball fools the model."""
    found = state.natural.clone()
    fooled = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    for step in range(1, budget.steps + 1):
        if not len(state.rows):
            break
        gap, gradient = _nearest_boundary(victim, state, budget.norm)
        state.x = _step(state, gap, gradient, budget.norm)
        crossed, fell = _judge(victim, state, budget)
        found[state.rows[fell]], fooled[state.rows[fell]] = state.x[fell], True
        natural = state.natural[crossed]
        state.x[crossed] = natural + (state.x[crossed] - natural) * _BETA
        hopeless = state.smallest > _HOPELESS * budget.epsilon
        state.keep(~fell & ~hopeless if budget.hurried and step >= _PATIENCE else ~fell)
    return found, fooled


def _nearest_boundary(victim: Victim, state: _State, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return the logit difference (n,) to the rival of the nearest boundary, and its gradient (n, c, h, w).

    Near is by the linear model and regardless of the box. One forward pass serves all rivals; with
    several passes the logits, and so the gradients, are their mean.
    """
    x = state.x.detach().requires_grad_()
    victim.cost.gradient += victim.passes * state.rivals.shape[1] * len(x)
    with torch.enable_grad():
        logits = torch.stack([(victim.search or victim.model)(x) for _ in range(victim.passes)]).mean(dim=0)
        gaps = logits.gather(1, state.rivals) - logits.gather(1, state.labels.unsqueeze(1))
    refuse_nan(logits)
    nearest, normal = torch.zeros_like(gaps[:, 0]), torch.zeros_like(x)
    shortest = torch.full_like(nearest, torch.inf)
    for rival, gap in enumerate(gaps.unbind(dim=1), start=1):
        gradient = _slope(gap, x, keep=rival < gaps.shape[1])
        refuse_nan(gradient)
        distance = gap.detach().abs() / (_TINY + size(gradient, _DUAL[norm]))
        at = (distance < shortest).nonzero().squeeze(1)
        shortest[at], nearest[at], normal[at] = distance[at], gap.detach()[at], gradient[at]
    return nearest, normal


def _slope(gap: Tensor, x: Tensor, *, keep: bool) -> Tensor:
    """Return the gradient of the gaps, shape of ``x``: zero where the model passes none back."""
    if not gap.requires_grad:
        return torch.zeros_like(x)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(gap.sum(), x, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def _step(state: _State, gap: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """Go a little beyond the boundary, with a bias towards its point nearest to the natural image."""
    x, natural = state.x.flatten(1), state.natural.flatten(1)
    normals = gradient.flatten(1)
    offsets = (normals * x).sum(dim=1) - gap
    moves = towards_hyperplane(torch.stack([x, natural]), normals, offsets, norm)
    onward, away = moves.view(2, *state.x.shape)
    lengths = size(moves.flatten(0, 1), norm).clamp(min=_LEAST_MOVE).view(2, -1)
    bias = _wide((lengths[0] / (lengths[0] + lengths[1])).clamp(max=_ALPHA_MAX))
    ahead, anew = state.x + _ETA * onward, state.natural + _ETA * away
    stepped: Tensor = ahead * (1 - bias) + anew * bias
    return stepped.clamp(0.0, 1.0)


def _judge(victim: Victim, state: _State, budget: FabBudget) -> tuple[Tensor, Tensor]:
    """Tell which images the model gets wrong, and which of them count, as in the ball, both (n,)."""
    # A pass of its own: most points cross and are pulled back, so a gradient here would be of no use.
    logits = victim.logits(state.x)
    crossed = logits.argmax(dim=1) != state.labels
    norms = size(state.x - state.natural, budget.norm)
    state.smallest = torch.where(crossed, torch.minimum(norms, state.smallest), state.smallest)
    within = norms <= budget.epsilon
    at = (crossed & within).nonzero().squeeze(1)
    fell = torch.zeros_like(crossed)
    fell[at] = victim.fooled(state.x[at], state.labels[at], logits[at])
    return crossed, fell


def _wide(each: Tensor) -> Tensor:
    return each.view(-1, 1, 1, 1)
