"""The verdict in plain words: what is right, what stays right, and what nobody looked at."""

from training.robustness.reporting.wording import ATTACKS, joined, name_attacks, of_hundred, write_threat
from training.robustness.results import EvaluationResult
from training.robustness.statistics import Estimate

STANDARD = ("apgd_ce", "apgd_t", "fab_t", "square")
"""The attacks of standard AutoAttack (Croce and Hein 2020)."""

_NORMS: tuple[str, ...] = ("Linf", "L2", "L1")


def headline(result: EvaluationResult) -> str:
    """Say in one sentence how many of a hundred images are right, and how many stay right under attack."""
    about = "an estimated " if isinstance(result.robust, Estimate) else ""
    natural, robust = of_hundred(result.natural), of_hundred(result.robust)
    is_right, stays = ("is" if natural == "1" else "are"), ("stays" if robust == "1" else "stay")
    return (
        f"Of every 100 test images, {natural} {is_right} classified right as they are, and {about}"
        f"{robust} {stays} right under every attack tried at {write_threat(result.threat_model)}."
    )


def worst_case(result: EvaluationResult) -> str:
    """Say over which attacks, within which threat model and on how many images the worst case is taken."""
    attacks = name_attacks(result) if result.attacks else "no attack"
    return (
        f"worst case of each image under {attacks}, {write_threat(result.threat_model)}, "
        f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{result.examples:,}"
    )


def untested(result: EvaluationResult) -> tuple[str, ...]:
    """Return what this evaluation did not look at; what a budget left out comes first."""
    return (*result.method.skipped, *_attacks(result), *_threats(result), *_shifts(result), *_always())


def _attacks(result: EvaluationResult) -> tuple[str, ...]:
    run = {found.attack.name for found in result.attacks}
    missing = [ATTACKS[name].title for name in STANDARD if name not in run]
    custom = result.method.version == "custom"
    return (f"{joined(missing)} of standard AutoAttack",) if custom and missing else ()


def _threats(result: EvaluationResult) -> tuple[str, ...]:
    tested = {found.name for found in result.shift.threats} | {result.threat_model.norm}
    norms = [norm for norm in _NORMS if norm not in tested]
    bounded = (f"changes bounded in {joined(norms)}",) if norms else ()
    return bounded if "spatial" in tested else (*bounded, "small rotations and shifts of the image")


def _shifts(result: EvaluationResult) -> tuple[str, ...]:
    corruptions = () if result.shift.corruptions else ("noise, blur, weather and digital corruptions",)
    return (
        corruptions if result.shift.shifted else (*corruptions, "images from elsewhere than this test side")
    )


def _always() -> tuple[str, ...]:
    return (
        "changes that no such distance describes, such as stickers or another viewpoint",
        "attacks on the training data or on the system around the model",
    )
