"""How a check comes to its verdict."""

import numpy as np
import numpy.typing as npt

from training.config import Sanity, SanityName
from training.robustness.results import SanityCheck
from training.robustness.statistics import compare_paired

_TINY_P = 1e-4


def bounded(
    name: SanityName, found: float, threshold: float, evidence: str, *, also: bool = True
) -> SanityCheck:
    """Pass where what was found is at most the threshold, and ``also`` what else is asked holds."""
    status = "passed" if found <= threshold and also else "failed"
    return SanityCheck(name=name, status=status, found=found, threshold=threshold, evidence=evidence)


def not_run(name: SanityName, reason: str) -> SanityCheck:
    """Say why a check was not made."""
    return SanityCheck(name=name, status="not run", found=None, threshold=None, evidence=reason)


def compared(
    name: SanityName,
    expected_weaker: npt.NDArray[np.bool_],
    expected_stronger: npt.NDArray[np.bool_],
    config: Sanity,
    words: tuple[str, str],
) -> SanityCheck:
    """Fail where what should be the weaker attack breaks more, beyond chance and beyond ``config.points``.

    Args:
        name: the check.
        expected_weaker: which examples stand under it, shape (n,).
        expected_stronger: the same of the attack that should break at least as many.
        config: thresholds.
        words: what the weaker and the stronger are called in the evidence.
    """
    found = compare_paired(expected_stronger, expected_weaker)
    failed = found.difference.value > config.points and found.p_value < config.alpha
    weaker, stronger = words
    evidence = (
        f"{weaker} broke {found.gained} of {found.n} images that {stronger} did not, and the other way "
        f"round {found.lost} ({_in_words(found.p_value)})"
    )
    return SanityCheck(
        name=name,
        status="failed" if failed else "passed",
        found=found.difference.value,
        threshold=config.points,
        evidence=evidence,
    )


def _in_words(p_value: float) -> str:
    return f"p = {p_value:.2g}" if p_value >= _TINY_P else "p < 0.0001"
