"""Losses that an attack maximises, one value for each example."""

from torch import Tensor
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss


def cross_entropy(labels: Tensor) -> PerExampleLoss:
    """CE to labels: integers (n,) or probabilities (n, classes)."""

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    return loss


def kl_from(target_logits: Tensor) -> PerExampleLoss:
    """KL(softmax(target) || softmax(logits)), as in the TRADES attack; target (n, classes) is fixed."""
    log_target = F.log_softmax(target_logits.detach(), dim=1)

    def loss(logits: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(logits, dim=1), log_target, log_target=True, reduction="none").sum(
            dim=1
        )

    return loss
