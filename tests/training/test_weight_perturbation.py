"""Adversarial weight perturbation: up the loss by the asked length, and bit-exactly back."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.weight_perturbation import perturbed_weights

X = torch.rand((16, 2, 4, 4), generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def loss_of(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), Y)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_everything_is_back_bit_by_bit_afterwards() -> None:
    model = net()
    before = state_of(model)
    with perturbed_weights(model, lambda: loss_of(model), 0.01):
        assert not torch.equal(model[0].weight, before["0.weight"])  # type: ignore[arg-type]
    assert_same(model, before)


def test_weights_are_back_after_an_exception() -> None:
    model = net()
    before = state_of(model)
    with pytest.raises(KeyError), perturbed_weights(model, lambda: loss_of(model), 0.01):
        raise KeyError
    assert_same(model, before)


def test_the_extra_pass_leaves_batch_statistics_alone() -> None:
    model = net()
    before = state_of(model)
    with perturbed_weights(model, lambda: loss_of(model), 0.01):
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("gamma", [0.005, 0.1])
def test_each_weight_moves_by_gamma_times_its_norm_and_vectors_stay(gamma: float) -> None:
    model = net()
    before = state_of(model)
    with perturbed_weights(model, lambda: loss_of(model), gamma):
        for name, parameter in model.named_parameters():
            moved = float((parameter.detach() - before[name]).norm())
            wanted = gamma * float(before[name].norm()) if parameter.dim() > 1 else 0.0
            assert moved == pytest.approx(wanted, rel=1e-4), name


def test_the_loss_rises_more_than_in_any_random_direction() -> None:
    model = net()
    start = float(loss_of(model).detach())
    with perturbed_weights(model, lambda: loss_of(model), 0.05):
        raised = float(loss_of(model).detach())
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        other = net()
        with torch.no_grad():
            for weight in (parameter for parameter in other.parameters() if parameter.dim() > 1):
                step = torch.randn(weight.shape, generator=generator)
                weight.add_(step * (0.05 * weight.norm() / step.norm()))
        assert float(loss_of(other).detach()) < raised
    assert raised > start


def test_gamma_zero_does_nothing() -> None:
    model = net()

    def never() -> Tensor:
        raise AssertionError

    before = state_of(model)
    with perturbed_weights(model, never, 0.0):
        assert_same(model, before)


def test_no_gradient_is_left_on_parameters() -> None:
    model = net()
    with perturbed_weights(model, lambda: loss_of(model), 0.01):
        pass
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_that_are_frozen_or_unused_stay() -> None:
    model = net()
    model[0].requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
    model.add_module("spare", nn.Identity())
    model.get_submodule("spare").weight = nn.Parameter(torch.ones(2, 2))
    before = state_of(model)
    with perturbed_weights(model, lambda: loss_of(model), 0.05):
        assert torch.equal(model.state_dict()["0.weight"], before["0.weight"])
        assert torch.equal(model.state_dict()["spare.weight"], before["spare.weight"])
        assert not torch.equal(model.state_dict()["4.weight"], before["4.weight"])
