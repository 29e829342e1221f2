"""The MLflow model registry: a version for each decision, and the aliases challenger and champion."""

import contextlib
import io
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from components.environment import tracking_uri
from components.tracking import Tracker, shown_uri, told
from training.artefact import digest_json
from training.bundle import load_bundle
from training.config import Registration, Section
from training.errors import TemperError
from training.gates import Decision
from training.robustness.results import EvaluationResult

CHALLENGER = "challenger"
CHAMPION = "champion"
DECISION = "decision.json"
MODEL_CARD = "model_card.md"

_LONGEST_TAG = 4000
# The column of MLflow's database.
_LONGEST_DESCRIPTION = 5000


@dataclass(frozen=True)
class Submission:
    """What is registered: the decision and what it rests on."""

    decision: Decision
    result: EvaluationResult
    config: dict[str, object]
    student: Path
    evaluation: Path

    @property
    def digest(self) -> str:
        """Equal for the same student, evaluation, gates and policy: such a submission has one version."""
        return digest_json([self.decision.model_dump(mode="json"), self.config])


class Registered(Section):
    """The content of registered.json: where the student went."""

    model_name: str
    version: int
    alias: Literal["challenger", "champion"]
    run_id: str
    tracking_uri: str


class Registry:
    """Registers students under one name.

    Args:
        tracker: the run of this step; the model is logged to it.
        registration: the section of the configuration.
    """

    def __init__(self, tracker: Tracker, registration: Registration) -> None:
        self._client = tracker.client
        self._tracker = tracker
        self._registration = registration

    def register(self, submission: Submission, folder: Path) -> Registered:
        """Register a student once, and set the aliases that its decision gives it.

        Args:
            submission: what is registered.
            folder: holds decision.json and model_card.md.

        Raises:
            TemperError: the registry refuses or does not answer.
        """
        try:
            version = self._existing(submission) or self._create(submission, folder)
            return self._set_aliases(version, submission.decision)
        except (MlflowException, OSError) as error:
            msg = f"model registry {shown_uri()}: {told(error)}; check MLFLOW_TRACKING_URI, "
            msg += "then run step registration again"
            raise TemperError(msg) from error

    def _existing(self, submission: Submission) -> ModelVersion | None:
        name = self._registration.model_name
        query = f"name = '{name}' and tags.`temper.submission` = '{submission.digest}'"
        found = self._client.search_model_versions(query)
        return max(found, key=lambda version: int(version.version)) if found else None

    def _create(self, submission: Submission, folder: Path) -> ModelVersion:
        for path, under in (
            (submission.student, "student"),
            (submission.evaluation, "evaluation"),
            (folder / DECISION, "decision"),
            (folder / MODEL_CARD, "decision"),
        ):
            self._tracker.artefact(path, under)
        # MLflow files a logged model under the active experiment, whatever run it is logged to.
        mlflow.set_tracking_uri(tracking_uri())
        mlflow.set_experiment(experiment_id=self._client.get_run(self._tracker.run_id).info.experiment_id)
        try:
            model = _log_model(submission.student, self._tracker.run_id)
        except Exception as error:  # torch.export, or whatever library the artifact store has
            msg = f"the student cannot be exported to, or stored in, {shown_uri()}: {told(error)}; check the "
            msg += "artifact store, then run step registration again"
            raise TemperError(msg) from error
        self._log_metrics(submission.result, model.model_id)
        name = self._registration.model_name
        with contextlib.suppress(MlflowException):  # it is there already, or the next call says why not
            self._client.create_registered_model(name)
        return self._client.create_model_version(
            name,
            source=model.model_uri,
            run_id=self._tracker.run_id,
            tags=_tags(submission),
            model_id=model.model_id,
            description=(folder / MODEL_CARD).read_text(encoding="utf-8")[:_LONGEST_DESCRIPTION],
        )

    def _log_metrics(self, result: EvaluationResult, model_id: str) -> None:
        now = int(self._client.get_run(self._tracker.run_id).info.start_time)
        values = {
            f"{name}{end}": getattr(rate, attribute)
            for name, rate in result.metrics.items()
            for end, attribute in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        metrics = [Metric(name, value, now, 0, model_id=model_id) for name, value in values.items()]
        self._client.log_batch(self._tracker.run_id, metrics=metrics)

    def _set_aliases(self, version: ModelVersion, decision: Decision) -> Registered:
        name, number = self._registration.model_name, str(version.version)
        promoted = decision.passed and self._registration.policy == "auto"
        self._client.set_registered_model_alias(name, CHALLENGER, number)
        if promoted:
            self._client.set_registered_model_alias(name, CHAMPION, number)
        return Registered(
            model_name=name,
            version=int(number),
            alias=CHAMPION if promoted else CHALLENGER,
            run_id=str(version.run_id),
            tracking_uri=shown_uri(),
        )


def _tags(submission: Submission) -> dict[str, str]:
    digests = {f"temper.digest.{name}": digest for name, digest in submission.decision.digests.items()}
    refused = [outcome.reason for outcome in submission.decision.outcomes if not outcome.passed]
    tags = {
        **digests,
        "temper.digest.config": digest_json(submission.config),
        "temper.digest.gate": submission.decision.gate_digest,
        "temper.submission": submission.digest,
        "temper.verdict": submission.decision.verdict,
        "temper.reason": ("; ".join(refused) or "every gate passed")[:_LONGEST_TAG],
    }
    commit = _git_commit()
    return tags | ({"temper.git_commit": commit} if commit else {})


def _git_commit() -> str | None:
    """Return the commit of the checkout that holds this package, marked when it has changes."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own words
    return done.stdout.strip()


def _log_model(student: Path, run_id: str) -> Any:  # noqa: ANN401 - MLflow's ModelInfo is untyped
    """Log the student as an exported graph (pt2), which loads without unpickling."""
    classifier, info = load_bundle(student)
    height, width, channels = info.shape
    example = np.zeros((2, channels, height, width), dtype=np.float32)
    inputs = TensorSpec(np.dtype(np.float32), (-1, channels, height, width))
    outputs = TensorSpec(np.dtype(np.float32), (-1, len(info.class_names)))
    with _quietly():
        return Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pytorch,
            run_id=run_id,
            pytorch_model=classifier,
            serialization_format="pt2",
            input_example=example,
            signature=ModelSignature(Schema([inputs]), Schema([outputs])),
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence what exporting tells about itself; errors still raise."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
