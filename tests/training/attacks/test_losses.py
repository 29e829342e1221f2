"""Attack losses: one value for each example."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.attacks.losses import cross_entropy, kl_from

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
