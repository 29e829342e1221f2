"""The quicker copy: the same function to rounding, or none at all; and never more than the model confirms."""

import copy
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.attacks import search_copy as module
from training.attacks.apgd import apgd_ce
from training.attacks.apgd_steps import ApgdBudget
from training.attacks.draws import KeyedDraws
from training.attacks.fab import FabBudget, fab_t
from training.attacks.gradients import frozen, input_gradient
from training.attacks.losses import cross_entropy
from training.attacks.pgd import Ascent, pgd
from training.attacks.search_copy import native_bfloat16, search_copy
from training.attacks.square import SquareBudget, square
from training.attacks.victim import Batch, Victim
from training.config import (
    Architecture,
    Factory,
    PreactResnet18,
    SmallCnn,
    SmallResnet,
    WideResnet,
)
from training.models.classifier import Classifier, build_classifier
from training.validation import LabelledImages

CPU = torch.device("cpu")
OURS: dict[str, tuple[Architecture, int]] = {
    # With the number of BatchNorms that no convolution precedes alone, so that they stay.
    "small_cnn": (SmallCnn(name="small_cnn", width=4), 0),
    "small_resnet": (SmallResnet(name="small_resnet", width=4), 4),
    "preact_resnet18": (PreactResnet18(name="preact_resnet18", width=4), 9),
    "wide_resnet": (WideResnet(name="wide_resnet", depth=10, width=1), 4),
}


def built(architecture: Architecture) -> Classifier:
    """Build a net whose BatchNorms have seen images, frozen, in eval mode."""
    model = build_classifier(architecture, shape=(16, 16, 3), classes=5, normalisation=None, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(5):
            model.train()(torch.rand((32, 3, 16, 16), generator=generator))
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.eval().requires_grad_(requires_grad=False)


def some_images(count: int = 12, shape: tuple[int, int, int] = (3, 16, 16)) -> Tensor:
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(1))


def batchnorms(model: nn.Module) -> int:
    """Count those that a pass runs through."""
    seen: list[nn.Module] = []
    handles = [
        part.register_forward_hook(lambda part, _given, _found: seen.append(part))
        for part in model.modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    model(some_images(1))
    for handle in handles:
        handle.remove()
    return len(seen)


# --- folding --------------------------------------------------------------------------------------


def test_every_architecture_of_ours_is_looked_at() -> None:
    kinds = get_args(get_args(Architecture)[0])
    assert {type(architecture) for architecture, _ in OURS.values()} == set(kinds) - {Factory}


@pytest.mark.parametrize("name", OURS)
def test_the_folded_copy_computes_the_same_to_rounding(name: str) -> None:
    architecture, left = OURS[name]
    model, x = built(architecture), some_images()
    folded, precision = search_copy(model, some_images(4))
    assert folded is not model
    assert precision == "float32"
    assert batchnorms(folded) == left
    loss = cross_entropy(torch.arange(12) % 5)
    for found, wanted in zip(input_gradient(folded, x, loss), input_gradient(model, x, loss), strict=True):
        assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("name", OURS)
def test_in_float64_nothing_but_rounding_is_left_of_the_difference(name: str) -> None:
    model, x = built(OURS[name][0]).double(), some_images().double()
    folded, _ = search_copy(model, x[:4])
    assert folded is not model
    assert float((folded(x) - model(x)).abs().max()) <= 1e-11 * float(model(x).abs().max())


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_the_model_is_left_as_it_was_and_the_copy_is_frozen(name: str, *, bfloat16: bool) -> None:
    model = built(OURS[name][0])
    before, kinds = copy.deepcopy(model.state_dict()), [type(part) for part in model.modules()]
    wanted = model(some_images())
    quick, _ = search_copy(model, some_images(4), bfloat16=bfloat16)
    quick(some_images())
    assert [type(part) for part in model.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(some_images()), wanted)
    assert not any(part.training for part in quick.modules())
    assert not any(parameter.requires_grad for parameter in quick.parameters())


def test_a_pass_through_the_copy_leaves_the_images_as_they_were() -> None:
    x = some_images()
    before = x.clone()
    for architecture, _ in OURS.values():
        search_copy(built(architecture), some_images(4))[0](x)
    assert torch.equal(x, before)


def test_without_folding_the_model_itself_is_searched() -> None:
    model = built(OURS["small_resnet"][0])
    assert search_copy(model, some_images(4), fold=False) == (model, "float32")


# --- what is not copied ---------------------------------------------------------------------------


class Noisy(nn.Module):
    """Add noise to the images at every pass."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x + self.scale * torch.randn_like(x))
        return logits


class AlwaysDropping(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(nn.functional.dropout(x, 0.2, training=True))
        return logits


class DrawnOnce(nn.Module):
    """Draw without reference to the images: torch.fx would keep the first number for ever."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) * (1 + torch.rand(1))
        return logits


RANDOMISED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "noise": lambda inner: Noisy(inner, 0.3),
    "little noise": lambda inner: Noisy(inner, 0.02),
    "dropout": AlwaysDropping,
    "a number": DrawnOnce,
}


@pytest.mark.parametrize("name", RANDOMISED)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_randomised_model_is_never_copied(
    name: str, *, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "native_bfloat16", lambda _device: True)
    torch.manual_seed(0)
    model = RANDOMISED[name](built(OURS["small_resnet"][0])).eval()
    assert search_copy(model, some_images(16), bfloat16=bfloat16) == (model, "float32")


