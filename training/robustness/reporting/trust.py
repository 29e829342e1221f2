"""Can the evaluation be trusted: each sanity check in plain words, and what they say together."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from training.config import SanityName
from training.robustness.reporting.wording import plural
from training.robustness.results import SanityCheck

Standing: TypeAlias = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class CheckWords:
    """What a check looks at, and what it means if it fails."""

    title: str
    failure: str


CHECKS: dict[SanityName, CheckWords] = {
    "deterministic_outputs": CheckWords(
        "The model answers the same image the same way twice",
        "The answers vary from pass to pass, so an attack chases noise and looks weaker than it is; "
        "evaluate with version rand, which averages passes.",
    ),
    "logits_not_probabilities": CheckWords(
        "The model gives raw scores, not probabilities",
        "Probabilities near 0 and 1 leave attacks almost no gradient, so they find less than there is; "
        "remove the softmax from the model.",
    ),
    "gradients_not_zero": CheckWords(
        "Almost every image gives the attacks a gradient to follow",
        "Where the gradient is zero an attack stands still: the model hides a weakness, it does not resist.",
    ),
    "square_not_stronger": CheckWords(
        "An attack without gradients breaks no more than those with",
        "The gradients mislead the attacks, so the robust accuracy is too high.",
    ),
    "doubled_steps_change_nothing": CheckWords(
        "Twice as many steps break no more",
        "The attacks stopped too early; give them more steps before the robust accuracy is believed.",
    ),
    "larger_epsilon_never_helps": CheckWords(
        "More room to attack never makes the model look better",
        "An attack that does worse with more room does not work as it should.",
    ),
    "large_epsilon_reaches_chance": CheckWords(
        "With very large changes, accuracy falls to chance",
        "Changes that large can destroy any image; if the model still looks right, the attack fails, "
        "not the attacker.",
    ),
    "teacher_transfer_not_stronger": CheckWords(
        "Images made against the clean teacher break no more than those made against this model",
        "An attacker who never saw this model does better than our attacks did, so they are too weak.",
    ),
    "surrogate_transfer_not_stronger": CheckWords(
        "Images made against a copy of this model break no more than those made against it",
        "A copy trained on this model's answers is easier to attack through, so its own gradients mislead.",
    ),
    "single_step_not_stronger": CheckWords(
        "A single step breaks no more than many steps",
        "Many steps contain the single one; if they do worse, the search loses its way.",
    ),
    "training_target_not_stronger": CheckWords(
        "Attacking what the model was trained towards breaks no more than attacking the true class",
        "Training towards soft targets hid a weakness that attacks on the true class do not see.",
    ),
    "pgd_gap_small": CheckWords(
        "Plain PGD comes close to the worst case over all attacks",
        "Flat scores fool plain PGD, so results that rest on PGD alone, such as the curve, are too high.",
    ),
}
"""By the name of the check in the configuration."""


_BLIND = (
    "None of the checks of the evaluation itself was run, so nothing says whether the attacks worked; "
    "read the accuracy under attack as an upper bound."
)


@dataclass(frozen=True)
class Trust:
    """What the checks say together: in a word, in a count, and in one sentence for a manager."""

    standing: Standing
    word: str
    summary: str
    sentence: str


def judge(checks: tuple[SanityCheck, ...]) -> Trust:
    """Sum up the checks; one that was not run has not passed."""
    failed, absent = _count(checks, "failed"), _count(checks, "not run")
    every, passed = len(checks), _count(checks, "passed")
    if failed:
        return Trust(
            "failed", "not to be trusted", f"{failed} of {every} failed", _doubt(failed, absent, every)
        )
    if not passed:
        return Trust("not run", "not checked", "none was run", _BLIND)
    if absent:
        return Trust("not run", "partly checked", f"{passed} passed, {absent} not run", _open(passed, absent))
    return Trust("passed", "checked", f"all {passed} passed", _sound(passed))


def _count(checks: tuple[SanityCheck, ...], status: Standing) -> int:
    return sum(check.status == status for check in checks)


def _doubt(failed: int, absent: int, count: int) -> str:
    rest = f" {plural(absent, 'more check').capitalize()} could not be made." if absent else ""
    return (
        f"The evaluation itself cannot be trusted yet: {failed} of its {plural(count, 'check')} failed, so "
        f"the accuracy under attack is probably too high. Clear this up before relying on it.{rest}"
    )


def _open(passed: int, absent: int) -> str:
    return (
        f"The evaluation itself passed {plural(passed, 'check')} and failed none, but {absent} more "
        f"{'was' if absent == 1 else 'were'} not run and so not passed: what was looked at casts no doubt "
        "on it, and not everything was looked at."
    )


def _sound(passed: int) -> str:
    return (
        f"The evaluation itself passed all {passed} of its checks: nothing found suggests that the attacks "
        "were weaker than they should be."
    )


def doubts_first(checks: tuple[SanityCheck, ...]) -> tuple[SanityCheck, ...]:
    """Order the checks as a reader needs them: failed, not run, passed."""
    order: tuple[Standing, ...] = ("failed", "not run", "passed")
    return tuple(sorted(checks, key=lambda check: order.index(check.status)))
