"""The suite: the worst case of each example, consistent counts, honest refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from training.attacks.apgd import apgd_ce
from training.attacks.apgd_steps import ApgdBudget
from training.attacks.draws import KeyedDraws
from training.attacks.gradients import frozen
from training.attacks.pgd import Ascent, pgd
from training.attacks.victim import Batch, Victim
from training.config import (
    ApgdCeAttack,
    Budget,
    Curve,
    Evaluation,
    PgdAttack,
    Sanity,
    SanityName,
    Shift,
    Spatial,
    SquareAttack,
    ThreatModel,
)
from training.errors import ArtefactError, TrainingError
from training.models.classifier import Classifier
from training.randomness import derive_seed
from training.robustness.results import (
    EVALUATION,
    EvaluationResult,
    Outcomes,
    Strip,
    read_outcomes,
    read_result,
    write_result,
)
from training.robustness.statistics import Estimate, Rate
from training.robustness.subject import Plan, Subject
from training.robustness.suite import Suite
from training.robustness.work import Work
from training.validation import LabelledImages

CPU = torch.device("cpu")
THREAT = ThreatModel(norm="Linf", epsilon=0.08)
PGD = PgdAttack(steps=5, restarts=2, step_size=0.3)
APGD = ApgdCeAttack(steps=12, restarts=2)
CURVE = Curve(multiples=(0.0, 0.25, 1.0, 2.0, 8.0), attack=PgdAttack(steps=6, restarts=1), examples=64)
NO_SHIFT = Shift(corruptions="none", threats=(), spatial=Spatial(degrees=0, pixels=0))
NO_SANITY = Sanity(enabled=False)
EVALUATION_SECTION = Evaluation(
    attacks=(PGD, APGD), batch_size=40, curve=CURVE, strip_examples=5, sanity=NO_SANITY, shift=NO_SHIFT
)
SEED = 3


class Precise(nn.Module):
    """Compute in float64 and answer in float32, so that batches do not matter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()


def subject_of(model: nn.Module, test: LabelledImages) -> Subject:
    names = tuple(f"digit {number}" for number in range(10))
    return Subject(model, "model", test, "snapshot", names, CPU)


@pytest.fixture(name="subject")
def _subject(trained: Classifier, unseen: LabelledImages) -> Subject:
    return subject_of(Precise(trained), unseen)


def evaluated(
    subject: Subject, evaluation: Evaluation = EVALUATION_SECTION, threat: ThreatModel = THREAT
) -> tuple[EvaluationResult, Outcomes, Strip]:
    return Suite(subject, Plan(evaluation, threat, SEED)).run()


def alone(subject: Subject) -> list[npt.NDArray[np.bool_]]:
    """Attack every example by each attack, in one batch; return who stands."""
    x, y = subject.test.batch(0, 96, CPU)
    rows, epsilon = np.arange(96), THREAT.epsilon
    with frozen(subject.model):
        victim, batch = Victim(subject.model), Batch(x, y, subject.model(x))
        ascent = Ascent("Linf", epsilon, 0.3 * epsilon, 5)
        by_pgd = pgd(victim, batch, ascent, KeyedDraws(derive_seed(SEED, "pgd"), rows), restarts=2)[1]
        budget = ApgdBudget("Linf", epsilon, 12)
        by_apgd = apgd_ce(victim, batch, budget, KeyedDraws(derive_seed(SEED, "apgd_ce"), rows), 2)[1]
    return [~by_pgd.numpy(), ~by_apgd.numpy()]


def test_what_stands_is_right_naturally_and_under_every_attack(subject: Subject) -> None:
    _, outcomes, _ = evaluated(subject)
    right = outcomes.predictions == subject.test.labels.numpy()
    first, second = alone(subject)
    assert np.array_equal(outcomes.stands[0], right & first)
    assert np.array_equal(outcomes.stands[1], right & first & second)
    assert 0 < outcomes.stands[1].sum() < outcomes.stands[0].sum() < right.sum() < 96


def test_predictions_and_labels_are_those_of_the_test_side(subject: Subject) -> None:
    _, outcomes, _ = evaluated(subject)
    x, y = subject.test.batch(0, 96, CPU)
    with torch.no_grad():
        assert np.array_equal(outcomes.predictions, subject.model(x).argmax(dim=1).numpy())
    assert np.array_equal(outcomes.labels, y.numpy())
    assert np.array_equal(outcomes.rows, np.arange(96))


