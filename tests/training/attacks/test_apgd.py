"""APGD-CE against the published algorithm, written down once more for one example at a time."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from training.attacks import apgd
from training.attacks.apgd import ApgdBudget, apgd_ce, apgd_ce_from
from training.attacks.gradients import frozen
from training.attacks.losses import cross_entropy
from training.attacks.norms import Norm
from training.attacks.pgd import Ascent, pgd
from training.errors import TrainingError
from training.models.classifier import Classifier
from training.validation import LabelledImages

CPU = torch.device("cpu")
BUDGETS = [ApgdBudget("Linf", 0.1, 100), ApgdBudget("L2", 0.4, 100)]
COUNT = 32


def released_checkpoints(steps: int) -> list[int]:
    """Count as the authors' released code does: a countdown ``k`` that starts anew at each checkpoint."""
    k, least, less = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    found, since = [], 0
    for iteration in range(1, steps + 1):
        since += 1
        if since == k:
            found.append(iteration)
            since, k = 0, max(k - less, least)
    return found


def paper_checkpoints(steps: int) -> list[int]:
    """Section 3.1: p_0 = 0, p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06); w_j = ceil(p_j N)."""
    before, at = Fraction(0), Fraction(22, 100)
    found = []
    while at <= 1:
        found.append(-int(-at * steps // 1))
        before, at = at, at + max(at - before - Fraction(3, 100), Fraction(6, 100))
    return found


def test_a_hundred_steps_have_the_published_checkpoints() -> None:
    published = [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(ApgdBudget("Linf", 0.1, 100).periods) == published
    assert paper_checkpoints(100) == published


def test_other_numbers_of_steps_are_rounded_as_in_the_released_code() -> None:
    for steps in range(2, 301):
        periods = ApgdBudget("Linf", 0.1, steps).periods
        assert list(periods) == released_checkpoints(steps)
        assert list(periods.values()) == np.diff([0, *periods]).tolist()
    assert paper_checkpoints(20) != released_checkpoints(20)


@dataclass
class Point:
    x: Tensor
    loss: float
    gradient: Tensor
    right: bool


def look(model: Classifier, x: Tensor, label: Tensor) -> Point:
    x = x.clone().requires_grad_()
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, label)
    (gradient,) = torch.autograd.grad(loss, x)
    return Point(x.detach(), float(loss.detach()), gradient, bool(logits.argmax() == label))


def ball(x: Tensor, natural: Tensor, budget: ApgdBudget) -> Tensor:
    delta = x - natural
    if budget.norm == "Linf":
        return (natural + delta.clip(-budget.epsilon, budget.epsilon)).clip(0, 1)
    return (natural + delta * min(1.0, budget.epsilon / max(float(delta.norm()), 1e-12))).clip(0, 1)


def published_apgd(
    model: Classifier, natural: Tensor, label: Tensor, start: Tensor, budget: ApgdBudget
) -> tuple[bool, float]:
    """Algorithm 1 on one example, to the end; returns whether any iterate fooled, and the best loss.

    Where paper and released code differ, the code: condition 1 has "at most", not "fewer than", and the
    first loss is compared with zero.
    """
    checkpoints, last = released_checkpoints(budget.steps), 0
    now, before = look(model, start, label), start
    best, best_at_check, halved, step = now, now.loss, True, 2 * budget.epsilon
    losses, fooled = [0.0], not now.right
    for k in range(1, budget.steps + 1):
        slope = now.gradient.sign() if budget.norm == "Linf" else now.gradient / now.gradient.norm()
        z = ball(now.x + step * slope, natural, budget)
        alpha = 0.75 if k > 1 else 1.0
        moved = ball(now.x + alpha * (z - now.x) + (1 - alpha) * (now.x - before), natural, budget)
        before, now = now.x, look(model, moved, label)
        losses.append(now.loss)
        fooled = fooled or not now.right
        best = now if now.loss > best.loss else best
        if k in checkpoints:
            rises = sum(losses[i] > losses[i - 1] for i in range(last + 1, k + 1))
            stalls = not halved and best_at_check >= best.loss
            halved = rises <= 0.75 * (k - last) or stalls
            best_at_check, last = best.loss, k
            step, now = (step / 2, best) if halved else (step, now)
    return fooled, best.loss


def keep_state(monkeypatch: pytest.MonkeyPatch) -> list[apgd._State]:
    """Catch the state of a run: at its end it holds the examples that were never fooled."""
    states: list[apgd._State] = []
    begin = apgd._begin

    def watched(
        model: torch.nn.Module, natural: Tensor, labels: Tensor, start: Tensor, budget: ApgdBudget
    ) -> tuple[apgd._State, Tensor]:
        state, stands = begin(model, natural, labels, start, budget)
        states.append(state)
        return state, stands

    monkeypatch.setattr(apgd, "_begin", watched)
    return states


def in_double(unseen: LabelledImages) -> tuple[Tensor, Tensor]:
    x, y = unseen.batch(0, 96, CPU)
    return x.double(), y


def right_ones(trained: Classifier, unseen: LabelledImages) -> tuple[Tensor, Tensor]:
    x, y = in_double(unseen)
    with torch.no_grad():
        right = trained(x).argmax(dim=1) == y
    return x[right][:COUNT], y[right][:COUNT]


def some_start(x: Tensor, budget: ApgdBudget) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    return torch.cat([ball(a[None] + budget.epsilon * b[None], a[None], budget) for a, b in zip(x, noise)])  # noqa: B905 - of one length


@pytest.mark.parametrize("budget", BUDGETS)
def test_outcomes_and_best_losses_are_those_of_the_published_algorithm(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = right_ones(trained, unseen)
    start = some_start(x, budget)
    states = keep_state(monkeypatch)
    with frozen(trained):
        _, fooled = apgd_ce_from(trained, x, y, start, budget)
        wanted = [
            published_apgd(trained, x[i : i + 1], y[i : i + 1], start[i : i + 1], budget)
            for i in range(len(x))
        ]
    assert fooled.tolist() == [fell for fell, _ in wanted]
    assert 0 < int(fooled.sum()) < len(x)
    standing = states[0].rows.tolist()
    assert standing == [i for i, (fell, _) in enumerate(wanted) if not fell]
    assert states[0].best_loss.tolist() == pytest.approx([wanted[i][1] for i in standing], rel=1e-6)


@pytest.mark.parametrize("budget", BUDGETS)
def test_images_stay_in_the_ball_and_flags_are_what_the_model_says(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget
) -> None:
    x, y = in_double(unseen)
    with frozen(trained), torch.no_grad():
        found, fooled = apgd_ce(trained, x, y, np.arange(96), budget, 0)
        assert torch.equal(fooled, trained(found).argmax(dim=1) != y)
    delta = (found - x).flatten(1)
    sizes = delta.abs().amax(dim=1) if budget.norm == "Linf" else delta.norm(dim=1)
    assert float(sizes.max()) <= budget.epsilon * (1 + 1e-5)
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert 0 < int(fooled.sum()) < 96


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_iterate_stays_in_the_ball(
    trained: Classifier, unseen: LabelledImages, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = right_ones(trained, unseen)
    budget = ApgdBudget(norm, 0.02, 20)
    sizes: list[float] = []
    observe = apgd._observe

    def watched(model: torch.nn.Module, state: apgd._State) -> Tensor:
        delta = (state.x - state.natural).flatten(1)
        sizes.append(float((delta.abs().amax(dim=1) if norm == "Linf" else delta.norm(dim=1)).max()))
        assert 0.0 <= float(state.x.min()) <= float(state.x.max()) <= 1.0
        return observe(model, state)

    monkeypatch.setattr(apgd, "_observe", watched)
    with frozen(trained):
        apgd_ce(trained, x, y, np.arange(len(x)), budget, 0)
    assert len(sizes) == 20
    assert 0.0199 < max(sizes) <= 0.02 * (1 + 1e-9)


@pytest.mark.parametrize("budget", BUDGETS)
def test_an_outcome_does_not_depend_on_the_batch(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget
) -> None:
    x, y = right_ones(trained, unseen)
    rows = np.arange(len(x)) + 40
    with frozen(trained):
        whole, fooled = apgd_ce(trained, x, y, rows, budget, 0)
        for pick in ([7], [3, 1], list(range(8, 20))):
            part, fell = apgd_ce(trained, x[pick], y[pick], rows[pick], budget, 0)
            assert torch.equal(fell, fooled[pick])
            assert torch.allclose(part, whole[pick], atol=1e-9)


@pytest.mark.parametrize("budget", BUDGETS)
def test_apgd_is_at_least_as_strong_as_pgd(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget
) -> None:
    x, y = in_double(unseen)
    ascent = Ascent(budget.norm, budget.epsilon, 0.1 * budget.epsilon, 20)
    with frozen(trained):
        _, by_pgd = pgd(trained, x, y, np.arange(96), ascent, 0)
        _, by_apgd = apgd_ce(trained, x, y, np.arange(96), budget, 0)
    assert 0 < int(by_pgd.sum()) <= int(by_apgd.sum()) < 96


def test_a_stronger_budget_raises_the_best_loss(
    trained: Classifier, unseen: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = right_ones(trained, unseen)
    states = keep_state(monkeypatch)
    with frozen(trained), torch.no_grad():
        natural = cross_entropy(y)(trained(x))
        apgd_ce_from(trained, x, y, x, ApgdBudget("Linf", 0.02, 20))
    assert bool((states[0].best_loss > natural[states[0].rows]).all())


class NanInOnePlace(torch.nn.Module):
    """Finite logits, but the gradient is NaN: the square root of zero."""

    def forward(self, x: Tensor) -> Tensor:
        root = (x * 0).sum(dim=(1, 2, 3)).sqrt()
        return torch.stack([1 - root, root], dim=1)


def test_a_gradient_of_nan_is_no_robustness() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    with pytest.raises(TrainingError, match="NaN or infinity"):
        apgd_ce(NanInOnePlace(), x, torch.tensor([0]), np.arange(1), BUDGETS[0], 0)


def step_sizes(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the losses of the start and the iterations; return the step after each checkpoint, in epsilons."""
    script, sizes, reconsider = iter(losses), [], apgd._reconsider

    def told(_model: torch.nn.Module, x: Tensor, _loss: object) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(x), torch.tensor([[1.0, 0.0]]), torch.tensor([next(script)])

    def watched(state: apgd._State, period: int) -> None:
        reconsider(state, period)
        sizes.append(float(state.step_size) / 0.1)

    monkeypatch.setattr(apgd, "input_gradient", told)
    monkeypatch.setattr(apgd, "_reconsider", watched)
    x = torch.full((1, 1, 2, 2), 0.5)
    apgd_ce_from(torch.nn.Identity(), x, torch.tensor([0]), x, ApgdBudget("Linf", 0.1, 100))
    return sizes


def test_the_step_is_halved_when_the_best_loss_stalls_but_not_at_the_first_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    below_the_start = [50.0, *(float(number) / 100 for number in range(1, 101))]
    # A step that was halved at one checkpoint is not halved for stalling at the next.
    assert step_sizes(below_the_start, monkeypatch) == pytest.approx([2, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125])


@pytest.mark.parametrize(("rises", "after_first"), [(16, 2.0), (15, 1.0)])
def test_the_first_loss_counts_as_a_rise_and_three_quarters_must_rise(
    rises: int, after_first: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    climbing = [float(number) for number in range(1, rises + 2)]
    rest = [0.5] * (100 - len(climbing))
    assert step_sizes([50.0, *climbing, *rest], monkeypatch)[0] == pytest.approx(after_first)
