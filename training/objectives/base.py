"""What an objective is: named loss terms, the loss its attack maximises, and the teacher it needs."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss

TeacherNeed: TypeAlias = Literal["none", "cached"]
AttackStart: TypeAlias = Literal["none", "uniform", "gaussian"]

# TRADES starts its attack from a Gaussian of this deviation: at x itself the KL has no gradient.
_GAUSSIAN_START = 0.001


@dataclass(frozen=True)
class Batch:
    """One batch: natural views (n, c, h, w) in [0, 1], labels (n,), cached teacher logits (n, classes)."""

    natural: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None


class Objective(Protocol):
    """A training method. The loop adds its terms up and knows nothing else of it."""

    teacher: ClassVar[TeacherNeed]

    @property
    def start(self) -> AttackStart:
        """Where the attack starts; "none" means that this objective is trained without attack."""

    def attack_loss(self, frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """Return the loss that the attack maximises; the model is frozen, in eval mode."""

    def terms(self, model: nn.Module, batch: Batch, adversarial: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms (scalars) whose sum is minimised; the model is in training mode."""


def gaussian_start(natural: Tensor, generator: torch.Generator) -> Tensor:
    """Start the attack of a KL objective; shape kept, pixels in [0, 1]."""
    noise = torch.randn(natural.shape, generator=generator).to(natural)
    return (natural + _GAUSSIAN_START * noise).clamp(0.0, 1.0)


def kl_divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(logits)), mean over the batch; gradients reach both sides."""
    log_target = F.log_softmax(target_logits, dim=1)
    return F.kl_div(F.log_softmax(logits, dim=1), log_target, log_target=True, reduction="batchmean")


def needed_teacher_logits(batch: Batch) -> Tensor:
    """Return the cached logits of a batch; an objective that declares ``cached`` always has them."""
    assert batch.teacher_logits is not None, "the loop gives teacher logits to objectives that declare them"  # noqa: S101 - an invariant, not a user's fault
    return batch.teacher_logits
