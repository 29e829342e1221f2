"""Gates deny by default and say why."""

import pytest

from training.config import Curve, Gate, PgdAttack, Rule, ThreatModel
from training.gates import Decision, decide
from training.robustness.results import AttackResult, ClassResult, CurvePoint, CurveResult, EvaluationResult
from training.robustness.statistics import Rate


def rate(count: int, n: int = 1000) -> Rate:
    return Rate(count=count, n=n)


RESULT = EvaluationResult(
    model_digest="m",
    snapshot_digest="s",
    seed=0,
    threat_model=ThreatModel(),
    examples=1000,
    natural=rate(960),
    robust=rate(800),
    attacks=(AttackResult(attack=PgdAttack(), attacked=960, broken=140, robust=rate(820)),),
    classes=(
        ClassResult(name="zero", natural=rate(490, 500), robust=rate(410, 500)),
        ClassResult(name="one", natural=rate(470, 500), robust=rate(390, 500)),
    ),
    curve=CurveResult(attack=Curve().attack, points=(CurvePoint(epsilon=0.0, accuracy=rate(960)),)),
)


def gate(*rules: Rule, minimum_examples: int = 300) -> Gate:
    return Gate(minimum_examples=minimum_examples, rules=rules)


def decided(*rules: Rule, minimum_examples: int = 300, model: str = "m") -> Decision:
    return decide(gate(*rules, minimum_examples=minimum_examples), RESULT, {"model": model})


EASY = Rule(metric="robust", minimum=0.5)


def test_a_student_that_meets_every_rule_passes() -> None:
    decision = decided(EASY, Rule(metric="natural", minimum=0.9))
    assert decision.passed
    assert decision.verdict == "passed"
    assert all(outcome.passed for outcome in decision.outcomes)
    assert len(decision.outcomes) == 5


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
    ],
)
def test_a_rule_looks_at_the_metric_it_names(metric: str, wanted: float) -> None:
    outcome = decided(Rule(metric=metric, minimum=0.5, use="point")).outcomes[-1]
    assert outcome.found == pytest.approx(wanted)


def test_a_decision_keeps_what_it_rests_on() -> None:
    first, second = decided(EASY), decided(Rule(metric="robust", minimum=0.6))
    assert first.gate_digest != second.gate_digest
    assert first.digests == {"model": "m"}
