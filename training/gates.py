"""Gates: what a student must reach before it may become champion. They deny by default."""

from typing import Literal, get_args

from training.artefact import digest_json
from training.config import Gate, Rule, SanityName, Section
from training.robustness.results import EvaluationResult


class GateOutcome(Section):
    """One gate: what it asked, what it found (None where it could not tell) and why it passed or refused."""

    gate: str
    required: float
    found: float | None
    passed: bool
    reason: str


class Decision(Section):
    """The content of decision.json; ``digests`` names everything that the decision rests on."""

    schema_version: int = 1
    passed: bool
    outcomes: tuple[GateOutcome, ...]
    gate_digest: str
    digests: dict[str, str]
    verdict: Literal["passed", "refused"]


def decide(gate: Gate, result: EvaluationResult, digests: dict[str, str]) -> Decision:
    """Hold an evaluation against the gates.

    Args:
        gate: the section of the configuration.
        result: the evaluation of the student that is to be registered.
        digests: of snapshot, teacher, cache, student, evaluation and package source, by name; ``model``
            is the student bundle's own.
    """
    outcomes = (
        _same_model(result, digests),
        _same_snapshot(result, digests),
        _has_rules(gate),
        _enough_examples(gate, result),
        *(_sanity(name, result) for name in _required_checks(gate)),
        *(_rule(rule, result) for rule in gate.rules),
    )
    passed = all(outcome.passed for outcome in outcomes)
    return Decision(
        passed=passed,
        outcomes=outcomes,
        gate_digest=digest_json(gate.model_dump(mode="json")),
        digests=digests,
        verdict="passed" if passed else "refused",
    )


def _same_model(result: EvaluationResult, digests: dict[str, str]) -> GateOutcome:
    passed = result.model_digest == digests.get("model")
    reason = "the evaluation is of this model" if passed else "the evaluation is of another model"
    return GateOutcome(gate="same model", required=1.0, found=float(passed), passed=passed, reason=reason)


def _same_snapshot(result: EvaluationResult, digests: dict[str, str]) -> GateOutcome:
    passed = result.snapshot_digest == digests.get("dataset")
    reason = "the evaluation is on this snapshot" if passed else "the evaluation is on another snapshot"
    return GateOutcome(gate="same snapshot", required=1.0, found=float(passed), passed=passed, reason=reason)


def _has_rules(gate: Gate) -> GateOutcome:
    passed = bool(gate.rules)
    reason = f"{len(gate.rules)} rules set" if passed else "no rules are set: nothing passes; set gate.rules"
    return GateOutcome(gate="rules", required=1.0, found=float(len(gate.rules)), passed=passed, reason=reason)


def _enough_examples(gate: Gate, result: EvaluationResult) -> GateOutcome:
    passed = result.examples >= gate.minimum_examples
    reason = f"{result.examples} examples evaluated, at least {gate.minimum_examples} needed"
    return GateOutcome(
        gate="minimum_examples",
        required=float(gate.minimum_examples),
        found=float(result.examples),
        passed=passed,
        reason=reason,
    )


def _required_checks(gate: Gate) -> tuple[SanityName, ...]:
    return get_args(SanityName) if gate.sanity == "all" else gate.sanity


def _sanity(name: SanityName, result: EvaluationResult) -> GateOutcome:
    check = next((check for check in result.sanity if check.name == name), None)
    passed = check is not None and check.status == "passed"
    reason = f"{check.status}: {check.evidence}" if check else "the evaluation did not make this check"
    return GateOutcome(
        gate=f"sanity: {name}", required=1.0, found=float(passed), passed=passed, reason=reason
    )


def _rule(rule: Rule, result: EvaluationResult) -> GateOutcome:
    name = f"{rule.metric} ({'interval low end' if rule.use == 'lower' else 'point'})"
    rate = result.metrics.get(rule.metric)
    if rate is None:
        known = ", ".join(result.metrics)
        reason = f"the evaluation has no metric {rule.metric!r}; it has {known}"
        return GateOutcome(gate=name, required=rule.minimum, found=None, passed=False, reason=reason)
    found = rate.low if rule.use == "lower" else rate.value
    passed = found >= rule.minimum
    gap = abs(found - rule.minimum)
    reason = f"{found:.4f} is {gap:.4f} {'above' if passed else 'below'} the minimum {rule.minimum:.4f}"
    return GateOutcome(gate=name, required=rule.minimum, found=found, passed=passed, reason=reason)
