"""PGD adversarial training (Madry et al., "Towards deep learning models resistant to attacks", 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import cross_entropy
from training.objectives.base import AttackStart, Batch, TeacherNeed


@dataclass(frozen=True)
class PgdAtObjective:
    """CE(f(x'), y), where x' maximises the same loss (equation 2.1)."""

    teacher: ClassVar[TeacherNeed] = "none"
    start: ClassVar[AttackStart] = "uniform"

    def attack_loss(self, _frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """CE to y."""
        return cross_entropy(batch.labels)

    def terms(self, model: nn.Module, batch: Batch, adversarial: Tensor) -> dict[str, Tensor]:
        """One term: cross_entropy on x'."""
        return {"cross_entropy": F.cross_entropy(model(adversarial), batch.labels)}
