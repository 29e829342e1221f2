"""Numbers, attacks and settings in words, the same in the report and in the model card."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from training.config import (
    ApgdAttack,
    ApgdTargetedAttack,
    EvaluationAttack,
    FabAttack,
    FabTargetedAttack,
    PgdAttack,
    SquareAttack,
    ThreatModel,
)
from training.robustness.results import EvaluationResult, Method, Share
from training.robustness.statistics import Rate

WHOLE_NUMBER_TOLERANCE = 1e-9

_SPACE = "\N{NO-BREAK SPACE}"
_FOLDED = ", on a copy of the model made for searching, with BatchNorm folded where there is one"


@dataclass(frozen=True)
class AttackWords:
    """What the literature calls an attack, and what it does for a reader who does not know it."""

    title: str
    explanation: str


ATTACKS = {
    "pgd": AttackWords("PGD", "climbs the loss along its gradient in steps of one size"),
    "apgd_ce": AttackWords("APGD-CE", "climbs the loss along its gradient and adapts the size of its steps"),
    "apgd_dlr": AttackWords(
        "APGD-DLR", "the same on a loss that scaled or overconfident scores cannot flatten"
    ),
    "apgd_t": AttackWords("targeted APGD-DLR", "the same towards one wrong class after another"),
    "fab": AttackWords("FAB", "looks for the smallest change that crosses into another class"),
    "fab_t": AttackWords("targeted FAB", "looks for the smallest change into one wrong class after another"),
    "square": AttackWords("Square", "tries random squares and needs no gradient"),
}
"""By the name of the attack in the configuration."""

VERSIONS = {
    "standard": "AutoAttack, version standard",
    "plus": "AutoAttack, version plus",
    "rand": "AutoAttack, version rand, for models whose outputs vary from pass to pass",
    "custom": "the attacks listed in the configuration, not a version of AutoAttack",
}
MODES = {
    "exact": "exact: searched in float32",
    "verdict": "verdict: searched in bfloat16 where the device has it",
}
DRAWS = {
    "per-example": "for each example by itself, from seed, attack and example",
    "reference": "batch by batch, as the public AutoAttack draws",
}


def percent(share: Share) -> str:
    """Write a share as ``98.7 %``, with a space that does not break."""
    return percentage(share.value)


def percentage(value: float) -> str:
    """Write a number in [0, 1] as ``98.7 %``."""
    return f"{100 * value:.1f}{_SPACE}%"


def interval(share: Share) -> str:
    """Write a share's 95 % interval as ``97.1-99.4 %``, with an en dash."""
    return f"{100 * share.low:.1f}\N{EN DASH}{100 * share.high:.1f}{_SPACE}%"


def points(difference: float) -> str:
    """Write a difference of shares in percentage points, always with its sign."""
    text = f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")
    return text if float(f"{100 * difference:.1f}") else "0.0"


def counted(share: Share) -> str:
    """Write what was counted: ``385 of 447``, or that it was not counted on every example."""
    return f"{share.count:,} of {share.n:,}" if isinstance(share, Rate) else "estimated"


def of_hundred(share: Share) -> str:
    """Write a share as images of every hundred; all and none are said only when they are exact."""
    text = f"{100 * share.value:.0f}"
    if text == "100" and share.value < 1:
        return "more than 99"
    return "fewer than 1" if text == "0" and share.value > 0 else text


def plural(count: int, word: str) -> str:
    """Write a count and its word: ``1 step``, ``5,000 queries``, ``10 classes``."""
    many = f"{word[:-1]}ies" if word.endswith("y") else f"{word}{'es' if word.endswith('s') else 's'}"
    return f"{count:,} {word if count == 1 else many}"


def joined(words: Iterable[str]) -> str:
    """Join words as a sentence does: ``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def write_epsilon(epsilon: float) -> str:
    """Write an epsilon below 1 that is a whole number of 255ths as both; any other as a decimal."""
    count = round(epsilon * 255)
    whole = 0 < epsilon < 1 and abs(epsilon * 255 - count) < WHOLE_NUMBER_TOLERANCE
    return f"{epsilon:.6g} ({count}/255)" if whole else f"{epsilon:.6g}"


def write_threat(threat: ThreatModel) -> str:
    """Write a threat model as ``Linf epsilon 0.0313725 (8/255)``."""
    return f"{threat.norm} epsilon {write_epsilon(threat.epsilon)}"


def name_attack(attack: EvaluationAttack) -> str:
    """Write an attack's name as the literature does."""
    return ATTACKS[attack.name].title


def name_attacks(result: EvaluationResult) -> str:
    """Write the names of all attacks of an evaluation, in their order."""
    return joined(name_attack(found.attack) for found in result.attacks)


def explain_attack(attack: EvaluationAttack) -> str:
    """Say what an attack does."""
    return ATTACKS[attack.name].explanation


def describe_attack(attack: EvaluationAttack) -> str:
    """Write an attack's settings in words."""
    return ", ".join((*_search(attack), plural(attack.restarts, "random start"), *_extras(attack)))


def _search(attack: EvaluationAttack) -> tuple[str, ...]:
    match attack:
        case PgdAttack():
            return (f"{plural(attack.steps, 'step')} of {attack.step_size:g} of epsilon",)
        case ApgdTargetedAttack():
            return f"{plural(attack.steps, 'step')} of adaptive size", plural(attack.targets, "target")
        case ApgdAttack():
            return (f"{plural(attack.steps, 'step')} of adaptive size",)
        case FabAttack():
            return (plural(attack.steps, "step"),)
        case FabTargetedAttack():
            return plural(attack.steps, "step"), plural(attack.targets, "target")
        case SquareAttack():
            return (plural(attack.queries, "query"),)


def _extras(attack: EvaluationAttack) -> tuple[str, ...]:
    if not isinstance(attack, ApgdAttack):
        return ()
    averaged = (f"gradients averaged over {attack.passes:,} passes",) if attack.passes > 1 else ()
    larger = ("the first 60 % of the steps at 3 and 2 times epsilon",) if attack.larger_epsilons else ()
    return averaged + larger


def describe_method(method: Method) -> dict[str, str]:
    """Write how the search was made, as terms and what they are."""
    return {
        "Attacks": VERSIONS[method.version],
        "Mode": f"{MODES[method.mode]}; only what the float32 model gets wrong counts as broken",
        "Precision of the search": f"{method.precision}{_FOLDED if method.folded else ''}",
        "Random draws": DRAWS[method.draws],
        "Images passed forward": f"{method.forward:,}",
        "Images passed for a gradient": f"{method.gradient:,}",
        "Left out by a budget": "; ".join(method.skipped) or "nothing",
    }


def configuration(result: EvaluationResult) -> dict[str, Any]:
    """Return the settings that the result was made with, as JSON values."""
    return {
        "schema_version": result.schema_version,
        "seed": result.seed,
        "examples": result.examples,
        "threat_model": result.threat_model.model_dump(mode="json"),
        "method": result.method.model_dump(mode="json"),
        "attacks": [found.attack.model_dump(mode="json") for found in result.attacks],
        "curve": {
            "attack": result.curve.attack.model_dump(mode="json"),
            "epsilons": [point.epsilon for point in result.curve.points],
        },
    }


def write_configuration(result: EvaluationResult) -> str:
    """Write :func:`configuration` as indented JSON; equal results give equal text."""
    return json.dumps(configuration(result), indent=2, sort_keys=True)
