"""TRADES (Zhang et al., "Theoretically principled trade-off between robustness and accuracy", 2019)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import kl_from
from training.objectives.base import AttackStart, Batch, TeacherNeed, kl_divergence


@dataclass(frozen=True)
class TradesObjective:
    """CE(f(x), y) + beta KL(f(x) || f(x')), where x' maximises that KL (equation 5)."""

    teacher: ClassVar[TeacherNeed] = "none"
    start: ClassVar[AttackStart] = "gaussian"
    beta: float

    def attack_loss(self, frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """KL from the natural prediction."""
        return kl_from(frozen_model(batch.natural))

    def terms(self, model: nn.Module, batch: Batch, adversarial: Tensor) -> dict[str, Tensor]:
        """Two terms: cross_entropy on x, and kl weighted by beta."""
        natural_logits = model(batch.natural)
        return {
            "cross_entropy": F.cross_entropy(natural_logits, batch.labels),
            "kl": self.beta * kl_divergence(natural_logits, model(adversarial)),
        }
