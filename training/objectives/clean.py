"""Clean training: cross-entropy on natural inputs, with optional label smoothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import cross_entropy
from training.objectives.base import AttackStart, Batch, TeacherNeed


@dataclass(frozen=True)
class CleanObjective:
    """CE(f(x), y); ``label_smoothing`` in [0, 1) spreads that share over all classes."""

    teacher: ClassVar[TeacherNeed] = "none"
    start: ClassVar[AttackStart] = "none"
    label_smoothing: float = 0.0

    def attack_loss(self, _frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """CE to y; clean training runs no attack, validation does."""
        return cross_entropy(batch.labels)

    def terms(self, model: nn.Module, batch: Batch, _adversarial: Tensor) -> dict[str, Tensor]:
        """One term: cross_entropy."""
        logits = model(batch.natural)
        return {"cross_entropy": F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
