"""Gates deny by default and say why."""

import json
from typing import Any, Literal, get_args

import pytest
from pydantic import ValidationError

from training.config import Curve, Gate, PgdAttack, Rule, SanityName, ThreatModel
from training.gates import Decision, decide
from training.robustness.results import (
    AttackResult,
    ClassResult,
    CorruptionResult,
    CurvePoint,
    CurveResult,
    EvaluationResult,
    Method,
    SanityCheck,
    ShiftResult,
    ThreatResult,
)
from training.robustness.statistics import Estimate, Rate, two_phase

CHECKS: tuple[SanityName, ...] = get_args(SanityName)


def rate(count: int, n: int = 1000) -> Rate:
    return Rate(count=count, n=n)


def check(name: SanityName, status: Literal["passed", "failed", "not run"] = "passed") -> SanityCheck:
    return SanityCheck(name=name, status=status, found=0.1, threshold=0.05, evidence=f"seen: {name}, 0.1")


def corrupted(count: int, severity: int, n: int = 200) -> CorruptionResult:
    return CorruptionResult(
        kind="fog", group="weather", severity=severity, accuracy=rate(count, n), teacher=rate(n, n)
    )


RESULT = EvaluationResult(
    model_digest="m",
    snapshot_digest="s",
    seed=0,
    threat_model=ThreatModel(),
    examples=1000,
    class_count=2,
    method=Method(
        version="custom",
        mode="exact",
        draws="per-example",
        precision="float32",
        folded=True,
        forward=1,
        gradient=1,
    ),
    natural=rate(960),
    robust=rate(800),
    attacks=(
        AttackResult(attack=PgdAttack(), loss="cross-entropy", attacked=960, broken=140, robust=rate(820)),
    ),
    classes=(
        ClassResult(name="zero", natural=rate(490, 500), robust=rate(410, 500)),
        ClassResult(name="one", natural=rate(470, 500), robust=rate(390, 500)),
    ),
    confusion=((490, 10), (30, 470)),
    robust_confusion=((410, 90), (110, 390)),
    curve=CurveResult(attack=Curve().attack, points=(CurvePoint(epsilon=0.0, accuracy=rate(960)),)),
    sanity=tuple(check(name) for name in CHECKS),
    shift=ShiftResult(
        corruptions=(corrupted(180, 1), corrupted(120, 5)),
        natural=rate(190, 200),
        threats=(ThreatResult(name="L2", epsilon=0.5, description="APGD-CE", accuracy=rate(140, 200)),),
        shifted=None,
    ),
)


def gate(*rules: Rule, minimum_examples: int = 300, **fields: Any) -> Gate:  # noqa: ANN401 - the section's
    return Gate(minimum_examples=minimum_examples, rules=rules, **fields)


def decided(*rules: Rule, minimum_examples: int = 300, model: str = "m") -> Decision:
    return decide(gate(*rules, minimum_examples=minimum_examples), RESULT, {"model": model, "dataset": "s"})


EASY = Rule(metric="robust", minimum=0.5)


def test_a_student_that_meets_every_rule_passes() -> None:
    decision = decided(EASY, Rule(metric="natural", minimum=0.9))
    assert decision.passed
    assert decision.verdict == "passed"
    assert all(outcome.passed for outcome in decision.outcomes)
    assert len(decision.outcomes) == 6 + len(CHECKS)


def test_one_missed_rule_refuses() -> None:
    decision = decided(EASY, Rule(metric="natural", minimum=0.99))
    assert not decision.passed
    assert decision.verdict == "refused"
    assert [outcome.gate for outcome in decision.outcomes if not outcome.passed] == [
        "natural (interval low end)"
    ]


def test_without_rules_nothing_passes() -> None:
    decision = decided()
    assert not decision.passed
    assert any("no rules are set" in outcome.reason for outcome in decision.outcomes)


