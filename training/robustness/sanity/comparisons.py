"""Checks that compare attacks which must rank in a known order.

Carlini et al., "On evaluating adversarial robustness" (2019), section 5; Athalye, Carlini and Wagner,
"Obfuscated gradients give a false sense of security" (2018), section 3.1.
"""

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss
from training.attacks.losses import cross_entropy
from training.attacks.pgd import Ascent
from training.config import SanityName
from training.robustness.counting import left_out, standing
from training.robustness.results import SanityCheck
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.verdict import bounded, compared, not_run

_DOUBLE = 2.0
_LARGER = (1.5, 2.0)
_GRADIENTS = "attacks that follow gradients"


def square_not_stronger(inspection: Inspection) -> SanityCheck:
    """An attack without gradients does not find what attacks with gradients miss."""
    words = ("an attack without gradients (Square)", _GRADIENTS)
    return compared("square_not_stronger", inspection.square, inspection.white_box, inspection.config, words)


def doubled_steps_change_nothing(inspection: Inspection) -> SanityCheck:
    """The attacks have converged: twice PGD's steps break nothing that they together did not.

    What is reported rests on all of them, so PGD alone may be slow, as it is in L2 and L1.
    """
    name: SanityName = "doubled_steps_change_nothing"
    doubled = inspection.attacked(inspection.ascent(steps=_DOUBLE))
    words = ("PGD with twice the steps", _GRADIENTS)
    return compared(name, doubled, inspection.white_box, inspection.config, words)


def larger_epsilon_never_helps(inspection: Inspection) -> SanityCheck:
    """A larger ball holds every image of the smaller one, so it cannot be harder to break."""
    found = [_against(inspection, multiple) for multiple in _LARGER]
    return next((check for check in found if check.status == "failed"), found[-1])


def _against(inspection: Inspection, multiple: float) -> SanityCheck:
    larger = inspection.attacked(inspection.ascent(epsilon=multiple))
    words = ("PGD", f"PGD at {multiple:g} times epsilon")
    return compared("larger_epsilon_never_helps", inspection.pgd, larger, inspection.config, words)


def large_epsilon_reaches_chance(inspection: Inspection) -> SanityCheck:
    """With a change large enough to make any image uniform grey, nothing above chance can stand.

    Chance is the share of the largest class: a classifier that always names it is right as often. The
    climb starts at the image itself: starts far from it would do the attack's work.
    """
    ascent = inspection.far_ascent()
    stands = inspection.pushed(inspection.climbed, ascent, random_start=False)
    chance = int(inspection.batch.labels.bincount().max()) / inspection.count
    evidence = (
        f"at epsilon {ascent.epsilon:.3g}, enough to turn any image grey, {int(stands.sum())} of "
        f"{len(stands)} images still stand"
    )
    bound = max(1 / inspection.classes, chance) + inspection.config.chance_margin
    return bounded("large_epsilon_reaches_chance", float(stands.mean()), bound, evidence)


def single_step_not_stronger(inspection: Inspection) -> SanityCheck:
    """Many small steps find at least what one large step finds (FGSM, Goodfellow et al. 2015)."""
    threat = inspection.threat_model
    step = Ascent(threat.norm, threat.epsilon, threat.epsilon, 1)
    stands = inspection.pushed(inspection.climbed, step, random_start=False)
    words = ("a single step (FGSM)", "many steps (PGD)")
    return compared("single_step_not_stronger", stands, inspection.pgd, inspection.config, words)


def training_target_not_stronger(inspection: Inspection) -> SanityCheck:
    """A student taught by soft labels is not easier to break by climbing away from those labels."""
    name: SanityName = "training_target_not_stronger"
    if inspection.teacher is None:
        return not_run(name, "no clean teacher was given, so what the student was taught is not known")
    logits = inspection.logits(inspection.teacher, inspection.batch.images)
    target = F.softmax(logits / inspection.config.target_temperature, dim=1)

    def away(rows: Tensor) -> PerExampleLoss:
        return cross_entropy(target[rows])

    stands = inspection.attacked(inspection.ascent(), away)
    words = ("PGD away from the teacher's soft labels", _GRADIENTS)
    return compared(name, stands, inspection.white_box, inspection.config, words)


def pgd_gap_small(inspection: Inspection) -> SanityCheck:
    """PGD alone comes close to the ensemble, and breaks nothing that the ensemble should have.

    A wide gap says that gradients of the CE mislead; the other way round the ensemble is too weak.
    """
    name: SanityName = "pgd_gap_small"
    if inspection.outcomes is None:
        return not_run(name, "no ensemble was run to compare with")
    outcomes, by_pgd = inspection.outcomes, inspection.pgd
    last = len(outcomes.stands) - 1
    first = np.arange(len(outcomes.labels)) < inspection.count
    seen = ~left_out(outcomes, last)[: inspection.count]
    if not outcomes.attacked[-1][: inspection.count].any() and not seen.any():
        return not_run(name, "the budget kept the ensemble from every image")
    by_all = outcomes.stands[last][: inspection.count]
    ensemble = ("PGD", "the whole ensemble")
    weak = compared(name, by_pgd[seen], by_all[seen], inspection.config, ensemble)
    if weak.status == "failed":
        return weak
    share = standing(outcomes, last, first).value
    evidence = (
        f"{100 * by_pgd.mean():.1f} % of {len(by_pgd)} images stand under PGD, "
        f"{100 * share:.1f} % under the whole ensemble"
    )
    return bounded(name, float(by_pgd.mean()) - share, inspection.config.max_pgd_gap, evidence)