def test_counts_are_those_of_the_outcomes(subject: Subject) -> None:
    result, outcomes, _ = evaluated(subject)
    right = outcomes.predictions == outcomes.labels
    assert isinstance(result.robust, Rate)
    assert result.examples == result.natural.n == result.robust.n == 96
    assert result.natural.count == right.sum()
    assert result.robust.count == outcomes.stands[-1].sum()
    attacked = right.sum()
    for found, stands in zip(result.attacks, outcomes.stands, strict=True):
        assert found.attacked == attacked
        assert isinstance(found.robust, Rate)
        assert found.robust.count == stands.sum() == attacked - found.broken
        attacked = stands.sum()
    assert sum(part.natural.count for part in result.classes) == result.natural.count
    robust = [part.robust for part in result.classes if isinstance(part.robust, Rate)]
    assert sum(part.count for part in robust) == result.robust.count
    assert sum(part.n for part in robust) == 96
    table, worst = np.array(result.confusion), np.array(result.robust_confusion)
    assert table.shape == worst.shape == (10, 10)
    assert table.trace() == result.natural.count
    assert worst.trace() == result.robust.count
    assert np.array_equal(table.sum(axis=1), worst.sum(axis=1))


def test_classes_are_counted_apart(subject: Subject) -> None:
    result, outcomes, _ = evaluated(subject)
    assert [part.name for part in result.classes] == list(subject.class_names)
    for label, part in enumerate(result.classes):
        mine = outcomes.labels == label
        assert part.natural.n == mine.sum()
        assert part.robust.value == outcomes.stands[-1][mine].mean()
    worst = min(part.robust.value for part in result.classes)
    assert result.metrics["worst_class_robust"].value == worst


def test_metrics_name_every_attack(subject: Subject) -> None:
    result, _, _ = evaluated(subject)
    assert result.metrics["robust_pgd"] == result.attacks[0].robust
    assert result.metrics["robust_apgd_ce"] == result.robust
    assert result.metrics["natural"] == result.natural


@pytest.mark.parametrize("size", [7, 96, 500])
def test_the_batch_size_changes_nothing(subject: Subject, size: int) -> None:
    result, outcomes, strip = evaluated(subject)
    other, others, strips = evaluated(subject, EVALUATION_SECTION.model_copy(update={"batch_size": size}))
    assert np.array_equal(outcomes.stands, others.stands)
    assert other.model_copy(update={"method": result.method}) == result
    assert len(strip.labels) == len(strips.labels)


def test_fewer_examples_are_the_first_ones(subject: Subject) -> None:
    _, outcomes, _ = evaluated(subject)
    few, fewer, _ = evaluated(subject, EVALUATION_SECTION.model_copy(update={"examples": 30}))
    assert few.examples == 30
    assert np.array_equal(fewer.stands, outcomes.stands[:, :30])
    most, _, _ = evaluated(subject, EVALUATION_SECTION.model_copy(update={"examples": 10_000}))
    assert most.examples == 96


def test_the_curve_starts_at_natural_accuracy_and_falls(subject: Subject) -> None:
    result, outcomes, _ = evaluated(subject)
    first, *rest = result.curve.points
    right = (outcomes.predictions == outcomes.labels)[:64]
    assert (first.epsilon, first.accuracy.count, first.accuracy.n) == (0.0, right.sum(), 64)
    counts = [point.accuracy.count for point in result.curve.points]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= 6
    assert [point.epsilon for point in rest] == pytest.approx([0.02, 0.08, 0.16, 0.64])


def test_a_point_of_the_curve_is_the_worst_case_over_its_restarts(subject: Subject) -> None:
    attack = PgdAttack(steps=1, restarts=4, step_size=0.5)
    section = EVALUATION_SECTION.model_copy(
        update={"curve": Curve(multiples=(1.0,), attack=attack, examples=96), "attacks": (attack,)}
    )
    (point,) = evaluated(subject, section)[0].curve.points
    x, y = subject.test.batch(0, 96, CPU)
    with frozen(subject.model), torch.no_grad():
        standing = subject.model(x).argmax(dim=1) == y
        counts = [int(standing.sum())]
        batch = Batch(x, y, subject.model(x)).select(standing)
        rows = np.flatnonzero(standing.numpy())
        ascent = Ascent("Linf", THREAT.epsilon, 0.5 * THREAT.epsilon, 1)
        for restarts in range(1, 5):
            draws = KeyedDraws(derive_seed(SEED, "curve"), rows)
            fooled = pgd(Victim(subject.model), batch, ascent, draws, restarts=restarts)[1]
            counts.append(int((~fooled).sum()))
    assert point.accuracy.count == counts[-1]
    assert counts[-1] < counts[1] < counts[0]


