"""Input gradients, and the model state that comes back whatever happens."""

import pytest
import torch
from torch import nn

from training.attacks.gradients import frozen, input_gradient, refuse_nan
from training.attacks.losses import cross_entropy
from training.errors import TrainingError


def mixed_model() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    model.train()
    model[1].eval()
    model[3].bias.requires_grad_(False)  # noqa: FBT003 - torch's own
    return model


def state_of(model: nn.Module) -> tuple[list[bool], list[bool]]:
    modes = [module.training for module in model.modules()]
    return modes, [parameter.requires_grad for parameter in model.parameters()]


def test_frozen_is_eval_mode_without_parameter_gradients() -> None:
    model = mixed_model()
    with frozen(model) as same:
        modes, wanted = state_of(model)
    assert same is model
    assert not any(modes)
    assert not any(wanted)


def test_frozen_restores_every_module_and_parameter() -> None:
    model = mixed_model()
    before = state_of(model)
    with frozen(model):
        pass
    assert state_of(model) == before
    assert len(set(before[0])) == len(set(before[1])) == 2


def test_frozen_restores_after_an_exception() -> None:
    model = mixed_model()
    before = state_of(model)
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert state_of(model) == before


def test_the_gradient_of_a_linear_model_is_the_known_one() -> None:
    linear = nn.Linear(4, 3, bias=False).double()
    model = nn.Sequential(nn.Flatten(), linear)
    x = torch.rand((5, 1, 2, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    with frozen(model):
        gradient, logits, losses = input_gradient(model, x, cross_entropy(labels))
    probabilities = torch.softmax(x.flatten(1) @ linear.weight.T, dim=1).detach()
    onehot = torch.nn.functional.one_hot(labels, 3)
    assert torch.allclose(gradient.flatten(1), (probabilities - onehot) @ linear.weight.detach())
    assert torch.allclose(losses, -probabilities[torch.arange(5), labels].log())
    assert torch.allclose(torch.softmax(logits, dim=1), probabilities)
    assert not any(tensor.requires_grad for tensor in (gradient, logits, losses, x))


def test_input_gradients_work_without_grad_mode_and_leave_parameters_alone() -> None:
    model = mixed_model()
    x = torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        gradient, _, _ = input_gradient(model, x, cross_entropy(torch.tensor([0, 1])))
    assert float(gradient.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    refuse_nan(torch.ones(2), torch.zeros(3))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        refuse_nan(torch.ones(2), torch.tensor([1.0, bad]))


class Rounding(nn.Module):
    """Passes no gradient back: the derivative of rounding is zero, of a comparison there is none."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = (x.flatten(1) > 0.5).float()
        logits: torch.Tensor = self.head(features)
        return logits.detach() if self.detached else logits


@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_is_zero_where_the_model_passes_none_back(*, detached: bool) -> None:
    model, x = Rounding(detached=detached), torch.rand(2, 1, 4, 4)
    with frozen(model):
        gradient, logits, losses = input_gradient(model, x, cross_entropy(torch.tensor([0, 1])))
    assert torch.equal(gradient, torch.zeros_like(x))
    assert torch.equal(losses, cross_entropy(torch.tensor([0, 1]))(logits))
    # Parameters that want gradients make a graph of logits that does not reach the images.
    gradient, _, _ = input_gradient(model, x, cross_entropy(torch.tensor([0, 1])))
    assert torch.equal(gradient, torch.zeros_like(x))
