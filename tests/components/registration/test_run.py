"""Registration: versions, aliases, tags, and a model that anybody can load without unpickling."""

import io
import json
import pickletools
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import mlflow
import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.registration.registry import DECISION, Registered
from components.registration.run import REGISTERED
from components.step import execute, step_inputs, step_sections
from components.steps import STEPS
from components.tracking import connect
from pipelines.local import PipelineRun
from training.artefact import open_artefact, source_digest
from training.bundle import load_bundle, read_info
from training.config import PipelineConfig
from training.data.snapshot import load_side
from training.data.views import to_channels_first
from training.errors import TemperError

Register: TypeAlias = Callable[..., Registered]

PASSES = ("gate.minimum_examples=1", "gate.sanity=[]", "gate.rules=[{metric: natural, minimum: 0}]")
REFUSES = ("gate.minimum_examples=1", "gate.sanity=[]", "gate.rules=[{metric: natural, minimum: 1}]")


@pytest.fixture(name="client")
def _client() -> MlflowClient:
    return connect()


@pytest.fixture(name="name")
def _name() -> str:
    return f"model {uuid.uuid4().hex}"


@pytest.fixture(name="register")
def _register(
    tiny: Callable[..., PipelineConfig], tiny_run: PipelineRun, tmp_path: Path, name: str
) -> Register:
    """Give a function that registers the tiny run's student under a name of this test's own."""

    def register(*overrides: str, **instead: Path) -> Registered:
        config = tiny(f"registration.model_name={name}", *overrides)
        sections = {section: getattr(config, section) for section in step_sections("registration")}
        inputs = {made: tiny_run.folder / made for made in step_inputs("registration")} | instead
        out = tmp_path / "registration"
        execute("registration", sections, inputs, out)
        return Registered.model_validate_json((out / REGISTERED).read_bytes())

    return register


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


def test_a_passed_student_becomes_challenger_and_champion_and_a_refused_one_challenger_only(
    client: MlflowClient, register: Register, name: str
) -> None:
    first = register(*PASSES)
    assert (first.model_name, first.version, first.alias) == (name, 1, "champion")
    assert aliases(client, name) == {"challenger": 1, "champion": 1}

    second = register(*REFUSES)
    assert (second.version, second.alias) == (2, "challenger")
    assert aliases(client, name) == {"challenger": 2, "champion": 1}

    # The same submission has one version, whatever was registered since.
    again = register(*REFUSES)
    assert again == second
    assert len(versions(client, name)) == 2


def test_a_first_student_that_is_refused_leaves_no_champion(
    client: MlflowClient, register: Register, name: str, tmp_path: Path
) -> None:
    assert register(*REFUSES).alias == "challenger"
    assert aliases(client, name) == {"challenger": 1}
    decision = json.loads((tmp_path / "registration" / DECISION).read_bytes())
    assert decision["verdict"] == "refused"
    (version,) = versions(client, name)
    assert version.tags["temper.verdict"] == "refused"
    assert "below the minimum 1.0000" in version.tags["temper.reason"]


def test_policy_manual_never_moves_the_champion(client: MlflowClient, register: Register, name: str) -> None:
    registered = register(*PASSES, "registration.policy=manual")
    assert registered.alias == "challenger"
    assert aliases(client, name) == {"challenger": 1}
    (version,) = versions(client, name)
    assert version.tags["temper.verdict"] == "passed"


def test_no_rules_refuse(client: MlflowClient, register: Register, name: str) -> None:
    register("gate.minimum_examples=1", "gate.rules=[]")
    assert aliases(client, name) == {"challenger": 1}


def test_the_digest_of_a_decision_does_not_depend_on_the_version(register: Register, tmp_path: Path) -> None:
    register(*PASSES)
    first = open_artefact(tmp_path / "registration", "decision")
    register(*REFUSES)
    register(*PASSES)
    assert open_artefact(tmp_path / "registration", "decision") == first
    assert first.volatile == [REGISTERED]


