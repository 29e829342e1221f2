"""The attacks in order: what each was given, what it broke, and what stands after it."""

import itertools
from dataclasses import dataclass

from training.robustness.results import AttackResult, EvaluationResult


@dataclass(frozen=True)
class AttackRow:
    """An attack; ``lost`` is the share of all images that stood before it and not after it."""

    found: AttackResult
    lost: float


def attack_rows(result: EvaluationResult) -> tuple[AttackRow, ...]:
    """Return the attacks with what each took away, in their order."""
    shares = [result.natural.value, *(found.robust.value for found in result.attacks)]
    lost = [max(0.0, before - after) for before, after in itertools.pairwise(shares)]
    return tuple(AttackRow(found, share) for found, share in zip(result.attacks, lost, strict=True))