@pytest.mark.parametrize("metric", ["robust_apgd_ce", "Robust", "autoattack"])
def test_a_missing_metric_refuses_and_names_those_there_are(metric: str) -> None:
    decision = decided(EASY, Rule(metric=metric, minimum=0.0))
    assert not decision.passed
    outcome = decision.outcomes[-1]
    assert outcome.found is None
    assert metric in outcome.reason
    assert "robust_pgd" in outcome.reason


def test_too_few_examples_refuse() -> None:
    assert decided(EASY, minimum_examples=1000).passed
    decision = decided(EASY, minimum_examples=1001)
    assert not decision.passed
    assert any("at least 1001 needed" in outcome.reason for outcome in decision.outcomes)


@pytest.mark.parametrize("digests", [{"model": "another"}, {}, {"student": "m"}])
def test_an_evaluation_of_another_model_refuses(digests: dict[str, str]) -> None:
    decision = decide(gate(EASY), RESULT, digests)
    assert not decision.passed
    assert any("another model" in outcome.reason for outcome in decision.outcomes)


def test_the_lower_end_is_held_against_the_minimum_unless_the_point_is_asked_for() -> None:
    minimum = 0.79
    assert rate(800).low < minimum < 0.8
    lower = decided(Rule(metric="robust", minimum=minimum))
    point = decided(Rule(metric="robust", minimum=minimum, use="point"))
    assert not lower.passed
    assert point.passed
    assert lower.outcomes[-1].found == rate(800).low
    assert point.outcomes[-1].found == 0.8


def test_exactly_the_minimum_passes() -> None:
    assert decided(Rule(metric="robust", minimum=0.8, use="point")).passed


@pytest.mark.parametrize(("minimum", "word"), [(0.7, "0.1000 above"), (0.9, "0.1000 below")])
def test_the_reason_says_by_how_much(minimum: float, word: str) -> None:
    outcome = decided(Rule(metric="robust", minimum=minimum, use="point")).outcomes[-1]
    assert outcome.reason == f"0.8000 is {word} the minimum {minimum:.4f}"
    assert outcome.required == minimum


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        ("natural", 0.96),
        ("robust", 0.8),
        ("robust_pgd", 0.82),
        ("worst_class_natural", 0.94),
        ("worst_class_robust", 0.78),
        ("unseen_L2", 0.7),
        ("corruption", 0.75),
    ],
)
def test_a_rule_looks_at_the_metric_it_names(metric: str, wanted: float) -> None:
    outcome = decided(Rule(metric=metric, minimum=0.5, use="point")).outcomes[-1]
    assert outcome.found == pytest.approx(wanted)


def test_a_decision_keeps_what_it_rests_on() -> None:
    first, second = decided(EASY), decided(Rule(metric="robust", minimum=0.6))
    assert first.gate_digest != second.gate_digest
    assert first.digests == {"model": "m", "dataset": "s"}


# --- sanity checks --------------------------------------------------------------------------------


def with_checks(*checks: SanityCheck) -> EvaluationResult:
    return RESULT.model_copy(update={"sanity": checks})


def refused(decision: Decision) -> dict[str, str]:
    assert decision.passed == (not [outcome for outcome in decision.outcomes if not outcome.passed])
    assert decision.verdict == ("passed" if decision.passed else "refused")
    return {outcome.gate: outcome.reason for outcome in decision.outcomes if not outcome.passed}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("status", ["failed", "not run"])
def test_a_check_that_did_not_pass_refuses_with_its_evidence(
    name: SanityName, status: Literal["failed", "not run"]
) -> None:
    checks = (check(other, status if other == name else "passed") for other in CHECKS)
    found = refused(decide(gate(EASY), with_checks(*checks), {"model": "m", "dataset": "s"}))
    assert found == {f"sanity: {name}": f"{status}: seen: {name}, 0.1"}


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_that_was_not_made_refuses(name: SanityName) -> None:
    checks = (check(other) for other in CHECKS if other != name)
    found = refused(decide(gate(EASY), with_checks(*checks), {"model": "m", "dataset": "s"}))
    assert found == {f"sanity: {name}": "the evaluation did not make this check"}