def test_an_evaluation_of_another_student_is_refused(
    register: Register, client: MlflowClient, name: str, tiny_run: PipelineRun, tmp_path: Path
) -> None:
    teacher = tiny_run.folder / "clean_teacher"
    with pytest.raises(TemperError, match="is a teacher, but a student is needed here"):
        register(*PASSES, adversarial_student=teacher)
    config = {
        "seed": 0,
        "teacher": {"name": "bundle", "path": str(tiny_run.folder / "adversarial_student")},
    }
    execute("clean_teacher", config, {"dataset": tiny_run.folder / "dataset"}, tmp_path / "teacher")
    with pytest.raises(TemperError):
        register(*PASSES, dataset=tmp_path / "teacher")
    assert client.search_registered_models(f"name = '{name}'") == []


# --- what a version holds -------------------------------------------------------------------------


@pytest.fixture(scope="module", name="version")
def _version(tiny_run: PipelineRun, store: str) -> ModelVersion:
    """Give the version that the tiny run registered."""
    registered = Registered.model_validate_json((tiny_run.folder / "registration" / REGISTERED).read_bytes())
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    return client.get_model_version(registered.model_name, str(registered.version))


def test_tags_hold_every_digest(version: ModelVersion, tiny_run: PipelineRun) -> None:
    for step in step_inputs("registration"):
        assert version.tags[f"temper.digest.{step}"] == tiny_run.manifests[step].digest
    assert version.tags["temper.digest.model"] == read_info(tiny_run.folder / "adversarial_student").digest
    assert version.tags["temper.digest.source"] == source_digest()
    for name in ("temper.digest.config", "temper.digest.gate", "temper.submission"):
        assert len(version.tags[name]) == 64
    assert version.tags["temper.verdict"] == "refused"
    assert "examples evaluated" in version.tags["temper.reason"]
    assert len(version.tags["temper.git_commit"].split()[0]) == 40


def test_metrics_are_on_the_logged_model(
    version: ModelVersion, client: MlflowClient, tiny_run: PipelineRun
) -> None:
    evaluation = json.loads((tiny_run.folder / "robustness_evaluation" / "evaluation.json").read_bytes())
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    metrics = {metric.key: metric.value for metric in model.metrics or []}
    for name in ("natural", "robust"):
        assert metrics[name] == evaluation[name]["value"]
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert "robust_apgd_ce" in metrics
    assert "worst_class_robust" in metrics


def test_bundle_evaluation_and_decision_lie_beside_the_model(
    version: ModelVersion, client: MlflowClient, tiny_run: PipelineRun, tmp_path: Path
) -> None:
    folder = Path(client.download_artifacts(str(version.run_id), "", str(tmp_path)))
    for step in ("adversarial_student", "robustness_evaluation"):
        kind = STEPS[step]
        assert open_artefact(folder / kind, kind) == tiny_run.manifests[step]
    decision = (tiny_run.folder / "registration" / DECISION).read_bytes()
    assert (folder / "decision" / DECISION).read_bytes() == decision


# --- the model, as somebody loads it who has never heard of Temper --------------------------------


@pytest.fixture(name="images")
def _images(tiny_run: PipelineRun) -> torch.Tensor:
    return to_channels_first(load_side(tiny_run.folder / "dataset", "test").images)[:5] / 255


