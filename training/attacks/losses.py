"""Losses that an attack maximises, one value for each example."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss

LossAt: TypeAlias = Callable[[Tensor], PerExampleLoss]
"""From positions in a batch, int64, shape (k,), to the loss of those examples."""

# Croce and Hein's reference keeps denominators from zero with the same constant.
_TINY = 1e-12


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


def logit_difference_ratio(labels: Tensor) -> PerExampleLoss:
    """DLR: how far the best other class leads, over z_(1) - z_(3) (Croce and Hein 2020, equation 6).

    z_(i) is the i-th largest logit; labels (n,). Needs 3 classes.
    """

    def loss(logits: Tensor) -> Tensor:
        values, order = logits.topk(3, dim=1)
        true = _at(logits, labels)
        other = values[:, 0].where(order[:, 0] != labels, values[:, 1])
        return -(true - other) / (values[:, 0] - values[:, 2] + _TINY)

    return loss


def targeted_logit_difference_ratio(labels: Tensor, targets: Tensor) -> PerExampleLoss:
    """Targeted DLR: z_t - z_y over z_(1) - (z_(3) + z_(4)) / 2 (Croce and Hein 2020, equation 7).

    Labels and targets (n,). Needs 4 classes.
    """

    def loss(logits: Tensor) -> Tensor:
        values = logits.topk(4, dim=1).values
        scale = values[:, 0] - 0.5 * (values[:, 2] + values[:, 3]) + _TINY
        return -(_at(logits, labels) - _at(logits, targets)) / scale

    return loss


def targeted_margin(labels: Tensor, targets: Tensor) -> PerExampleLoss:
    """z_t - z_y: for too few classes to scale it; labels and targets (n,)."""

    def loss(logits: Tensor) -> Tensor:
        return _at(logits, targets) - _at(logits, labels)

    return loss


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes.unsqueeze(1)).squeeze(1)