def test_an_evaluation_without_checks_is_refused_by_every_one() -> None:
    found = refused(decide(gate(EASY), with_checks(), {"model": "m", "dataset": "s"}))
    assert set(found) == {f"sanity: {name}" for name in CHECKS}


def test_a_gate_may_ask_for_some_checks_alone() -> None:
    result = with_checks(check("gradients_not_zero"), check("pgd_gap_small", "failed"))
    some = gate(EASY, sanity=("gradients_not_zero",))
    assert decide(some, result, {"model": "m", "dataset": "s"}).passed
    more = gate(EASY, sanity=("gradients_not_zero", "pgd_gap_small", "square_not_stronger"))
    found = refused(decide(more, result, {"model": "m", "dataset": "s"}))
    assert set(found) == {"sanity: pgd_gap_small", "sanity: square_not_stronger"}


def test_a_gate_says_that_the_checks_passed() -> None:
    decision = decided(EASY)
    reasons = {outcome.gate: outcome.reason for outcome in decision.outcomes}
    assert reasons["sanity: pgd_gap_small"] == "passed: seen: pgd_gap_small, 0.1"


def test_all_checks_are_asked_for_unless_some_are_named() -> None:
    assert Gate().sanity == "all"


# --- estimates and numbers ------------------------------------------------------------------------


def test_a_rule_on_an_estimate_is_held_against_its_lower_end() -> None:
    estimate = two_phase(rate(900), rate(90, 100))
    result = RESULT.model_copy(update={"robust": estimate})
    for minimum, passes in ((estimate.low, True), (estimate.low + 1e-9, False)):
        decision = decide(
            gate(Rule(metric="robust", minimum=minimum)), result, {"model": "m", "dataset": "s"}
        )
        assert decision.passed == passes
        assert decision.outcomes[-1].found == estimate.low
    point = decide(
        gate(Rule(metric="robust", minimum=0.81, use="point")), result, {"model": "m", "dataset": "s"}
    )
    assert point.outcomes[-1].found == pytest.approx(0.81)


def test_a_rule_on_corruptions_is_held_against_the_lower_end_of_one_rate_on_as_many_images() -> None:
    decision = decided(EASY, Rule(metric="corruption", minimum=0.5))
    assert decision.passed
    assert decision.outcomes[-1].found == rate(150, 200).low


def test_without_corruptions_a_rule_on_them_refuses() -> None:
    shift = RESULT.shift.model_copy(update={"corruptions": ()})
    result = RESULT.model_copy(update={"shift": shift})
    decision = decide(gate(Rule(metric="corruption", minimum=0.0)), result, {"model": "m", "dataset": "s"})
    assert not decision.passed
    assert decision.outcomes[-1].found is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "nan", "Infinity"])
def test_no_number_that_a_gate_sees_can_be_nan(bad: object) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"metric": "robust", "minimum": bad})
    with pytest.raises(ValidationError):
        Estimate.model_validate({"value": bad, "low": 0.1, "high": 0.9})
    with pytest.raises(ValidationError):
        Rate.model_validate({"count": bad, "n": 10})
    raw = json.loads(RESULT.model_dump_json(exclude={"natural": {"value", "low", "high"}}))
    raw["robust"] = {"value": bad, "low": 0.1, "high": 0.9}
    with pytest.raises(ValidationError):
        EvaluationResult.model_validate(raw)


def test_a_nan_that_came_in_all_the_same_refuses() -> None:
    forged = Estimate.model_construct(value=float("nan"), low=float("nan"), high=1.0)
    result = RESULT.model_copy(update={"robust": forged})
    use: Literal["lower", "point"]
    for use in ("lower", "point"):
        rule = Rule(metric="robust", minimum=0.0, use=use)
        assert not decide(gate(rule), result, {"model": "m", "dataset": "s"}).passed


def test_an_evaluation_on_another_snapshot_is_refused() -> None:
    decision = decide(gate(EASY), RESULT, {"model": "m", "dataset": "another"})
    assert refused(decision) == {"same snapshot": "the evaluation is on another snapshot"}
    assert not decide(gate(EASY), RESULT, {"model": "m"}).passed