@pytest.fixture(name="wanted")
def _wanted(tiny_run: PipelineRun, images: torch.Tensor) -> torch.Tensor:
    classifier, _ = load_bundle(tiny_run.folder / "adversarial_student")
    with torch.no_grad():
        logits: torch.Tensor = classifier(images)
    return logits


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # of MLflow, about itself
@pytest.mark.parametrize("allowed", ["false", "true"])
def test_the_model_loads_with_plain_pytorch_and_pyfunc(
    version: ModelVersion,
    store: str,
    images: torch.Tensor,
    wanted: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    allowed: str,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", allowed)
    mlflow.set_tracking_uri(store)
    uri = f"models:/{version.name}@challenger"
    model: Any = mlflow.pytorch.load_model(uri)
    function = mlflow.pyfunc.load_model(uri)
    for batch in (1, 2, 5):
        with torch.no_grad():
            logits = model(images[:batch])
        assert torch.allclose(logits, wanted[:batch], atol=1e-5)
        predicted = function.predict(images[:batch].numpy())
        assert np.allclose(predicted, wanted[:batch].numpy(), atol=1e-5)


def test_the_loaded_model_gives_input_gradients(
    version: ModelVersion, store: str, images: torch.Tensor
) -> None:
    mlflow.set_tracking_uri(store)
    model: Any = mlflow.pytorch.load_model(f"models:/{version.name}/{version.version}")
    x = images.clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


SAMPLE = "model/data/sample_inputs/model.pt"


def test_nothing_that_is_logged_is_a_pickle(
    version: ModelVersion, client: MlflowClient, store: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(store)
    client.download_artifacts(str(version.run_id), "", str(tmp_path))
    mlflow.artifacts.download_artifacts(
        artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(tmp_path)
    )
    found = {name: content for path in tmp_path.rglob("*") for name, content in entries(path)}
    assert any(name.endswith("model.pt2!model/models/model.json") for name in found)
    assert any(name.endswith("weights.safetensors") for name in found)
    pickles = [name for name, content in found.items() if is_pickle(name, content)]
    # torch.export keeps its example input as a tensor file, and reads it with the restricted unpickler
    # (weights_only) that builds nothing but tensors; MLflow counts such a record as free of pickles.
    assert all(f"!{SAMPLE}!" in name for name in pickles)
    for name in pickles:
        assert pickled_names(found[name]) <= {
            "torch._utils._rebuild_tensor_v2",
            "torch.FloatStorage",
            "collections.OrderedDict",
        }
    weights = next(content for name, content in found.items() if name.endswith("model_weights_config.json"))
    assert not any(entry["use_pickle"] for entry in json.loads(weights)["config"].values())


def entries(path: Path) -> list[tuple[str, bytes]]:
    return unpacked(path.name, path.read_bytes()) if path.is_file() else []


def unpacked(name: str, content: bytes) -> list[tuple[str, bytes]]:
    """Return a file, or what a zip file holds, at any depth."""
    if not content.startswith(b"PK\x03\x04"):
        return [(name, content)]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [
            found
            for entry in archive.namelist()
            for found in unpacked(f"{name}!{entry}", archive.read(entry))
        ]


def is_pickle(name: str, content: bytes) -> bool:
    if name.endswith((".pkl", ".pickle", ".pth", ".joblib")):
        return True
    try:
        opcodes = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    except ValueError:
        return False
    return opcodes[0] == "PROTO"


def pickled_names(content: bytes) -> set[str]:
    opcodes = list(pickletools.genops(content))
    assert not any(opcode.name == "STACK_GLOBAL" for opcode, _, _ in opcodes)
    return {str(value).replace(" ", ".") for opcode, value, _ in opcodes if opcode.name == "GLOBAL"}


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_registry_that_fails_midway_is_one_line_and_publishes_nothing(
    register: Register, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, client: MlflowClient, name: str
) -> None:
    def refuse(*_: object) -> None:
        message = "the bucket\nis full"
        raise RuntimeError(message)

    with monkeypatch.context() as patched:
        patched.setattr("components.registration.registry._log_model", refuse)
        with pytest.raises(TemperError, match="the bucket; check the artifact store") as caught:
            register(*PASSES)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "registration").exists()
    assert register(*PASSES).version == 1
    assert aliases(client, name) == {"challenger": 1, "champion": 1}


def test_what_is_stored_holds_no_password(
    register: Register, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("components.tracking.tracking_uri", lambda: "sqlite:///x?password=hunter2")
    monkeypatch.setattr("components.tracking.connect", MlflowClient)
    register(*REFUSES)
    assert "hunter2" not in (tmp_path / "registration" / REGISTERED).read_text()
