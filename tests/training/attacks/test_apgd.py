"""APGD against the published algorithm, written down once more for one example at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from training.attacks import apgd, victim
from training.attacks.apgd import (
    apgd_ce,
    apgd_dlr,
    apgd_t,
    dlr_name,
    search_from,
    targeted_dlr_name,
)
from training.attacks.apgd_steps import ApgdBudget, State, reconsider
from training.attacks.draws import KeyedDraws
from training.attacks.gradients import frozen
from training.attacks.losses import LossAt, cross_entropy
from training.attacks.norms import Norm, size
from training.attacks.pgd import Ascent, pgd
from training.attacks.victim import Batch, Victim
from training.errors import TrainingError
from training.models.classifier import Classifier
from training.validation import LabelledImages

CPU = torch.device("cpu")
BUDGETS = [ApgdBudget("Linf", 0.1, 100), ApgdBudget("L2", 0.4, 100)]
SHORT = [
    ApgdBudget("Linf", 0.1, 20),
    ApgdBudget("L2", 0.4, 20),
    ApgdBudget("L1", 1.0, 20),
    ApgdBudget("L1", 1.0, 20, larger_epsilons=True),
]
COUNT = 32
ATTACKS: dict[str, Callable[[Victim, Batch, ApgdBudget, KeyedDraws], tuple[Tensor, Tensor]]] = {
    "ce": apgd_ce,
    "dlr": apgd_dlr,
    "targeted": partial(apgd_t, targets=3),
}


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


def keep_state(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """Catch the state of a run: at its end it holds the examples that were never fooled."""
    states: list[State] = []
    begin = apgd._begin

    def watched(
        victim: Victim, batch: Batch, start: Tensor, budget: ApgdBudget, loss_at: LossAt, *, resumed: bool
    ) -> tuple[State, Tensor]:
        state, logits = begin(victim, batch, start, budget, loss_at, resumed=resumed)
        states.append(state)
        return state, logits

    monkeypatch.setattr(apgd, "_begin", watched)
    return states


def right_ones(trained: Classifier, unseen: LabelledImages, count: int | None = COUNT) -> Batch:
    x, y = unseen.batch(0, 96, CPU)
    with torch.no_grad():
        logits = trained.eval()(x.double())
    right = (logits.argmax(dim=1) == y).nonzero().squeeze(1)[:count]
    return Batch(x.double()[right], y[right], logits[right])


def keyed(count: int, seed: int = 0) -> KeyedDraws:
    return KeyedDraws(seed, np.arange(count))


def some_start(x: Tensor, budget: ApgdBudget) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    pairs = zip(x, noise, strict=True)
    return torch.cat([ball(a[None] + budget.epsilon * b[None], a[None], budget) for a, b in pairs])


@pytest.mark.parametrize("budget", BUDGETS)
def test_outcomes_and_best_losses_are_those_of_the_published_algorithm(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = right_ones(trained, unseen)
    x, y = batch.images, batch.labels
    start = some_start(x, budget)
    states = keep_state(monkeypatch)
    with frozen(trained):
        _, fooled = search_from(Victim(trained), batch, start, budget, lambda at: cross_entropy(y[at]))
        wanted = [
            published_apgd(trained, x[i : i + 1], y[i : i + 1], start[i : i + 1], budget)
            for i in range(len(x))
        ]
    assert fooled.tolist() == [fell for fell, _ in wanted]
    assert 0 < int(fooled.sum()) < len(x)
    standing = states[0].rows.tolist()
    assert standing == [i for i, (fell, _) in enumerate(wanted) if not fell]
    assert states[0].best_loss.tolist() == pytest.approx([wanted[i][1] for i in standing], rel=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("budget", SHORT)
def test_images_stay_in_the_ball_and_flags_are_what_the_model_says(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget, name: str
) -> None:
    batch = right_ones(trained, unseen, None)
    with frozen(trained), torch.no_grad():
        found, fooled = ATTACKS[name](Victim(trained), batch, budget, keyed(len(batch)))
        assert torch.equal(fooled, trained(found).argmax(dim=1) != batch.labels)
    assert float(size(found - batch.images, budget.norm).max()) <= budget.epsilon * (1 + 1e-5)
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert 0 < int(fooled.sum()) < len(batch)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_every_iterate_stays_in_the_ball(
    trained: Classifier, unseen: LabelledImages, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = right_ones(trained, unseen)
    budget = ApgdBudget(norm, 0.02, 20)
    sizes: list[float] = []
    advance = apgd._advance

    def watched(victim: Victim, state: State, budget: ApgdBudget, loss_at: LossAt, *, first: bool) -> Tensor:
        logits = advance(victim, state, budget, loss_at, first=first)
        sizes.append(float(size(state.x - state.natural, norm).max()))
        assert 0.0 <= float(state.x.min()) <= float(state.x.max()) <= 1.0
        return logits

    monkeypatch.setattr(apgd, "_advance", watched)
    with frozen(trained):
        apgd_ce(Victim(trained), batch, budget, keyed(len(batch)))
    assert len(sizes) == 20
    assert 0.0199 < max(sizes) <= 0.02 * (1 + 1e-9)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("budget", SHORT)
def test_an_outcome_does_not_depend_on_the_batch(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget, name: str
) -> None:
    batch = right_ones(trained, unseen)
    rows = np.arange(len(batch)) + 40
    with frozen(trained):
        whole, fooled = ATTACKS[name](Victim(trained), batch, budget, KeyedDraws(0, rows))
        assert 0 < int(fooled.sum()) < len(batch)
        for pick in ([7], [3, 1], list(range(8, 20))):
            part, draws = batch.select(torch.tensor(pick)), KeyedDraws(0, rows[pick])
            found, fell = ATTACKS[name](Victim(trained), part, budget, draws)
            assert torch.equal(fell, fooled[pick])
            assert torch.allclose(found, whole[pick], atol=1e-9)


def test_another_seed_leads_elsewhere(trained: Classifier, unseen: LabelledImages) -> None:
    batch = right_ones(trained, unseen)
    with frozen(trained):
        first, second = (
            apgd_ce(Victim(trained), batch, SHORT[0], keyed(len(batch), seed))[0] for seed in (0, 1)
        )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("budget", BUDGETS)
def test_apgd_is_at_least_as_strong_as_pgd(
    trained: Classifier, unseen: LabelledImages, budget: ApgdBudget
) -> None:
    batch = right_ones(trained, unseen, None)
    ascent = Ascent(budget.norm, budget.epsilon, 0.1 * budget.epsilon, 20)
    with frozen(trained):
        _, by_pgd = pgd(Victim(trained), batch, ascent, keyed(len(batch)))
        _, by_apgd = apgd_ce(Victim(trained), batch, budget, keyed(len(batch)))
    assert 0 < int(by_pgd.sum()) <= int(by_apgd.sum()) < len(batch)


def test_the_targeted_attack_is_at_least_as_strong_as_the_others_here(
    trained: Classifier, unseen: LabelledImages
) -> None:
    batch = right_ones(trained, unseen, None)
    budget = ApgdBudget("Linf", 0.08, 30)
    with frozen(trained):
        fallen = {
            name: int(attack(Victim(trained), batch, budget, keyed(len(batch)))[1].sum())
            for name, attack in ATTACKS.items()
        }
    assert 0 < max(fallen["ce"], fallen["dlr"]) <= fallen["targeted"] < len(batch)


def test_a_stronger_budget_raises_the_best_loss(
    trained: Classifier, unseen: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = right_ones(trained, unseen)
    loss = cross_entropy(batch.labels)
    states = keep_state(monkeypatch)
    with frozen(trained), torch.no_grad():
        natural = loss(trained(batch.images))
        budget = ApgdBudget("Linf", 0.02, 20)
        search_from(Victim(trained), batch, batch.images, budget, lambda at: cross_entropy(batch.labels[at]))
    assert bool((states[0].best_loss > natural[states[0].rows]).all())


# --- few classes ----------------------------------------------------------------------------------


def first_classes(trained: Classifier, digits: LabelledImages, classes: int) -> tuple[Victim, Batch]:
    """Let the net answer for its first classes alone, and give digits of those that it gets right."""

    class Cut(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = trained(x)[:, :classes]
            return logits

    kept = (digits.labels[1200:] < classes).nonzero().squeeze(1)[:60] + 1200
    x, y = digits.images[kept].double() / 255, digits.labels[kept]
    with torch.no_grad():
        logits = Cut()(x)
    right = logits.argmax(dim=1) == y
    return Victim(Cut()), Batch(x[right], y[right], logits[right])


@pytest.mark.parametrize(
    ("classes", "untargeted", "targeted"),
    [(2, "margin", "targeted margin"), (3, "DLR", "targeted margin"), (4, "DLR", "targeted DLR")],
)
def test_what_is_maximised_with_few_classes_is_named(classes: int, untargeted: str, targeted: str) -> None:
    assert dlr_name(classes) == untargeted
    assert targeted_dlr_name(classes) == targeted


def margin_search(victim: Victim, batch: Batch, budget: ApgdBudget, rank: int, draws: KeyedDraws) -> Tensor:
    """Climb z_t - z_y towards the target of a rank, by the plain formula."""
    targets = batch.logits.argsort(dim=1, descending=True)[:, rank]

    def loss_at(at: Tensor) -> Callable[[Tensor], Tensor]:
        rows = torch.arange(len(at))
        return lambda logits: logits[rows, targets[at]] - logits[rows, batch.labels[at]]

    start = apgd._start(batch, torch.arange(len(batch)), budget, draws)
    return search_from(victim, batch, start, budget, loss_at)[1]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("attack", [apgd_dlr, partial(apgd_t, targets=9)])
def test_with_two_classes_the_margin_to_the_other_is_climbed(
    trained: Classifier, digits: LabelledImages, norm: Norm, attack: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    budget = ApgdBudget(norm, {"Linf": 0.2, "L2": 1.2}[norm], 20)
    with frozen(trained):
        victim, batch = first_classes(trained, digits, 2)
        _, fooled = attack(victim, batch, budget, keyed(len(batch)))
        wanted = margin_search(victim, batch, budget, 1, keyed(len(batch)))
    assert torch.equal(fooled, wanted)
    assert 0 < int(fooled.sum()) < len(batch)


def test_with_three_classes_each_other_class_is_a_target_once(
    trained: Classifier, digits: LabelledImages
) -> None:
    budget = ApgdBudget("Linf", 0.2, 20)
    with frozen(trained):
        victim, batch = first_classes(trained, digits, 3)
        _, fooled = apgd_t(victim, batch, budget, keyed(len(batch)), targets=9)
        draws = keyed(len(batch))
        one, two = (margin_search(victim, batch, budget, rank, draws) for rank in (1, 2))
        _, first_only = apgd_t(victim, batch, budget, keyed(len(batch)), targets=1)
    assert torch.equal(fooled, one | two)
    assert torch.equal(first_only, one)
    assert int(one.sum()) < int(fooled.sum()) < len(batch)


# --- larger epsilons ------------------------------------------------------------------------------


def test_larger_epsilons_take_three_tenths_of_the_steps_each_and_never_count(
    trained: Classifier, unseen: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = right_ones(trained, unseen)
    seen: list[tuple[float, int]] = []
    advance = apgd._advance

    def watched(victim: Victim, state: State, budget: ApgdBudget, loss_at: LossAt, *, first: bool) -> Tensor:
        seen.append((budget.epsilon, len(state.rows)))
        return advance(victim, state, budget, loss_at, first=first)

    monkeypatch.setattr(apgd, "_advance", watched)
    budget = ApgdBudget("L1", 1.0, 25, larger_epsilons=True)
    with frozen(trained):
        _, fooled = apgd_ce(Victim(trained), batch, budget, keyed(len(batch)))
    epsilons = [epsilon for epsilon, _ in seen]
    assert epsilons == pytest.approx([3.0] * 8 + [2.0] * 8 + [1.0] * 9)
    # Images that fool at 3 epsilon are no outcome: every example is still there when epsilon itself begins.
    assert [rows for _, rows in seen[:16]] == [len(batch)] * 16
    assert seen[-1][1] < len(batch)
    assert 0 < int(fooled.sum()) < len(batch)


def test_larger_epsilons_make_the_l1_search_stronger_here(
    trained: Classifier, unseen: LabelledImages
) -> None:
    batch = right_ones(trained, unseen, None)
    with frozen(trained):
        plain, larger = (
            int(apgd_ce(Victim(trained), batch, budget, keyed(len(batch)))[1].sum())
            for budget in (
                ApgdBudget("L1", 1.0, 25),
                ApgdBudget("L1", 1.0, 25, larger_epsilons=True),
            )
        )
    assert 0 < plain < larger < len(batch)


@pytest.mark.parametrize("steps", [2, 3, 4, 7])
def test_so_few_steps_that_a_stage_has_none_are_run(
    trained: Classifier, unseen: LabelledImages, steps: int
) -> None:
    batch = right_ones(trained, unseen)
    budget = ApgdBudget("L1", 1.0, steps, larger_epsilons=True)
    with frozen(trained):
        found, fooled = apgd_ce(Victim(trained), batch, budget, keyed(len(batch)))
        assert torch.equal(fooled, trained(found).argmax(dim=1) != batch.labels)
    assert float(size(found - batch.images, "L1").max()) <= 1.0 + 1e-9


def test_l1_checkpoints_come_every_four_hundredths_of_the_steps() -> None:
    assert list(ApgdBudget("L1", 1.0, 100).periods) == list(range(4, 101, 4))
    assert list(ApgdBudget("L1", 1.0, 30).periods) == list(range(1, 31))


# --- refusals and step sizes ----------------------------------------------------------------------


class NanInOnePlace(torch.nn.Module):
    """Finite logits, but the gradient is NaN: the square root of zero."""

    def forward(self, x: Tensor) -> Tensor:
        root = (x * 0).sum(dim=(1, 2, 3)).sqrt()
        return torch.stack([1 - root, root], dim=1)


def one_image() -> Batch:
    x = torch.full((1, 1, 2, 2), 0.5)
    return Batch(x, torch.tensor([0]), torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_gradient_of_nan_is_no_robustness(name: str) -> None:
    with pytest.raises(TrainingError, match="NaN or infinity"):
        ATTACKS[name](Victim(NanInOnePlace()), one_image(), BUDGETS[0], keyed(1))


def step_sizes(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the losses of the start and the iterations; return the step after each checkpoint, in epsilons."""
    script, sizes = iter(losses), []

    def told(_model: torch.nn.Module, x: Tensor, _loss: object) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(x), torch.tensor([[1.0, 0.0]]), torch.tensor([next(script)])

    def watched(state: State, budget: ApgdBudget, period: int) -> None:
        reconsider(state, budget, period)
        sizes.append(float(state.step_size) / budget.epsilon)

    monkeypatch.setattr(victim, "input_gradient", told)
    monkeypatch.setattr(apgd, "reconsider", watched)
    batch = one_image()
    budget = ApgdBudget("Linf", 0.1, 100)
    search_from(
        Victim(torch.nn.Identity()), batch, batch.images, budget, lambda at: cross_entropy(batch.labels[at])
    )
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
