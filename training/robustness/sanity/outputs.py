"""Checks of what the model gives back for an image.

Carlini et al., "On evaluating adversarial robustness" (2019), section 5; Croce and Hein, "Reliable
evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks" (2020), whose code
warns of outputs that vary and of outputs that are probabilities.
"""

import torch
from torch import Tensor

from training.robustness.results import SanityCheck
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.verdict import bounded

_PASSES = 5
_SUM_TOLERANCE = 1e-4


def deterministic_outputs(inspection: Inspection) -> SanityCheck:
    """The same image gives the same output, however often and in whatever company it is shown."""
    x, first = inspection.batch.images, inspection.batch.logits
    again = [inspection.logits(inspection.model, x) for _ in range(_PASSES - 1)]
    turned = max(int((other.argmax(dim=1) != first.argmax(dim=1)).sum()) for other in again)
    others = [*again, _in_other_company(inspection)]
    change = max(float((other - first).abs().max()) for other in others) / (float(first.abs().max()) or 1.0)
    evidence = (
        f"shown {_PASSES} times, {turned} of {len(x)} images changed their class; shown in other batches "
        f"too, an output changed by at most {change:.2g} of the largest output"
    )
    bound = inspection.config.max_output_change
    # A margin below the bound can turn without a change above it.
    return bounded("deterministic_outputs", change, bound, evidence, also=turned == 0)


def _in_other_company(inspection: Inspection) -> Tensor:
    """Return the logits when the images come in reverse, a few at a time."""
    size = max(1, min(inspection.batch_size, inspection.count) // 3)
    return inspection.logits(inspection.model, inspection.batch.images.flip(0), size).flip(0)


def logits_not_probabilities(inspection: Inspection) -> SanityCheck:
    """Outputs are logits: probabilities flatten the loss that attacks climb."""
    share = probability_share(inspection.batch.logits)
    evidence = (
        f"{round(share * inspection.count)} of {inspection.count} outputs read as probabilities: "
        "between 0 and 1, and adding up to 1 or so for every image"
    )
    return bounded("logits_not_probabilities", share, 0.0, evidence)


def probability_share(outputs: Tensor) -> float:
    """Return the share of rows, shape (n, classes), that read as probabilities.

    These are rows in [0, 1] that add up to 1; where all rows are in [0, 1], as behind a sigmoid, every one.
    """
    inside = ((outputs >= -_SUM_TOLERANCE) & (outputs <= 1 + _SUM_TOLERANCE)).all(dim=1)
    whole = (outputs.sum(dim=1) - 1.0).abs() <= _SUM_TOLERANCE
    found = inside if bool(inside.all()) else inside & whole
    return float(found.to(torch.float32).mean())
