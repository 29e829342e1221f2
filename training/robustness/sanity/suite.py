"""The sanity suite: is the evaluation itself to be trusted?"""

from collections.abc import Callable
from typing import TypeAlias, get_args

import torch

from training.config import SanityName
from training.randomness import derive_seed
from training.robustness.results import SanityCheck
from training.robustness.sanity import comparisons, gradients, outputs, transfer
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.verdict import not_run

Check: TypeAlias = Callable[[Inspection], SanityCheck]

CHECKS: dict[SanityName, Check] = {
    "deterministic_outputs": outputs.deterministic_outputs,
    "logits_not_probabilities": outputs.logits_not_probabilities,
    "gradients_not_zero": gradients.gradients_not_zero,
    "square_not_stronger": comparisons.square_not_stronger,
    "doubled_steps_change_nothing": comparisons.doubled_steps_change_nothing,
    "larger_epsilon_never_helps": comparisons.larger_epsilon_never_helps,
    "large_epsilon_reaches_chance": comparisons.large_epsilon_reaches_chance,
    "teacher_transfer_not_stronger": transfer.teacher_transfer_not_stronger,
    "surrogate_transfer_not_stronger": transfer.surrogate_transfer_not_stronger,
    "single_step_not_stronger": comparisons.single_step_not_stronger,
    "training_target_not_stronger": comparisons.training_target_not_stronger,
    "pgd_gap_small": comparisons.pgd_gap_small,
}


def run_sanity(inspection: Inspection) -> tuple[SanityCheck, ...]:
    """Make every check, in the order of their names in the configuration.

    The random numbers that the model draws from torch's generator, if any, are keyed by
    ``inspection.seed`` and the check; the generator is left as it was.

    Raises:
        TrainingError: a model that gives NaN or infinity.
    """
    names = get_args(SanityName)
    if not inspection.config.enabled:
        return tuple(not_run(name, "switched off by evaluation.sanity.enabled") for name in names)
    with torch.random.fork_rng(devices=[inspection.device] if inspection.device.type == "cuda" else []):
        torch.manual_seed(inspection.seed)
        if not inspection.right.any():
            return tuple(not_run(name, "the model classifies no image right") for name in names)
        return tuple(_keyed(name, inspection) for name in names)


def _keyed(name: SanityName, inspection: Inspection) -> SanityCheck:
    torch.manual_seed(derive_seed(inspection.seed, name))
    return CHECKS[name](inspection)
