"""FAB against the authors' code for the same random stream, and what it promises by itself."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.attacks import fab as module
from training.attacks.draws import Draws, KeyedDraws, StreamDraws
from training.attacks.fab import FabBudget, fab, fab_t
from training.attacks.gradients import frozen
from training.attacks.norms import Norm, size
from training.attacks.victim import Batch, Victim
from training.errors import TrainingError
from training.models.classifier import Classifier
from training.validation import LabelledImages

NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
CLASSES = (2, 3, 4, 8, 10)
# Some fall and some do not, with any number of classes.
EPSILON = {"Linf": 0.07, "L2": 0.35, "L1": 0.8}
SIDE = 7
STEPS = 6
KINDS = ("targeted", "untargeted")


def blobs(classes: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw noisy images, (count, 1, 7, 7), of one pattern for each class."""
    patterns = torch.rand((classes, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(classes))
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    noise = torch.randn((count, 1, SIDE, SIDE), generator=random)
    return (0.5 * patterns[labels] + 0.25 + 0.2 * noise).clamp(0.0, 1.0), labels


@functools.cache
def net_for(classes: int) -> nn.Module:
    """Train a small net in float32, the reference's only type."""
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(150, 24), nn.ReLU(), nn.Linear(24, classes)
        )
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    images, labels = blobs(classes, 1024, 1)
    for part in torch.arange(1024).view(-1, 32).repeat(3, 1):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(images[part]), labels[part]))
        optimiser.step()
    return net.eval().requires_grad_(requires_grad=False)


def examples_for(classes: int, count: int = 24) -> tuple[nn.Module, Batch]:
    """Give a copy of the net, which may be watched, and examples that it gets right."""
    net = copy.deepcopy(net_for(classes))
    images, labels = blobs(classes, 4 * count, 2)
    logits = net(images)
    right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)[:count]
    return net, Batch(images[right], labels[right], logits[right])


def attack(kind: str, victim: Victim, batch: Batch, budget: FabBudget, draws: Draws) -> tuple[Tensor, Tensor]:
    """Run either attack, with two restarts."""
    if kind == "targeted":
        return fab_t(victim, batch, budget, draws, targets=9, restarts=2)
    return fab(victim, batch, budget, draws, restarts=2)


def reference_for(net: nn.Module, budget: FabBudget, *, targets: int, restarts: int) -> Any:  # noqa: ANN401
    """Set up the authors' code; ``targets`` of 0 is untargeted."""
    package = pytest.importorskip("pyautoattack.fab_pt")
    options = {"norm": budget.norm, "eps": budget.epsilon, "n_iter": budget.steps}
    more = {"n_restarts": restarts, "targeted": targets > 0, "n_target_classes": targets}
    return package.FABAttack_PT(net, seed=5, **options, **more)


def reference_verdict(
    net: nn.Module, batch: Batch, budget: FabBudget, *, targets: int, restarts: int
) -> list[bool]:
    attack = reference_for(net, budget, targets=targets, restarts=restarts)
    with torch.random.fork_rng():
        adversarial = attack.perturb(batch.images, batch.labels)
    wrong: Tensor = net(adversarial).argmax(dim=1) != batch.labels
    return list(wrong.tolist())


def count_images(net: nn.Module) -> list[int]:
    passed: list[int] = []
    net.register_forward_hook(lambda _module, given, _output: passed.append(len(given[0])))
    return passed


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_are_those_of_the_reference(norm: Norm, classes: int, kind: str) -> None:
    net, batch = examples_for(classes)
    budget = FabBudget(norm, EPSILON[norm], STEPS)
    _, fooled = attack(kind, Victim(net), batch, budget, StreamDraws(5))
    targets = min(9, classes - 1) if kind == "targeted" else 0
    assert fooled.tolist() == reference_verdict(net, batch, budget, targets=targets, restarts=2)
    assert 0 < int(fooled.sum()) < len(batch)


def watch_distances(monkeypatch: pytest.MonkeyPatch, count: int) -> Tensor:
    """Return what will hold, for each example, how near a misclassified point came, shape (n,)."""
    nearest = torch.full((count,), torch.inf)
    judge = module._judge

    def watched(victim: Victim, state: module._State, budget: FabBudget) -> tuple[Tensor, Tensor]:
        crossed, fell = judge(victim, state, budget)
        distances = size(state.x - state.natural, budget.norm).where(crossed, torch.inf)
        nearest[state.rows] = nearest[state.rows].minimum(distances)
        return crossed, fell

    monkeypatch.setattr(module, "_judge", watched)
    return nearest