def test_the_strip_shows_broken_examples_first(subject: Subject) -> None:
    _, outcomes, strip = evaluated(subject)
    broken = (outcomes.predictions == outcomes.labels) & ~outcomes.stands[-1]
    pictures = subject.test.images.numpy() / np.float32(255)
    shown = [int(np.flatnonzero((pictures == image).all(axis=(1, 2, 3)))[0]) for image in strip.natural]
    assert broken[shown].all()
    assert len(set(shown)) == 5
    assert np.array_equal(strip.labels, outcomes.labels[shown])
    with torch.no_grad():
        seen = subject.model(torch.from_numpy(strip.adversarial)).argmax(dim=1)
    assert np.array_equal(seen.numpy(), strip.adversarial_predictions)
    assert np.array_equal(strip.natural_predictions, strip.labels)
    assert (strip.adversarial_predictions != strip.labels).all()
    assert np.abs(strip.adversarial - strip.natural).max() <= THREAT.epsilon * (1 + 1e-5)
    assert 0.0 <= strip.adversarial.min() <= strip.adversarial.max() <= 1.0


def test_l2_is_evaluated_in_the_l2_ball(subject: Subject) -> None:
    result, _, strip = evaluated(subject, threat=ThreatModel(norm="L2", epsilon=0.4))
    sizes = np.linalg.norm((strip.adversarial - strip.natural).reshape(5, -1), axis=1)
    assert sizes.max() <= 0.4 * (1 + 1e-5)
    assert 0 < result.robust.value < result.natural.value


def test_the_seed_repeats_an_evaluation(subject: Subject) -> None:
    assert evaluated(subject)[0] == evaluated(subject)[0]


def test_progress_tells_of_every_example(subject: Subject) -> None:
    told: list[int] = []
    Suite(subject, Plan(EVALUATION_SECTION, THREAT, SEED, progress=told.append)).run()
    assert sum(told) == 96
    assert min(told) >= 0


def test_a_model_that_is_always_wrong_has_nothing_to_attack(subject: Subject) -> None:
    wrong = LabelledImages(subject.test.images[:8], (subject.test.labels[:8] + 1) % 10)
    with torch.no_grad():
        x, y = wrong.batch(0, 8, CPU)
        keep = subject.model(x).argmax(dim=1) != y
    kept = LabelledImages(wrong.images[keep], wrong.labels[keep])
    result, outcomes, strip = evaluated(replace(subject, test=kept))
    assert (result.natural.value, result.robust.value) == (0, 0)
    assert [(found.attacked, found.broken) for found in result.attacks] == [(0, 0), (0, 0)]
    assert not outcomes.stands.any()
    assert np.array_equal(strip.natural, strip.adversarial)


def test_an_empty_test_side_is_refused(subject: Subject) -> None:
    empty = LabelledImages(subject.test.images[:0], subject.test.labels[:0])
    with pytest.raises(TrainingError, match="the test side is empty"):
        evaluated(replace(subject, test=empty))


class NanFor(nn.Module):
    """NaN for natural images, or only for others: there NaN's argmax, class 0, would seem to stand."""

    def __init__(self, *, natural: bool) -> None:
        super().__init__()
        self.natural = natural

    def forward(self, x: Tensor) -> Tensor:
        grey = x * 255
        is_natural = ((grey - grey.round()).abs().flatten(1).amax(dim=1) < 1e-3)[:, None]
        logits = x.flatten(1)[:, :10] * 1e-3 - torch.arange(10)
        return torch.where(is_natural == self.natural, torch.nan, logits)


@pytest.mark.parametrize("natural", [True, False])
def test_a_model_that_gives_nan_is_refused(unseen: LabelledImages, *, natural: bool) -> None:
    zeros = LabelledImages(unseen.images, torch.zeros_like(unseen.labels))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        evaluated(subject_of(NanFor(natural=natural), zeros))


@pytest.mark.parametrize("fails", [False, True])
def test_the_models_state_is_restored(subject: Subject, *, fails: bool) -> None:
    subject.model.train()
    part = next(subject.model.children()).eval()
    some = next(subject.model.parameters())
    some.requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
    if fails:

        def broken(_count: int) -> None:
            raise KeyError

        with pytest.raises(KeyError):
            Suite(subject, Plan(EVALUATION_SECTION, THREAT, SEED, progress=broken)).run()
    else:
        evaluated(subject)
    assert subject.model.training
    assert not part.training
    assert [parameter.requires_grad for parameter in subject.model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in subject.model.parameters())


