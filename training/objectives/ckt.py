"""Clean knowledge transfer: the clean teacher's tempered predictions as labels.

A reconstruction of the idea of Zhou and Pei, "Revisiting the relationship between adversarial and
clean training" (arXiv:2504.00038, 2025). Their exact loss is not known here; this is not it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import cross_entropy, kl_from
from training.objectives.base import AttackStart, Batch, TeacherNeed, kl_divergence, needed_teacher_logits


@dataclass(frozen=True)
class CktObjective:
    """q = softmax(c(x) / T) and label = mixing q + (1 - mixing) onehot(y).

    Form A is CE(label, f(x')); form B is CE(label, f(x)) + beta KL(f(x) || f(x')). With
    ``temperature_on`` "both", CE(label, f) becomes mixing T^2 CE(q, f / T) + (1 - mixing) CE(y, f).
    """

    teacher: ClassVar[TeacherNeed] = "cached"
    form: Literal["A", "B"]
    temperature: float
    temperature_on: Literal["teacher", "both"]
    mixing: float
    beta: float
    attack: Literal["ce", "label", "kl"]

    @property
    def start(self) -> AttackStart:
        """Uniform for the CE attacks, Gaussian for the KL attack."""
        return "gaussian" if self.attack == "kl" else "uniform"

    def attack_loss(self, frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """CE to y, CE to the label, or KL from the natural prediction."""
        if self.attack == "kl":
            return kl_from(frozen_model(batch.natural))
        return cross_entropy(self.label(batch) if self.attack == "label" else batch.labels)

    def terms(self, model: nn.Module, batch: Batch, adversarial: Tensor) -> dict[str, Tensor]:
        """Terms label (one or, with T on both sides, label_teacher and label_true) and, in form B, kl."""
        logits = model(adversarial if self.form == "A" else batch.natural)
        terms = self._label_terms(logits, batch)
        if self.form == "B" and self.beta > 0:
            terms["kl"] = self.beta * kl_divergence(logits, model(adversarial))
        return terms

    def label(self, batch: Batch) -> Tensor:
        """Mix the tempered prediction with the true class: probabilities, shape (n, classes)."""
        prediction = self._prediction(batch)
        onehot = F.one_hot(batch.labels, prediction.shape[1]).to(prediction)
        return self.mixing * prediction + (1.0 - self.mixing) * onehot

    def _prediction(self, batch: Batch) -> Tensor:
        return F.softmax(needed_teacher_logits(batch) / self.temperature, dim=1)

    def _label_terms(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        if self.temperature_on == "teacher":
            return {"label": F.cross_entropy(logits, self.label(batch))}
        softened = F.cross_entropy(logits / self.temperature, self._prediction(batch))
        return {
            "label_teacher": self.mixing * self.temperature**2 * softened,
            "label_true": (1.0 - self.mixing) * F.cross_entropy(logits, batch.labels),
        }
