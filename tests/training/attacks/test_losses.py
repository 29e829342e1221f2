"""Attack losses: one value for each example."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import (
    cross_entropy,
    kl_from,
    logit_difference_ratio,
    targeted_logit_difference_ratio,
    targeted_margin,
)

GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 3 * torch.randn((6, 4), generator=GENERATOR, dtype=torch.float64)
TARGET = 3 * torch.randn((6, 4), generator=GENERATOR, dtype=torch.float64)


def log_softmax(logits: Tensor) -> npt.NDArray[np.float64]:
    values = logits.numpy()
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def test_cross_entropy_to_classes_is_for_each_example() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    wanted = -log_softmax(LOGITS)[np.arange(6), labels.numpy()]
    assert np.allclose(cross_entropy(labels)(LOGITS).numpy(), wanted)


def test_cross_entropy_to_probabilities_is_for_each_example() -> None:
    wanted = -(np.exp(log_softmax(TARGET)) * log_softmax(LOGITS)).sum(axis=1)
    assert np.allclose(cross_entropy(torch.softmax(TARGET, dim=1))(LOGITS).numpy(), wanted)


def test_kl_is_from_the_target_to_the_logits_for_each_example() -> None:
    target = log_softmax(TARGET)
    wanted = (np.exp(target) * (target - log_softmax(LOGITS))).sum(axis=1)
    assert np.allclose(kl_from(TARGET)(LOGITS).numpy(), wanted)
    assert np.allclose(kl_from(LOGITS)(LOGITS).numpy(), 0.0)


def test_the_target_of_a_kl_attack_is_fixed() -> None:
    target = TARGET.clone().requires_grad_()
    logits = LOGITS.clone().requires_grad_()
    torch.autograd.backward(kl_from(target)(logits).sum())
    assert target.grad is None
    assert logits.grad is not None


def test_the_dlr_is_the_lead_of_the_best_other_class_over_first_less_third() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [5.0, 1.0, 3.0, 2.0], [5.0, 1.0, 3.0, 2.0]])
    found = logit_difference_ratio(torch.tensor([0, 2, 1]))(logits)
    # Right: -(5 - 3) / (5 - 2); wrong: -(3 - 5) / (5 - 2) and -(1 - 5) / (5 - 2).
    assert found.tolist() == pytest.approx([-2 / 3, 2 / 3, 4 / 3])


def test_the_dlr_takes_three_classes() -> None:
    found = logit_difference_ratio(torch.tensor([1]))(torch.tensor([[0.0, 4.0, 3.0]]))
    assert found.tolist() == pytest.approx([-1 / 4])


def test_the_targeted_dlr_is_the_lead_of_the_target_over_first_less_the_mean_of_third_and_fourth() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0, -7.0]]).expand(2, -1)
    found = targeted_logit_difference_ratio(torch.tensor([0, 0]), torch.tensor([1, 4]))(logits)
    assert found.tolist() == pytest.approx([-4 / 3.5, -12 / 3.5])


def test_the_targeted_margin_is_the_lead_of_the_target() -> None:
    found = targeted_margin(torch.tensor([0, 1]), torch.tensor([1, 0]))(
        torch.tensor([[5.0, 1.0], [5.0, 1.0]])
    )
    assert found.tolist() == [-4.0, 4.0]


LABELS, TARGETS = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 2, 3, 0, 2, 3])
SCALED = {
    "DLR": logit_difference_ratio(LABELS),
    "targeted DLR": targeted_logit_difference_ratio(LABELS, TARGETS),
}


@pytest.mark.parametrize("name", SCALED)
def test_ratios_do_not_change_when_logits_are_shifted_or_scaled(name: str) -> None:
    loss: PerExampleLoss = SCALED[name]
    assert torch.allclose(loss(1000 * LOGITS + 7), loss(LOGITS))


def test_a_loss_above_zero_means_that_the_model_is_wrong_and_the_dlr_says_it_of_every_wrong_one() -> None:
    logits = torch.randn((200, 4), generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(200) % 4, (torch.arange(200) + 1) % 4
    wrong = logits.argmax(dim=1) != labels
    assert torch.equal(logit_difference_ratio(labels)(logits) > 0, wrong)
    for targeted in (targeted_logit_difference_ratio, targeted_margin):
        leads = targeted(labels, targets)(logits) > 0
        assert torch.equal(leads, logits[range(200), targets] > logits[range(200), labels])
        assert bool(wrong[leads].all())


@pytest.mark.parametrize("loss", SCALED.values())
def test_equal_logits_give_a_finite_loss_and_gradient(loss: PerExampleLoss) -> None:
    logits = torch.ones((6, 4)).requires_grad_()
    values = loss(logits)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert bool(torch.isfinite(values).all())
    assert bool(torch.isfinite(gradient).all())
