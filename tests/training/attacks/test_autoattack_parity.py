"""APGD example by example against the authors' code, from the same random stream."""

import copy
import functools
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from training.attacks.apgd_steps import ApgdBudget
from training.attacks.draws import StreamDraws
from training.attacks.norms import Norm
from training.attacks.search_copy import search_copy
from training.attacks.victim import Batch, Victim

NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
# Some fall and some do not, with any number of classes.
EPSILON: dict[Norm, float] = {"Linf": 0.09, "L2": 0.5, "L1": 1.6}
COUNT, STEPS, SEED = 40, 25, 5
CASES = [
    (name, classes)
    for name, least in (("ce", 2), ("dlr", 3), ("targeted", 4))
    for classes in (2, 3, 4, 8, 10)
    if classes >= least
]


def blobs(classes: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw noisy images, (count, 1, 8, 8), of one pattern for each class."""
    patterns = torch.rand((classes, 1, 8, 8), generator=torch.Generator().manual_seed(classes))
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    noise = torch.randn((count, 1, 8, 8), generator=random)
    return (0.5 * patterns[labels] + 0.25 + 0.2 * noise).clamp(0.0, 1.0), labels


@functools.cache
def trained_net(classes: int) -> nn.Module:
    """Train a small net with BatchNorm, in float32 as the reference's are."""
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        features = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        net = nn.Sequential(*features, nn.Linear(288, 24), nn.ReLU(), nn.Linear(24, classes))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    images, labels = blobs(classes, 1024, 1)
    for part in torch.arange(1024).view(-1, 32).repeat(3, 1):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(images[part]), labels[part]))
        optimiser.step()
    return net.eval().requires_grad_(requires_grad=False)


def examples(classes: int) -> tuple[nn.Module, Batch]:
    """Give the net and examples that it gets right."""
    net = copy.deepcopy(trained_net(classes))
    images, labels = blobs(classes, 3 * COUNT, 2)
    logits = net(images)
    right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)[:COUNT]
    return net, Batch(images[right], labels[right], logits[right])


def reference_verdict(
    net: nn.Module, batch: Batch, budget: ApgdBudget, name: str, *, restarts: int, targets: int
) -> tuple[Tensor, Tensor]:
    """Return the authors' images and whether each fools."""
    package = pytest.importorskip("pyautoattack.autopgd_base")
    options: dict[str, Any] = {
        "norm": budget.norm,
        "eps": budget.epsilon,
        "n_iter": budget.steps,
        "n_restarts": restarts,
        "use_largereps": budget.larger_epsilons,
        "seed": SEED,
        "device": "cpu",
        "logger": logging.getLogger("reference"),
    }
    if name == "targeted":
        attack = package.APGDAttack_targeted(net, n_target_classes=targets, **options)
    else:
        attack = package.APGDAttack(net, loss=name, **options)
    with torch.random.fork_rng():
        found: Tensor = attack.perturb(batch.images, batch.labels)
    return found, net(found).argmax(dim=1) != batch.labels


def ours(
    victim: Victim, batch: Batch, budget: ApgdBudget, name: str, *, restarts: int, targets: int
) -> tuple[Tensor, Tensor]:
    draws = StreamDraws(SEED)
    if name == "targeted":
        return apgd_t(victim, batch, budget, draws, targets=targets, restarts=restarts)
    return (apgd_ce if name == "ce" else apgd_dlr)(victim, batch, budget, draws, restarts)


def budget_of(norm: Norm) -> ApgdBudget:
    return ApgdBudget(norm, EPSILON[norm], STEPS, larger_epsilons=norm == "L1")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "classes"), CASES)
def test_verdicts_are_those_of_the_reference(norm: Norm, name: str, classes: int) -> None:
    net, batch = examples(classes)
    repeats = {"restarts": 1 if name == "targeted" else 2, "targets": min(5, classes - 1)}
    _, wanted = reference_verdict(net, batch, budget_of(norm), name, **repeats)
    _, fooled = ours(Victim(net), batch, budget_of(norm), name, **repeats)
    assert fooled.tolist() == wanted.tolist()
    assert 0 < int(fooled.sum()) < COUNT


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["ce", "targeted"])
def test_so_are_they_with_the_batchnorm_folded(norm: Norm, name: str) -> None:
    net, batch = examples(8)
    folded, _ = search_copy(net, batch.images[:8])
    assert folded is not net
    _, wanted = reference_verdict(net, batch, budget_of(norm), name, restarts=2, targets=3)
    _, fooled = ours(Victim(net, folded), batch, budget_of(norm), name, restarts=2, targets=3)
    assert fooled.tolist() == wanted.tolist()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [2, 9, 40])
def test_so_are_they_without_larger_epsilons_and_with_other_numbers_of_steps(norm: Norm, steps: int) -> None:
    net, batch = examples(10)
    budget = ApgdBudget(norm, EPSILON[norm], steps)
    _, wanted = reference_verdict(net, batch, budget, "ce", restarts=1, targets=0)
    _, fooled = ours(Victim(net), batch, budget, "ce", restarts=1, targets=0)
    assert fooled.tolist() == wanted.tolist()


@pytest.mark.parametrize("norm", NORMS)
def test_the_iterates_of_one_example_are_the_references_to_the_last_bits(norm: Norm) -> None:
    # With sparsity counted from float32 values, the L1 search is only as equal as its rounding.
    net, batch = examples(8)
    one = batch.select(torch.tensor([3]))
    budget = ApgdBudget(norm, 0.1 * EPSILON[norm], STEPS, larger_epsilons=norm == "L1")
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _net, given: seen.append(given[0].detach().clone()))
    _, wrong = reference_verdict(net, one, budget, "ce", restarts=1, targets=0)
    by_reference = seen[1:-1]  # before comes the image itself, after it the verdict's pass
    seen.clear()
    _, fooled = ours(Victim(net), one, budget, "ce", restarts=1, targets=0)
    assert not bool(wrong.any() | fooled.any())
    assert len(seen) == len(by_reference) == STEPS + (3 if norm == "L1" else 1)
    for found, wanted in zip(seen, by_reference, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=3e-7)
