"""The ensemble of attacks: AutoAttack's versions written out, and one attack of it run on a batch.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (2020), section 6; for L1 the settings of "Mind the box" (2021) as the authors released them.
"""

from torch import Tensor

from training.attacks.apgd import apgd_ce, apgd_dlr, apgd_t, dlr_name, targeted_dlr_name
from training.attacks.apgd_steps import ApgdBudget
from training.attacks.draws import Draws
from training.attacks.fab import FabBudget, fab, fab_t
from training.attacks.norms import Norm
from training.attacks.pgd import Ascent, pgd
from training.attacks.square import SquareBudget, square
from training.attacks.victim import Batch, Victim
from training.config import (
    ApgdAttack,
    ApgdCeAttack,
    ApgdDlrAttack,
    ApgdTargetedAttack,
    Evaluation,
    EvaluationAttack,
    FabAttack,
    FabTargetedAttack,
    PgdAttack,
    SquareAttack,
    ThreatModel,
)

_RANDOMISED_PASSES = 20


def ensemble(evaluation: Evaluation, threat: ThreatModel, classes: int) -> tuple[EvaluationAttack, ...]:
    """Return the attacks in order with every setting in force: targets are cut to classes - 1."""
    named = evaluation.attacks
    attacks = named if isinstance(named, tuple) else _version(named, threat)
    return tuple(_cut(attack, classes) for attack in attacks)


def _version(name: str, threat: ThreatModel) -> tuple[EvaluationAttack, ...]:
    sparse = threat.norm == "L1"
    if name == "rand":
        passes = _RANDOMISED_PASSES
        return ApgdCeAttack(passes=passes), ApgdDlrAttack(passes=passes)
    if name == "plus":
        return (
            ApgdCeAttack(restarts=5),
            ApgdDlrAttack(restarts=5),
            FabAttack(),
            SquareAttack(),
            ApgdTargetedAttack(),
            FabTargetedAttack(),
        )
    return (
        ApgdCeAttack(restarts=5 if sparse else 1, larger_epsilons=sparse),
        ApgdTargetedAttack(targets=5 if sparse else 9, larger_epsilons=sparse),
        FabTargetedAttack(),
        SquareAttack(),
    )


def _cut(attack: EvaluationAttack, classes: int) -> EvaluationAttack:
    if isinstance(attack, ApgdTargetedAttack | FabTargetedAttack):
        return attack.model_copy(update={"targets": min(attack.targets, classes - 1)})
    return attack


def loss_name(attack: EvaluationAttack, classes: int) -> str:
    """Name what an attack maximises (FAB: what boundary it seeks) with so many classes."""
    match attack:
        case PgdAttack() | ApgdCeAttack():
            return "cross-entropy"
        case ApgdDlrAttack():
            return dlr_name(classes)
        case ApgdTargetedAttack():
            return targeted_dlr_name(classes)
        case FabAttack():
            return "distance to the nearest boundary"
        case FabTargetedAttack():
            return "distance to each target's boundary"
        case SquareAttack():
            return "margin, without gradients"


def run_attack(
    attack: EvaluationAttack, victim: Victim, batch: Batch, threat: ThreatModel, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Run one attack of the ensemble with all its restarts.

    Returns:
        The adversarial images (n, c, h, w) and whether each fooled the model (n,).

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    norm, epsilon = threat.norm, threat.epsilon
    match attack:
        case PgdAttack():
            ascent = ascent_of(attack, norm, epsilon)
            return pgd(victim, batch, ascent, draws, restarts=attack.restarts)
        case FabAttack():
            budget = FabBudget(norm, epsilon, attack.steps, victim.hurried)
            return fab(victim.measuring(), batch, budget, draws, attack.restarts)
        case FabTargetedAttack(targets=targets, restarts=restarts):
            budget = FabBudget(norm, epsilon, attack.steps, victim.hurried)
            return fab_t(victim.measuring(), batch, budget, draws, targets=targets, restarts=restarts)
        case SquareAttack():
            return square(victim, batch, SquareBudget(norm, epsilon, attack.queries), draws, attack.restarts)
        case ApgdAttack():
            return _run_apgd(attack, victim.averaging(attack.passes), batch, threat, draws)


def _run_apgd(
    attack: ApgdAttack, victim: Victim, batch: Batch, threat: ThreatModel, draws: Draws
) -> tuple[Tensor, Tensor]:
    larger = attack.larger_epsilons and threat.norm == "L1"
    budget = ApgdBudget(threat.norm, threat.epsilon, attack.steps, larger)
    if isinstance(attack, ApgdTargetedAttack):
        return apgd_t(victim, batch, budget, draws, targets=attack.targets, restarts=attack.restarts)
    run = apgd_dlr if isinstance(attack, ApgdDlrAttack) else apgd_ce
    return run(victim, batch, budget, draws, attack.restarts)


def ascent_of(attack: PgdAttack, norm: Norm, epsilon: float) -> Ascent:
    """Return PGD's steps in pixel units: the configuration gives its step in multiples of epsilon."""
    return Ascent(norm, epsilon, attack.step_size * epsilon, attack.steps)
