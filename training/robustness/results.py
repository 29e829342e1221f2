"""What an evaluation finds: the schema of evaluation.json, and the arrays beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from training.artefact import write_json
from training.config import EvaluationAttack, PgdAttack, SanityName, Section, ThreatModel
from training.errors import ArtefactError
from training.robustness.statistics import Estimate, Rate, estimate_of
from training.robustness.work import without_computed

EVALUATION = "evaluation.json"
OUTCOMES = "outcomes.npz"
REPORT = "report.html"

Share: TypeAlias = Rate | Estimate


class AttackResult(Section):
    """One attack: what it maximised, the examples it was given, how many it broke, what stands after it.

    ``attack`` holds the settings in force: a version of AutoAttack written out, targets cut to what the
    number of classes allows. ``skipped`` counts standing examples that a budget kept from it.
    """

    attack: EvaluationAttack
    loss: str
    attacked: int
    broken: int
    skipped: int = 0
    robust: Share


class ClassResult(Section):
    """Natural and robust accuracy within one class."""

    name: str
    natural: Rate
    robust: Share


class CurvePoint(Section):
    """Accuracy under PGD at one epsilon, in pixel units of [0, 1]."""

    epsilon: float
    accuracy: Rate


class CurveResult(Section):
    """Accuracy against epsilon."""

    attack: PgdAttack
    points: tuple[CurvePoint, ...]


class SanityCheck(Section):
    """One check of the evaluation itself.

    ``found`` is what was measured and ``threshold`` what it was held against, both in the unit that
    ``evidence`` names; None where a check could not be made. ``status`` is "not run" for a check that
    does not apply or was not asked for: it has not passed. ``evidence`` says in plain words what was seen.
    """

    name: SanityName
    status: Literal["passed", "failed", "not run"]
    found: float | None
    threshold: float | None
    evidence: str


class CorruptionResult(Section):
    """Accuracy under one corruption at one severity, 1 to 5; ``teacher`` on the same images, if given."""

    kind: str
    group: str
    severity: int
    accuracy: Rate
    teacher: Rate | None


class ThreatResult(Section):
    """Accuracy under a threat model that was not trained for; ``name`` such as "L2" or "spatial"."""

    name: str
    epsilon: float | None
    description: str
    accuracy: Rate


class ShiftedSetResult(Section):
    """Accuracy on a user's own shifted test set, and how far its class shares are from the test side's.

    ``label_shift`` is the total variation distance of the class shares, in [0, 1]; ``natural_reweighted``
    the test side's natural accuracy under the shifted set's class shares: what label shift alone explains.
    """

    digest: str
    natural: Rate
    label_shift: float
    natural_reweighted: float


class ShiftResult(Section):
    """Accuracy away from the test side's own distribution."""

    corruptions: tuple[CorruptionResult, ...]
    natural: Rate
    threats: tuple[ThreatResult, ...]
    shifted: ShiftedSetResult | None

    def mean(self, *, of_teacher: bool = False, kind: str | None = None) -> float | None:
        """Mean accuracy over severities and kinds (or of one kind), in [0, 1]; None where there is none."""
        rates = [
            found.teacher if of_teacher else found.accuracy
            for found in self.corruptions
            if kind in (None, found.kind)
        ]
        values = [rate.value for rate in rates if rate is not None]
        return sum(values) / len(values) if values else None


class Method(Section):
    """How the search was made: nothing here changes what is asked, only how surely it is answered.

    ``precision`` is what the search computed in (every success was confirmed in float32), ``folded``
    whether it used a copy of its own (BatchNorm folded, where there is one); ``forward`` and ``gradient``
    count images passed by the attacks at the threat model's epsilon. ``skipped`` says in words what a
    budget left out.
    """

    version: Literal["standard", "plus", "rand", "custom"]
    mode: Literal["exact", "verdict"]
    draws: Literal["per-example", "reference"]
    precision: Literal["float32", "bfloat16"]
    folded: bool
    forward: int
    gradient: int
    skipped: tuple[str, ...] = ()