class Branching(nn.Module):
    """Look at the images to choose a way: torch.fx cannot trace it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits if float(x.sum()) > 0 else -logits


def test_what_cannot_be_traced_is_searched_as_it_is() -> None:
    model = Branching(built(OURS["small_resnet"][0])).eval()
    assert search_copy(model, some_images(4)) == (model, "float32")


class Twice(nn.Module):
    """Use one convolution under two BatchNorms: folding either into it would spoil the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = self.first(self.conv(x))
        twice: Tensor = self.second(self.conv(once))
        return twice.mean(dim=(2, 3))


def test_a_copy_that_computes_something_else_is_not_used() -> None:
    torch.manual_seed(0)
    model = Twice()
    with torch.no_grad():
        for _ in range(5):
            model.train()(some_images())
    model.eval().requires_grad_(requires_grad=False)
    quick, _ = search_copy(model, some_images(4))
    assert float((quick(some_images()) - model(some_images())).abs().max()) < 1e-3


class NoBfloat16(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError
        logits: Tensor = self.inner(x)
        return logits


# --- bfloat16 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_is_used_where_the_device_has_it(*, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "native_bfloat16", lambda _device: native)
    model, x = built(OURS["small_resnet"][0]), some_images()
    quick, precision = search_copy(model, x[:4], bfloat16=True)
    assert precision == ("bfloat16" if native else "float32")
    logits = quick(x)
    assert logits.dtype == torch.float32
    gap = float((logits - model(x)).abs().max()) / float(model(x).abs().max())
    assert (1e-4 < gap < 0.1) if native else (gap < 1e-4)
    assert search_copy(model, x[:4], bfloat16=False)[1] == "float32"


def test_the_gradient_of_a_bfloat16_copy_is_float32_and_points_the_same_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "native_bfloat16", lambda _device: True)
    model, x = built(OURS["small_resnet"][0]), some_images()
    quick, _ = search_copy(model, x[:4], bfloat16=True)
    loss = cross_entropy(torch.arange(12) % 5)
    found, wanted = input_gradient(quick, x, loss)[0], input_gradient(model, x, loss)[0]
    assert found.dtype == torch.float32
    assert float(torch.cosine_similarity(found.flatten(1), wanted.flatten(1)).min()) > 0.9


def test_what_does_not_run_in_bfloat16_is_searched_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "native_bfloat16", lambda _device: True)
    model = NoBfloat16(built(OURS["small_resnet"][0])).eval()
    quick, precision = search_copy(model, some_images(4), fold=False, bfloat16=True)
    assert quick is model
    assert precision == "float32"


def test_the_device_is_asked_for_native_bfloat16() -> None:
    assert native_bfloat16(CPU) in {True, False}


class Shaken(nn.Module):
    """Stand for the worst bfloat16 could do: logits off by a fixed amount that the image decides."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits + self.scale * torch.sin(1000 * logits.detach())


ATTACKS: dict[str, Callable[[Victim, Batch, KeyedDraws], tuple[Tensor, Tensor]]] = {
    "pgd": lambda victim, batch, draws: pgd(victim, batch, Ascent("Linf", 0.08, 0.02, 10), draws),
    "apgd": lambda victim, batch, draws: apgd_ce(victim, batch, ApgdBudget("Linf", 0.08, 20), draws),
    "fab": lambda victim, batch, draws: fab_t(
        victim, batch, FabBudget("Linf", 0.08, 10), draws, targets=3, restarts=1
    ),
    "square": lambda victim, batch, draws: square(victim, batch, SquareBudget("Linf", 0.12, 100), draws, 1),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("shaken", [False, True])
def test_no_image_counts_that_the_float32_model_gets_right(
    name: str, *, shaken: bool, trained: Classifier, unseen: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "native_bfloat16", lambda _device: True)
    model = trained.float()
    x, y = unseen.batch(0, 96, CPU)
    with frozen(model):
        logits = model(x)
        right = logits.argmax(dim=1) == y
        batch = Batch(x[right], y[right], logits[right])
        quick, precision = search_copy(model, x[:16], bfloat16=True)
        assert precision == "bfloat16"
        search = Shaken(quick, 3.0) if shaken else quick
        found, fooled = ATTACKS[name](Victim(model, search), batch, KeyedDraws(0, np.arange(len(batch))))
        assert bool((model(found).argmax(dim=1) != batch.labels)[fooled].all())
        assert 0 < int(fooled.sum()) < len(batch)
        misled = search(batch.images).argmax(dim=1) != batch.labels
        assert bool(misled.any()) == shaken


class _StraightThrough(torch.autograd.Function):
    """Round, and pass gradients back as if nothing had happened."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's own
        return (x * 8).round() / 8

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - as above
        return gradient


class _Quantised(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(_StraightThrough.apply(x))  # type: ignore[no-untyped-call]
        return logits


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_copy_keeps_a_backward_pass_of_the_users_own(trained: Classifier, *, bfloat16: bool) -> None:
    x = torch.rand((16, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    with frozen(_Quantised(trained)) as model:
        quick, _ = search_copy(model, x, bfloat16=bfloat16)
        gradient, _, _ = Victim(model, search=quick).gradient(x, cross_entropy(torch.zeros(16).long()))
    assert (gradient != 0).flatten(1).any(dim=1).all()