class EvalOnly(Precise):
    """Refuse to answer in training mode or with parameters that want gradients."""

    def forward(self, x: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        assert not any(parameter.requires_grad for parameter in self.parameters())
        return super().forward(x)


def test_every_answer_is_given_in_eval_mode(subject: Subject, trained: Classifier) -> None:
    model = EvalOnly(trained).train()
    assert evaluated(replace(subject, model=model))[0] == evaluated(subject)[0]


def test_a_budget_makes_an_estimate_and_says_what_it_skipped(subject: Subject) -> None:
    section = EVALUATION_SECTION.model_copy(update={"budget": Budget(survivors=10)})
    result, outcomes, _ = evaluated(subject, section)
    full, _, _ = evaluated(subject)
    left = int(outcomes.stands[0].sum())
    assert outcomes.attacked[1].sum() == 10
    assert result.attacks[1].skipped == left - 10 > 0
    assert result.method.skipped == (f"apgd_ce was not run on {left - 10} standing examples",)
    assert isinstance(result.robust, Estimate)
    assert result.robust.low < full.robust.value < result.robust.high
    assert result.attacks[0].robust == full.attacks[0].robust
    assert sum(map(sum, result.robust_confusion)) == 96 - (left - 10)


@pytest.mark.parametrize("unit", ["0-pgd-1", "1-apgd_ce-0", "curve"])
def test_a_killed_evaluation_goes_on_and_gives_the_same(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    plan = Plan(EVALUATION_SECTION, THREAT, SEED, work=Work(tmp_path / "kept", "key"))
    compute = Work.unit

    def killed(self: Work, name: str, work: Any) -> Any:  # noqa: ANN401 - whatever the unit gives
        if name.startswith(unit):
            raise KeyboardInterrupt
        return compute(self, name, work)

    with monkeypatch.context() as patched:
        patched.setattr(Work, "unit", killed)
        with pytest.raises(KeyboardInterrupt):
            Suite(subject, plan).run()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert kept
    result, outcomes, strip = Suite(subject, plan).run()
    assert (
        kept.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}.items()
    )
    unbroken = evaluated(subject)
    assert result == unbroken[0]
    assert np.array_equal(outcomes.stands, unbroken[1].stands)
    assert np.array_equal(strip.adversarial, unbroken[2].adversarial)


def test_checks_and_shifts_are_part_of_the_result(subject: Subject) -> None:
    section = Evaluation(
        attacks=(APGD, SquareAttack(queries=20)),
        curve=CURVE,
        examples=40,
        sanity=Sanity(
            examples=24, attack=PgdAttack(steps=2, restarts=1), square_queries=10, surrogate_epochs=1
        ),
        shift=Shift(corruptions="common", severities=(1, 3), examples=24, attack=ApgdCeAttack(steps=3)),
    )
    teacher = replace(subject, teacher=subject.model, train=subject.test)
    result, _, _ = evaluated(teacher, section)
    assert [check.name for check in result.sanity] == list(get_args(SanityName))
    assert "not run" not in {check.status for check in result.sanity}
    kinds = [(found.kind, found.severity) for found in result.shift.corruptions]
    assert len(kinds) == len(set(kinds)) == 30
    assert all(found.teacher == found.accuracy for found in result.shift.corruptions)
    assert [found.name for found in result.shift.threats] == ["L2", "L1", "spatial"]
    assert result.metrics["unseen_L2"].value <= result.shift.natural.value
    assert 0 < result.metrics["corruption"].value <= 1
    alone, _, _ = evaluated(subject, section)
    unmade = {check.name for check in alone.sanity if check.status == "not run"}
    assert unmade == {
        "teacher_transfer_not_stronger",
        "surrogate_transfer_not_stronger",
        "training_target_not_stronger",
    }
    assert all(found.teacher is None for found in alone.shift.corruptions)


def test_a_result_is_read_as_it_was_written(subject: Subject, tmp_path: Path) -> None:
    result, outcomes, _ = evaluated(subject)
    write_result(tmp_path, result, outcomes)
    assert read_result(tmp_path) == result
    read = read_outcomes(tmp_path)
    assert all(np.array_equal(value, vars(read)[name]) for name, value in vars(outcomes).items())


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"robust": {"count": 9, "n": 5, "value": 1.8}}', "[" * 100_000]
)
def test_an_unusable_result_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / EVALUATION).write_text(text)
    with pytest.raises(ArtefactError, match="run step robustness_evaluation"):
        read_result(tmp_path)