@pytest.fixture(name="in_double")
def _in_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[nn.Module, Batch]]:
    """Give examples in float64 and have the reference stay there: then rounding excuses nothing."""
    net, batch = examples_for(4)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield net.double(), Batch(batch.images.double(), batch.labels, batch.logits)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rank", [None, 1, 3])
def test_a_whole_run_comes_as_near_as_the_reference(
    in_double: tuple[nn.Module, Batch], norm: Norm, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No example falls, so that all go all the way; the ranks are those of the target's logit."""
    net, batch = in_double
    budget = FabBudget(norm, 1e-9, 2 * STEPS)
    reference = reference_for(net, budget, targets=0, restarts=1)
    reference.target_class = (rank or 0) + 1
    adversarial = reference.attack_single_run(batch.images, batch.labels, is_targeted=rank is not None)
    nearest = watch_distances(monkeypatch, len(batch))
    if rank is None:
        fab(Victim(net), batch, budget, StreamDraws(5), restarts=1)
    else:
        monkeypatch.setattr(module, "likeliest_targets", one_rank(rank))
        fab_t(Victim(net), batch, budget, StreamDraws(5), targets=1, restarts=1)
    wanted = size(adversarial - batch.images, norm)
    assert nearest.tolist() == pytest.approx(wanted.tolist(), rel=1e-7)


def one_rank(rank: int) -> Any:  # noqa: ANN401
    return lambda batch, _count: batch.logits.argsort(dim=1)[:, -1 - rank, None]


@pytest.mark.parametrize("norm", NORMS)
def test_to_stop_on_success_does_not_change_the_verdict(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    net, batch = examples_for(4)
    with monkeypatch.context() as patch:
        nearest = watch_distances(patch, len(batch))
        fab_t(Victim(net), batch, FabBudget(norm, 1e-9, STEPS), StreamDraws(5), targets=3, restarts=1)
    for multiple in (0.3, 0.6, 1.0, 1.5):
        budget = FabBudget(norm, multiple * EPSILON[norm], STEPS)
        _, fooled = fab_t(Victim(net), batch, budget, StreamDraws(5), targets=3, restarts=1)
        assert fooled.tolist() == (nearest <= budget.epsilon).tolist()
    assert bool(torch.isfinite(nearest).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_points_found_lie_in_ball_and_box_and_fool(norm: Norm, kind: str) -> None:
    net, batch = examples_for(10)
    budget = FabBudget(norm, EPSILON[norm], STEPS)
    found, fooled = attack(kind, Victim(net), batch, budget, KeyedDraws(0, np.arange(len(batch))))
    assert torch.equal(fooled, net(found).argmax(dim=1) != batch.labels)
    assert 0 < int(fooled.sum()) < len(batch)
    assert torch.equal(found[~fooled], batch.images[~fooled])
    assert float(size(found - batch.images, norm).max()) <= budget.epsilon
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_does_not_depend_on_the_batch(
    trained: Classifier, unseen: LabelledImages, norm: Norm, kind: str
) -> None:
    images, labels = unseen.batch(0, 20, torch.device("cpu"))
    images = images.double()
    budget = FabBudget(norm, {"Linf": 0.08, "L2": 0.4, "L1": 1.5}[norm], 6)
    with frozen(trained):
        logits = trained(images)
        right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)
        whole = Batch(images, labels, logits).select(right)
        found, fooled = attack(kind, Victim(trained), whole, budget, KeyedDraws(0, right.numpy()))
        for pick in ([2], [5, 1], list(range(6, 12))):
            part, rows = whole.select(torch.tensor(pick)), right[pick].numpy()
            alone, fell = attack(kind, Victim(trained), part, budget, KeyedDraws(0, rows))
            assert torch.equal(fell, fooled[pick])
            assert torch.allclose(alone, found[pick], atol=1e-6)
    assert 0 < int(fooled.sum()) < len(right)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_half_of_epsilon_away_each_in_its_own_direction(norm: Norm) -> None:
    natural, left = torch.full((3, 1, 2, 2), 0.5), torch.arange(3)
    start = module._random_start(natural, FabBudget(norm, 0.2, 1), StreamDraws(0), left)
    assert size(start - natural, norm).tolist() == pytest.approx([0.1] * 3, rel=1e-5)
    assert len({tuple(each.flatten().tolist()) for each in start}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_who_falls_is_passed_no_more(kind: str) -> None:
    net, batch = examples_for(4)
    budget, victim = FabBudget("L2", 5 * EPSILON["L2"], STEPS), Victim(net)
    passed = count_images(net)
    _, fooled = attack(kind, victim, batch, budget, StreamDraws(5))
    ours, rivals = sum(passed), 1 if kind == "targeted" else 3
    assert fooled.all()
    assert ours == victim.cost.forward + victim.cost.gradient / rivals
    reference_verdict(net, batch, budget, targets=3 if kind == "targeted" else 0, restarts=2)
    assert ours < 0.25 * (sum(passed) - ours)


def test_the_examples_that_stand_pass_once_with_a_gradient_and_once_without() -> None:
    net, batch = examples_for(4)
    victim = Victim(net)
    fab_t(victim, batch, FabBudget("L2", 1e-9, 6), StreamDraws(5), targets=2, restarts=1)
    assert victim.cost.forward == victim.cost.gradient == 2 * 6 * len(batch)
    victim = Victim(net)
    fab(victim, batch, FabBudget("L2", 1e-9, 6), StreamDraws(5), restarts=1)
    assert (victim.cost.forward, victim.cost.gradient) == (6 * len(batch), 3 * 6 * len(batch))


def test_parameters_get_no_gradients() -> None:
    net, batch = examples_for(3)
    net.requires_grad_()
    batch = Batch(batch.images, batch.labels, batch.logits.detach())
    fab(Victim(net), batch, FabBudget("L2", EPSILON["L2"], 3), StreamDraws(5), restarts=1)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_passes_average_the_boundary() -> None:
    net, batch = examples_for(3)
    budget, once, thrice = FabBudget("L2", EPSILON["L2"], 6), Victim(net), Victim(net, passes=3)
    found, fooled = fab(once, batch, budget, StreamDraws(5), restarts=1)
    again, fell = fab(thrice, batch, budget, StreamDraws(5), restarts=1)
    assert torch.equal(fooled, fell)
    assert torch.allclose(found, again, atol=1e-5)
    assert thrice.cost.gradient == 3 * once.cost.gradient


class Bright(nn.Module):
    """Calls an image class 1 when its mean is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        excess = x.mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-excess, excess], dim=1)


def grey(net: nn.Module) -> Batch:
    images = torch.full((3, 1, 2, 2), 0.5)
    return Batch(images, torch.zeros(3, dtype=torch.long), net(images))


@pytest.mark.parametrize("norm", NORMS)
def test_what_fools_the_searched_copy_alone_does_not_count(norm: Norm) -> None:
    model, early = Bright(0.7), Bright(0.6)
    budget = FabBudget(norm, {"Linf": 0.3, "L2": 0.6, "L1": 1.2}[norm], 5)
    _, fooled = fab(Victim(model), grey(model), budget, StreamDraws(0), restarts=1)
    assert fooled.tolist() == [True] * 3
    found, fooled = fab(Victim(model, search=early), grey(model), budget, StreamDraws(0), restarts=1)
    assert fooled.tolist() == [False] * 3
    assert torch.equal(found, grey(model).images)


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_that_does_not_look_is_not_fooled(norm: Norm) -> None:
    net = Bright(0.7)
    net.register_forward_hook(lambda _module, _given, output: 0 * output + torch.tensor([1.0, 0.0]))
    found, fooled = fab(Victim(net), grey(net), FabBudget(norm, 0.3, 4), StreamDraws(0), restarts=2)
    assert not fooled.any()
    assert torch.equal(found, grey(net).images)


class RootOfZero(nn.Module):
    """Finite logits, but the gradient is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        root = (x * 0).sum(dim=(1, 2, 3)).sqrt()
        return torch.stack([1 - root, root], dim=1)


class NanOffTheImage(nn.Module):
    """Finite where all pixels are 0.5, with its gradient, and NaN elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3))
        logits = torch.stack([1 - mean, mean - 0.1], dim=1)
        return logits.where((mean == 0.5).unsqueeze(1), torch.nan)


@pytest.mark.parametrize("net", [RootOfZero(), NanOffTheImage()])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_no_robustness(net: nn.Module, kind: str) -> None:
    with pytest.raises(TrainingError, match="NaN or infinity"):
        attack(kind, Victim(net), grey(net), FabBudget("Linf", 0.3, 4), StreamDraws(0))