class EvaluationResult(Section):
    """The content of evaluation.json.

    ``robust`` is the worst case of each example over all attacks at the threat model's epsilon; under a
    budget it is an estimate. ``model_digest`` is the bundle's, ``snapshot_digest`` the manifest's.
    ``confusion`` and ``robust_confusion`` count true class (row) against predicted class (column), on
    natural images and on the worst images found.
    """

    schema_version: Literal[2] = 2
    model_digest: str
    snapshot_digest: str
    seed: int
    threat_model: ThreatModel
    examples: int
    class_count: int
    method: Method
    natural: Rate
    robust: Share
    attacks: tuple[AttackResult, ...]
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    robust_confusion: tuple[tuple[int, ...], ...]
    curve: CurveResult
    sanity: tuple[SanityCheck, ...]
    shift: ShiftResult

    @property
    def metrics(self) -> dict[str, Share]:
        """The shares that a gate may name."""
        worst_natural = min((c.natural for c in self.classes), key=lambda rate: rate.value)
        worst_robust = min((c.robust for c in self.classes), key=lambda rate: rate.value)
        metrics: dict[str, Share] = {
            "natural": self.natural,
            "robust": self.robust,
            **{f"robust_{result.attack.name}": result.robust for result in self.attacks},
            "worst_class_natural": worst_natural,
            "worst_class_robust": worst_robust,
            **{f"unseen_{result.name}": result.accuracy for result in self.shift.threats},
        }
        if self.shift.corruptions:
            metrics["corruption"] = corruption_mean(self.shift.corruptions)
        return metrics


@dataclass(frozen=True)
class Outcomes:
    """Per-example outcomes: rows of the test side, true class, natural and worst prediction, what stands.

    ``stands`` has shape (attacks, n): right on the natural image and under that attack and those before.
    ``attacked`` has shape (attacks, n): whether the attack was run on the example.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    worst_predictions: npt.NDArray[np.int64]
    stands: npt.NDArray[np.bool_]
    attacked: npt.NDArray[np.bool_]


def corruption_mean(found: tuple[CorruptionResult, ...]) -> Estimate:
    """Mean accuracy over all corruptions and severities, with an interval for the same images throughout.

    Outcomes of one image under several corruptions hang together, so the interval is that of one rate on
    as many images as each corruption saw: wide enough, never too narrow.
    """
    value = sum(result.accuracy.value for result in found) / len(found)
    n = min(result.accuracy.n for result in found)
    return estimate_of(value, n)


@dataclass(frozen=True)
class Strip:
    """Examples to show: pixels in [0, 1], shape (k, c, h, w), and classes, shape (k,)."""

    natural: npt.NDArray[np.float32]
    adversarial: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    natural_predictions: npt.NDArray[np.int64]
    adversarial_predictions: npt.NDArray[np.int64]


def write_result(folder: Path, result: EvaluationResult, outcomes: Outcomes) -> None:
    """Write evaluation.json and outcomes.npz into an existing folder."""
    write_json(folder / EVALUATION, result.model_dump(mode="json"))
    np.savez(folder / OUTCOMES, allow_pickle=False, **vars(outcomes))


def read_result(folder: Path) -> EvaluationResult:
    """Read evaluation.json.

    Raises:
        ArtefactError: missing, or not of this schema.
    """
    path = folder / EVALUATION
    try:
        return EvaluationResult.model_validate(without_computed(json.loads(path.read_bytes())))
    except FileNotFoundError as error:
        msg = f"{path}: missing; run step robustness_evaluation"
        raise ArtefactError(msg) from error
    except (ValidationError, ValueError, RecursionError) as error:
        msg = f"{path}: not an evaluation of this version of Temper; run step robustness_evaluation again"
        raise ArtefactError(msg) from error


def read_outcomes(folder: Path) -> Outcomes:
    """Read outcomes.npz."""
    with np.load(folder / OUTCOMES, allow_pickle=False) as arrays:
        return Outcomes(**arrays)
