"""One evaluation of one model: natural accuracy, the ensemble, the curve, the checks, the shifts."""

import contextlib
import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from training.attacks.draws import KeyedDraws
from training.attacks.gradients import frozen
from training.attacks.pgd import pgd
from training.attacks.search_copy import Precision, repeats
from training.attacks.victim import Batch, Victim
from training.config import EvaluationAttack, Section
from training.randomness import derive_seed
from training.robustness.counting import (
    attack_results,
    class_results,
    confusion,
    left_out,
    rate,
    skipped_in_words,
    standing,
)
from training.robustness.ensemble import ascent_of
from training.robustness.parallel import parts_of, run_parts
from training.robustness.results import (
    CurvePoint,
    CurveResult,
    EvaluationResult,
    Method,
    Outcomes,
    SanityCheck,
    ShiftResult,
    Strip,
)
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.suite import run_sanity
from training.robustness.search import Search, Searched, make_victim
from training.robustness.shift import measure_shift
from training.robustness.statistics import Rate
from training.robustness.subject import Natural, Plan, Subject, as_rows, images_at, natural_logits

_PROBE = 16


class SanityResults(Section):
    """The checks as one unit of work."""

    checks: tuple[SanityCheck, ...]


class Suite:
    """One evaluation of one model.

    Args:
        subject: the model and the test side.
        plan: which attacks, checks and shifts; draws depend on (seed, purpose, example), not on batches.
    """

    def __init__(self, subject: Subject, plan: Plan) -> None:
        self._subject = subject
        self._plan = plan

    def run(self) -> tuple[EvaluationResult, Outcomes, Strip]:
        """Evaluate; the model's mode and requires_grad are restored afterwards.

        Raises:
            TrainingError: an empty test side, or a model that gives NaN.
        """
        subject, plan = self._subject, self._plan
        count = min(plan.evaluation.examples or len(subject.test), len(subject.test))
        with contextlib.ExitStack() as stack:
            for model in (subject.model, subject.teacher):
                if model is not None:
                    stack.enter_context(frozen(model))
            stack.enter_context(torch.random.fork_rng())
            self._seed_model("natural")
            natural = natural_logits(subject, count, plan.evaluation.batch_size)
            probe, _ = subject.test.batch(0, _PROBE, subject.device)
            self._subject = subject = replace(
                subject, repeats=repeats(subject.model, probe), copyable=_copyable(subject.model)
            )
            victim, precision = make_victim(subject, plan)
            searched = Search(victim, subject, natural, plan).run()
            strip = self._strip(natural, searched)
            result = self._result(victim, precision, natural, searched)
        return result, searched.outcomes, strip

    def _seed_model(self, purpose: str) -> None:
        """Key the numbers that a randomised model draws, so that an evaluation repeats."""
        torch.manual_seed(derive_seed(self._plan.seed, "model", purpose))

    def _result(
        self, victim: Victim, precision: Precision, natural: Natural, searched: Searched
    ) -> EvaluationResult:
        subject, plan, outcomes = self._subject, self._plan, searched.outcomes
        classes, last = natural.logits.shape[1], len(searched.attacks) - 1
        seen = ~left_out(outcomes, last)
        return EvaluationResult(
            model_digest=subject.model_digest,
            snapshot_digest=subject.snapshot_digest,
            seed=plan.seed,
            threat_model=plan.threat,
            examples=len(natural),
            class_count=classes,
            method=self._method(victim, precision, searched),
            natural=rate(outcomes.predictions == outcomes.labels),
            robust=standing(outcomes, last, np.ones(len(natural), dtype=bool)),
            attacks=attack_results(outcomes, searched.attacks, classes),
            classes=class_results(outcomes, subject.class_names),
            confusion=confusion(outcomes.labels, outcomes.predictions, classes),
            robust_confusion=confusion(outcomes.labels[seen], outcomes.worst_predictions[seen], classes),
            curve=plan.work.section("curve", CurveResult, lambda: self._curve(victim, natural)),
            sanity=self._sanity(searched),
            shift=plan.work.section("shift", ShiftResult, lambda: self._shift(victim, natural)),
        )

    def _curve(self, victim: Victim, natural: Natural) -> CurveResult:
        self._seed_model("curve")
        curve = self._plan.evaluation.curve
        epsilons = [multiple * self._plan.threat.epsilon for multiple in curve.multiples]
        points = (
            CurvePoint(epsilon=epsilon, accuracy=self._accuracy_at(epsilon, victim, natural))
            for epsilon in epsilons
        )
        return CurveResult(attack=curve.attack, points=tuple(points))

    def _accuracy_at(self, epsilon: float, victim: Victim, natural: Natural) -> Rate:
        attack = self._plan.evaluation.curve.attack
        count = min(self._plan.evaluation.curve.examples, len(natural))
        right = natural.right[:count].nonzero().squeeze(1)
        if epsilon == 0:
            return Rate(count=len(right), n=count)
        ascent = ascent_of(attack, self._plan.threat.norm, epsilon)
        seed = derive_seed(self._plan.seed, "curve")
        device = self._subject.device

        def standing(at: Tensor) -> int:
            own = victim.apart() if self._subject.parallel else victim
            x, labels = images_at(self._subject.test, at, device)
            batch = Batch(x, labels, natural.logits[at].to(x.device))
            fooled = pgd(own, batch, ascent, KeyedDraws(seed, as_rows(at)), restarts=attack.restarts)[1]
            return int((~fooled).sum())

        parts = parts_of(right, self._plan.evaluation.batch_size, device)
        return Rate(
            count=sum(run_parts(standing, parts, device, in_turn=not self._subject.parallel)), n=count
        )

    def _shift(self, victim: Victim, natural: Natural) -> ShiftResult:
        self._seed_model("shift")
        return measure_shift(victim, self._subject, natural, self._plan)

    def _sanity(self, searched: Searched) -> tuple[SanityCheck, ...]:
        subject, plan = self._subject, self._plan
        inspection = Inspection(
            model=subject.model,
            test=subject.test,
            device=subject.device,
            classes=len(subject.class_names),
            threat_model=plan.threat,
            teacher=subject.teacher,
            train=subject.train,
            outcomes=searched.outcomes,
            gradient_attacks=_following_gradients(searched.attacks),
            seed=derive_seed(plan.seed, "sanity"),
            config=plan.evaluation.sanity,
            batch_size=plan.evaluation.batch_size,
        )
        made = plan.work.section(
            "sanity", SanityResults, lambda: SanityResults(checks=run_sanity(inspection))
        )
        return made.checks

    def _strip(self, natural: Natural, searched: Searched) -> Strip:
        """Show examples that an attack broke first, then others as they are."""
        wanted = self._plan.evaluation.strip_examples
        others = [position for position in range(len(natural)) if position not in searched.worst]
        order = [*sorted(searched.worst), *others][:wanted]
        at = torch.tensor(order, dtype=torch.int64)
        before = self._subject.test.images[at].float() / 255.0
        after = [searched.worst.get(position, image) for position, image in zip(order, before, strict=True)]
        return Strip(
            natural=before.numpy(),
            adversarial=torch.stack(after).numpy() if after else before.numpy(),
            labels=searched.outcomes.labels[order],
            natural_predictions=searched.outcomes.predictions[order],
            adversarial_predictions=searched.outcomes.worst_predictions[order],
        )

    def _method(self, victim: Victim, precision: Precision, searched: Searched) -> Method:
        evaluation = self._plan.evaluation
        return Method(
            version=evaluation.attacks if isinstance(evaluation.attacks, str) else "custom",
            mode=evaluation.mode,
            draws=evaluation.draws,
            precision=precision,
            folded=victim.search is not None,
            forward=searched.cost.forward,
            gradient=searched.cost.gradient,
            skipped=skipped_in_words(searched.outcomes, searched.attacks),
        )


def _copyable(model: nn.Module) -> bool:
    try:
        copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - whatever a module's own copying raises
        return False
    return True


def _following_gradients(attacks: tuple[EvaluationAttack, ...]) -> int:
    """Count the attacks before the first that follows no gradient."""
    names = [attack.name for attack in attacks]
    return names.index("square") if "square" in names else len(names)
