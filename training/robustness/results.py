"""What an evaluation finds: the schema of evaluation.json, and the arrays beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from training.artefact import write_json
from training.config import EvaluationAttack, PgdAttack, Section, ThreatModel
from training.errors import ArtefactError
from training.robustness.statistics import Rate

EVALUATION = "evaluation.json"
OUTCOMES = "outcomes.npz"
REPORT = "report.html"


class AttackResult(Section):
    """One attack: the examples it was given, how many it broke, and what stands after it."""

    attack: EvaluationAttack
    attacked: int
    broken: int
    robust: Rate


class ClassResult(Section):
    """Natural and robust accuracy within one class."""

    name: str
    natural: Rate
    robust: Rate


class CurvePoint(Section):
    """Accuracy under PGD at one epsilon, in pixel units of [0, 1]."""

    epsilon: float
    accuracy: Rate


class CurveResult(Section):
    """Accuracy against epsilon."""

    attack: PgdAttack
    points: tuple[CurvePoint, ...]


class EvaluationResult(Section):
    """The content of evaluation.json.

    ``robust`` is the worst case of each example over all attacks at the threat model's epsilon.
    ``model_digest`` is the bundle's, ``snapshot_digest`` the manifest's.
    """

    schema_version: Literal[1] = 1
    model_digest: str
    snapshot_digest: str
    seed: int
    threat_model: ThreatModel
    examples: int
    natural: Rate
    robust: Rate
    attacks: tuple[AttackResult, ...]
    classes: tuple[ClassResult, ...]
    curve: CurveResult

    @property
    def metrics(self) -> dict[str, Rate]:
        """The rates that a gate may name."""
        return {
            "natural": self.natural,
            "robust": self.robust,
            **{f"robust_{result.attack.name}": result.robust for result in self.attacks},
            "worst_class_natural": min((c.natural for c in self.classes), key=lambda rate: rate.value),
            "worst_class_robust": min((c.robust for c in self.classes), key=lambda rate: rate.value),
        }


@dataclass(frozen=True)
class Outcomes:
    """Per-example outcomes: rows of the test side, true class, natural prediction, and what stands.

    ``stands`` has shape (attacks, n): right on the natural image and under that attack and those before.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    stands: npt.NDArray[np.bool_]


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
        return EvaluationResult.model_validate(_without_computed(json.loads(path.read_bytes())))
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


def _without_computed(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Drop a rate's computed fields: they follow from count and n."""
    if isinstance(value, dict):
        is_rate = {"count", "n", "value"} <= value.keys()
        kept = {"count": value["count"], "n": value["n"]} if is_rate else value
        return {key: _without_computed(item) for key, item in kept.items()}
    return [_without_computed(item) for item in value] if isinstance(value, list) else value
