"""The evaluation suite: natural accuracy, the attacks in order, the worst case, the epsilon curve."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.attacks.apgd import ApgdBudget, apgd_ce
from training.attacks.gradients import frozen
from training.attacks.pgd import Ascent, pgd
from training.config import ApgdCeAttack, Evaluation, EvaluationAttack, PgdAttack, ThreatModel
from training.errors import TrainingError
from training.randomness import IntArray, derive_seed
from training.robustness.results import (
    AttackResult,
    ClassResult,
    CurvePoint,
    CurveResult,
    EvaluationResult,
    Outcomes,
    Strip,
)
from training.robustness.statistics import Rate
from training.validation import LabelledImages


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model in eval mode, its digest, the test side, its digest and class names."""

    model: nn.Module
    model_digest: str
    test: LabelledImages
    snapshot_digest: str
    class_names: tuple[str, ...]
    device: torch.device


class Suite:
    """One evaluation of one model.

    Args:
        subject: the model and the test side.
        evaluation: which attacks, in order; each is given what the earlier ones left.
        threat_model: norm and epsilon.
        seed: key of every random start; starts depend on (seed, attack, restart, example), not on batches.
        progress: told the number of examples finished, now and then.
    """

    def __init__(
        self,
        subject: Subject,
        evaluation: Evaluation,
        threat_model: ThreatModel,
        seed: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._subject = subject
        self._evaluation = evaluation
        self._threat_model = threat_model
        self._seed = seed
        self._progress = progress
        self._count = min(evaluation.examples or len(subject.test), len(subject.test))

    def run(self) -> tuple[EvaluationResult, Outcomes, Strip]:
        """Evaluate; the model's mode and requires_grad are restored afterwards.

        Raises:
            TrainingError: an empty test side, or a model that gives NaN.
        """
        if self._count == 0:
            msg = "the test side is empty: nothing can be said of robustness; give test examples"
            raise TrainingError(msg)
        with frozen(self._subject.model):
            outcomes, adversarial = self._attack_all()
            curve = self._curve()
            strip = self._strip(outcomes, adversarial)
        return self._result(outcomes, curve), outcomes, strip

    def _attack_all(self) -> tuple[Outcomes, Tensor]:
        size = self._evaluation.batch_size
        parts = [self._attack_batch(start) for start in range(0, self._count, size)]
        outcomes = Outcomes(
            rows=np.arange(self._count),
            labels=self._subject.test.labels[: self._count].numpy(),
            predictions=np.concatenate([part[0] for part in parts]),
            stands=np.concatenate([part[1] for part in parts], axis=1),
        )
        return outcomes, torch.cat([part[2] for part in parts])

    def _batch(self, start: int, end: int) -> tuple[Tensor, Tensor, IntArray]:
        x, y = self._subject.test.batch(
            start, min(self._evaluation.batch_size, end - start), self._subject.device
        )
        return x, y, np.arange(start, start + len(x))

    def _attack_batch(self, start: int) -> tuple[IntArray, np.ndarray, Tensor]:
        x, y, rows = self._batch(start, self._count)
        predictions = self._predict(x)
        standing = predictions == y
        adversarial = x.clone()
        stands = []
        for attack in self._evaluation.attacks:
            for restart in range(attack.restarts):
                left = standing.nonzero().squeeze(1)
                if not len(left):
                    break
                found, fooled = self._attack_once(attack, x[left], y[left], rows[left.cpu().numpy()], restart)
                adversarial[left] = found
                standing[left[fooled]] = False
            stands.append(standing.cpu().numpy().copy())
        self._progress(len(x))
        return predictions.cpu().numpy(), np.stack(stands), adversarial.cpu()

    def _predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self._subject.model(x)
        if not bool(torch.isfinite(logits).all()):
            msg = "the model's logits hold NaN or infinity on natural test images; it cannot be evaluated"
            raise TrainingError(msg)
        predictions: Tensor = logits.argmax(dim=1)
        return predictions

    def _attack_once(
        self, attack: EvaluationAttack, x: Tensor, y: Tensor, rows: IntArray, restart: int
    ) -> tuple[Tensor, Tensor]:
        model, threat = self._subject.model, self._threat_model
        seed = derive_seed(self._seed, "evaluation", attack.name, restart)
        match attack:
            case PgdAttack():
                return pgd(model, x, y, rows, _ascent(attack, threat.epsilon, threat), seed)
            case ApgdCeAttack():
                budget = ApgdBudget(threat.norm, threat.epsilon, attack.steps)
                return apgd_ce(model, x, y, rows, budget, seed)

    def _curve(self) -> CurveResult:
        curve = self._evaluation.curve
        points = []
        for multiple in curve.multiples:
            epsilon = multiple * self._threat_model.epsilon
            points.append(CurvePoint(epsilon=epsilon, accuracy=self._accuracy_at(epsilon)))
        return CurveResult(attack=curve.attack, points=tuple(points))

    def _accuracy_at(self, epsilon: float) -> Rate:
        attack = self._evaluation.curve.attack
        count = min(self._evaluation.curve.examples, self._count)
        standing = 0
        for start in range(0, count, self._evaluation.batch_size):
            x, y, rows = self._batch(start, count)
            fooled = self._predict(x) != y
            for restart in range(attack.restarts if epsilon > 0 else 0):
                seed = derive_seed(self._seed, "curve", restart)
                ascent = _ascent(attack, epsilon, self._threat_model)
                fooled |= pgd(self._subject.model, x, y, rows, ascent, seed)[1]
            standing += int((~fooled).sum())
        return Rate(count=standing, n=count)

    def _strip(self, outcomes: Outcomes, adversarial: Tensor) -> Strip:
        """Show examples that an attack broke first, then others."""
        broken = (outcomes.predictions == outcomes.labels) & ~outcomes.stands[-1]
        order = np.argsort(~broken, kind="stable")[: self._evaluation.strip_examples]
        images = adversarial[torch.from_numpy(order)]
        natural = self._subject.test.images[torch.from_numpy(order)].float() / 255.0
        return Strip(
            natural=natural.numpy(),
            adversarial=images.numpy(),
            labels=outcomes.labels[order],
            natural_predictions=outcomes.predictions[order],
            adversarial_predictions=self._predict(images.to(self._subject.device)).cpu().numpy(),
        )

    def _result(self, outcomes: Outcomes, curve: CurveResult) -> EvaluationResult:
        right = outcomes.predictions == outcomes.labels
        return EvaluationResult(
            model_digest=self._subject.model_digest,
            snapshot_digest=self._subject.snapshot_digest,
            seed=self._seed,
            threat_model=self._threat_model,
            examples=self._count,
            natural=_rate(right),
            robust=_rate(outcomes.stands[-1]),
            attacks=self._attack_results(right, outcomes.stands),
            classes=tuple(
                ClassResult(name=name, natural=_rate(right[mine]), robust=_rate(outcomes.stands[-1][mine]))
                for label, name in enumerate(self._subject.class_names)
                if (mine := outcomes.labels == label).any()
            ),
            curve=curve,
        )

    def _attack_results(self, right: np.ndarray, stands: np.ndarray) -> tuple[AttackResult, ...]:
        before = [right, *stands[:-1]]
        return tuple(
            AttackResult(
                attack=attack, attacked=int(was.sum()), broken=int(was.sum() - now.sum()), robust=_rate(now)
            )
            for attack, was, now in zip(self._evaluation.attacks, before, stands, strict=True)
        )


def _ascent(attack: PgdAttack, epsilon: float, threat: ThreatModel) -> Ascent:
    return Ascent(threat.norm, epsilon, attack.step_size * epsilon, attack.steps)


def _rate(hits: np.ndarray) -> Rate:
    return Rate(count=int(hits.sum()), n=len(hits))
