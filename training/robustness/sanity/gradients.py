"""A check of the gradients that attacks follow.

Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (2018), section 3; Carlini
and Wagner, "Towards evaluating the robustness of neural networks" (2017), section 4, for losses whose
gradient vanishes in float32 behind a distilled network.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import cross_entropy
from training.attacks.victim import Victim
from training.robustness.results import SanityCheck
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.verdict import bounded

_LossTo: TypeAlias = Callable[[Tensor], PerExampleLoss]


def gradients_not_zero(inspection: Inspection) -> SanityCheck:
    """Gradients show the way: where one is zero in every pixel, an attack that follows it stands still.

    Small gradients pass: attacks take their sign or their direction.
    """
    count = int(inspection.right.sum())
    natural, near = (_zeros(inspection, cross_entropy, moved=moved) for moved in (False, True))
    by_margin = _zeros(inspection, margin, moved=False)
    refused = f"the model cannot be differentiated ({inspection.refusal}), so " if inspection.refusal else ""
    evidence = (
        f"{refused}the gradient of the cross-entropy is exactly zero for {natural} of {count} images as they "
        f"are and for {near} after a random start; that of the margin for {by_margin}"
    )
    share = max(natural, near) / count
    return bounded("gradients_not_zero", share, inspection.config.max_zero_gradient_share, evidence)


def margin(labels: Tensor) -> PerExampleLoss:
    """How far the best other class leads the true one, labels (n,): no softmax, so nothing saturates."""
    return partial(_lead, labels)


def _lead(labels: Tensor, logits: Tensor) -> Tensor:
    at = labels.unsqueeze(1)
    other = logits.scatter(1, at, -torch.inf).amax(dim=1)
    return other - logits.gather(1, at).squeeze(1)


def _zeros(inspection: Inspection, loss_to: _LossTo, *, moved: bool) -> int:
    """Count the examples, as they are or after a random start, whose gradient is zero in every pixel."""
    found = 0
    for at in inspection.parts():
        x = inspection.near(at) if moved else inspection.batch.images[at]
        gradient, _, _ = Victim(inspection.climbed).gradient(x, loss_to(inspection.batch.labels[at]))
        found += int((gradient == 0).flatten(1).all(dim=1).sum())
    return found
