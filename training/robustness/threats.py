"""Threat models that a student was not trained for: other norms, and small rotations and shifts."""

import math

import torch
from torch import Tensor

from training.attacks.apgd import apgd_ce
from training.attacks.apgd_steps import ApgdBudget
from training.attacks.draws import KeyedDraws
from training.attacks.gradients import refuse_nan
from training.attacks.norms import Norm
from training.attacks.victim import Batch, Victim
from training.config import Shift, Spatial, ThreatModel
from training.randomness import derive_seed
from training.robustness.parallel import parts_of, run_parts
from training.robustness.results import ThreatResult
from training.robustness.spatial import even_grid, spatial_views
from training.robustness.statistics import Rate
from training.robustness.subject import Natural, Plan, Subject, as_rows, batches, images_at

# The epsilons that the literature reports together on CIFAR-10 (RobustBench; Croce and Hein 2021).
_TOGETHER: dict[Norm, float] = {"Linf": 8 / 255, "L2": 0.5, "L1": 12.0}
_CIFAR_PIXELS = 3 * 32 * 32


def usual_threats(threat: ThreatModel, pixels: int) -> tuple[ThreatModel, ...]:
    """Return the other two norms at epsilons that are to this one as they are to each other on CIFAR-10.

    An L2 norm grows with the root of the number of pixels, an L1 norm with the number itself.
    """
    per_pixel = {norm: epsilon / _size(norm, _CIFAR_PIXELS) for norm, epsilon in _TOGETHER.items()}
    strength = threat.epsilon / _size(threat.norm, pixels) / per_pixel[threat.norm]
    # Not validated: the bounds find 0-255 units in what a user writes, and large images pass them.
    return tuple(
        ThreatModel.model_construct(norm=norm, epsilon=strength * per_pixel[norm] * _size(norm, pixels))
        for norm in _TOGETHER
        if norm != threat.norm
    )


def _size(norm: Norm, pixels: int) -> float:
    return {"Linf": 1.0, "L2": math.sqrt(pixels), "L1": float(pixels)}[norm]


def unseen_threats(
    victim: Victim, subject: Subject, natural: Natural, plan: Plan
) -> tuple[ThreatResult, ...]:
    """Measure accuracy under every threat model of ``evaluation.shift``, on its first examples."""
    shift = plan.evaluation.shift
    pixels = subject.test.images[0].numel()
    threats = usual_threats(plan.threat, pixels) if shift.threats == "usual" else shift.threats
    found = [_under(threat, victim, subject, natural, plan) for threat in threats]
    moves = shift.spatial.degrees > 0 or shift.spatial.pixels > 0
    return (*found, _spatial(shift.spatial, subject, natural, plan)) if moves else tuple(found)


def _under(
    threat: ThreatModel, victim: Victim, subject: Subject, natural: Natural, plan: Plan
) -> ThreatResult:
    attack = plan.evaluation.shift.attack
    budget = ApgdBudget(threat.norm, threat.epsilon, attack.steps, threat.norm == "L1")
    seed = derive_seed(plan.seed, "unseen", threat.norm)
    count = _count(plan.evaluation.shift, natural)

    def standing(at: Tensor) -> int:
        own = victim.apart() if subject.parallel else victim
        x, labels = images_at(subject.test, at, subject.device)
        batch = Batch(x, labels, natural.logits[at].to(x.device))
        _, fooled = apgd_ce(own, batch, budget, KeyedDraws(seed, as_rows(at)), attack.restarts)
        return int((~fooled).sum())

    parts = parts_of(natural.right[:count].nonzero().squeeze(1), plan.evaluation.batch_size, subject.device)
    return ThreatResult(
        name=threat.norm,
        epsilon=threat.epsilon,
        description=f"APGD-CE, {attack.steps} steps, {attack.restarts} random start(s)",
        accuracy=Rate(
            count=sum(run_parts(standing, parts, subject.device, in_turn=not subject.parallel)), n=count
        ),
    )


def _spatial(spatial: Spatial, subject: Subject, natural: Natural, plan: Plan) -> ThreatResult:
    """Take the worst view of the grid, the image as it is among them."""
    angles, shifts = even_grid(spatial.degrees, spatial.grid), even_grid(spatial.pixels, spatial.grid)
    count = _count(plan.evaluation.shift, natural)
    standing = 0
    for at in batches(natural.right[:count].nonzero().squeeze(1), plan.evaluation.batch_size):
        x, labels = images_at(subject.test, at, subject.device)
        stands = torch.ones_like(labels, dtype=torch.bool)
        for view in spatial_views(x, angles, shifts):
            with torch.no_grad():
                logits = subject.model(view)
            refuse_nan(logits)
            stands &= logits.argmax(dim=1) == labels
        standing += int(stands.sum())
    return ThreatResult(
        name="spatial",
        epsilon=None,
        description=f"rotations to {spatial.degrees:g} degrees and shifts to {spatial.pixels:g} pixels, "
        f"worst of {len(angles) * len(shifts) ** 2} views",
        accuracy=Rate(count=standing, n=count),
    )


def _count(shift: Shift, natural: Natural) -> int:
    return min(shift.examples, len(natural))
