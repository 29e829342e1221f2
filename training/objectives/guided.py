"""Logit matching to a frozen clean teacher, with cached logits of natural inputs.

Ours; at weight 1 and beta 0 it is the first term of LBGAT (Cui et al., "Learnable boundary guided
adversarial training", 2021) with a frozen teacher.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import cross_entropy, kl_from
from training.objectives.base import AttackStart, Batch, TeacherNeed, kl_divergence, needed_teacher_logits


@dataclass(frozen=True)
class GuidedObjective:
    """weight MSE(f(x'), c(x)) + (1 - weight) CE(f(x'), y) + beta KL(f(x) || f(x')).

    The MSE is the mean over batch and classes; x' maximises CE to y, or the KL.
    """

    teacher: ClassVar[TeacherNeed] = "cached"
    weight: float
    beta: float
    attack: Literal["ce", "kl"]

    @property
    def start(self) -> AttackStart:
        """Uniform for the CE attack, Gaussian for the KL attack."""
        return "gaussian" if self.attack == "kl" else "uniform"

    def attack_loss(self, frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """CE to y, or KL from the natural prediction."""
        if self.attack == "kl":
            return kl_from(frozen_model(batch.natural))
        return cross_entropy(batch.labels)

    def terms(self, model: nn.Module, batch: Batch, adversarial: Tensor) -> dict[str, Tensor]:
        """Terms of weight above 0: teacher_mse, cross_entropy and kl."""
        logits = model(adversarial)
        terms = {}
        if self.weight > 0:
            terms["teacher_mse"] = self.weight * F.mse_loss(logits, needed_teacher_logits(batch))
        if self.weight < 1:
            terms["cross_entropy"] = (1.0 - self.weight) * F.cross_entropy(logits, batch.labels)
        if self.beta > 0:
            terms["kl"] = self.beta * kl_divergence(model(batch.natural), logits)
        return terms
