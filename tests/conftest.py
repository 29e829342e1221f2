"""Shared by all tests: an environment of their own, and one tiny pipeline run that many of them read."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from components.tracking import connect
from pipelines.cli import main
from pipelines.local import PipelineRun, run_pipeline
from pipelines.params import load_params
from training.config import PipelineConfig

ROOT = Path(__file__).parents[1]

PHASE = {
    "epochs": 1,
    "objective": {"name": "guided", "weight": 0.5},
    "attack_steps": 1,
    "learning_rate": {"start": 0.1, "end": 0.0},
}
NET = {"name": "small_resnet", "width": 4}
TINY = {
    "teacher": {"name": "train", "architecture": NET, "epochs": 3},
    "student": {
        "architecture": NET,
        "phases": [{"name": "first", **PHASE}, {"name": "second", **PHASE}],
        "selection": {"attack_steps": 1},
    },
    "evaluation": {
        "attacks": [{"name": "pgd", "steps": 2, "restarts": 1}, {"name": "apgd_ce", "steps": 3}],
        "examples": 64,
        "sanity": {
            "examples": 24,
            "attack": {"steps": 2, "restarts": 1},
            "square_queries": 5,
            "surrogate_epochs": 1,
            "surrogate_examples": 64,
        },
        "shift": {"severities": [3], "examples": 24, "attack": {"steps": 2}, "spatial": {"grid": 2}},
        "curve": {"multiples": [0, 1], "attack": {"steps": 1, "restarts": 1}, "examples": 32},
    },
    "registration": {"model_name": "tiny"},
}


def _is_ours(name: str) -> bool:
    return name.startswith(("TEMPER_", "MLFLOW_", "AWS_"))


@pytest.fixture(scope="session", name="blank_store")
def _blank_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an empty MLflow store to copy: to create one takes seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    saved = {name: value for name, value in os.environ.items() if _is_ours(name)}
    _set_environment(_common(f"sqlite:///{path}"))
    try:
        connect()
    finally:
        _set_environment(saved)
    return path


@pytest.fixture(scope="session", name="store")
def _store(blank_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name an MLflow store that the tests share."""
    return f"sqlite:///{shutil.copy(blank_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture(autouse=True)
def _environment(store: str, tmp_path: Path) -> Iterator[None]:
    """Give each test a state folder of its own, one thread, the shared store, and nothing of the user's."""
    saved = {name: value for name, value in os.environ.items() if _is_ours(name)}
    _set_environment({"TEMPER_STATE": str(tmp_path / "state"), **_common(store)})
    yield
    _set_environment(saved)


def _common(store: str) -> dict[str, str]:
    return {
        "TEMPER_THREADS": "1",
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }


def _set_environment(values: dict[str, str]) -> None:
    # Not monkeypatch: MLflow itself writes into the environment.
    for name in [name for name in os.environ if _is_ours(name)]:
        del os.environ[name]
    os.environ.update(values)


@pytest.fixture(scope="session", name="tiny_params")
def _tiny_params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name a params file whose run takes seconds."""
    path = tmp_path_factory.mktemp("tiny") / "params.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


@pytest.fixture(scope="session", name="tiny")
def _tiny(tiny_params: Path) -> Callable[..., PipelineConfig]:
    """Give the tiny configuration, with overrides."""
    return lambda *overrides: load_params(tiny_params, overrides)


@pytest.fixture(scope="session", name="tiny_run")
def _tiny_run(
    tiny: Callable[..., PipelineConfig], store: str, tmp_path_factory: pytest.TempPathFactory
) -> PipelineRun:
    """Run the tiny pipeline once; tests read its artefacts and never write there."""
    home = tmp_path_factory.mktemp("tiny-run")
    saved = {name: value for name, value in os.environ.items() if _is_ours(name)}
    _set_environment({"TEMPER_STATE": str(home / "state"), **_common(store)})
    try:
        return run_pipeline(tiny(), home / "run")
    finally:
        _set_environment(saved)


@pytest.fixture(scope="session", name="in_process")
def _in_process() -> Callable[..., None]:
    """Give what stands in for pipelines.checks._run where a process of its own proves nothing."""

    def run(*words: str, cwd: Path, state: Path) -> None:
        program, *arguments = words
        assert program == "temper"
        before = {name: value for name, value in os.environ.items() if _is_ours(name)}
        _set_environment({"TEMPER_STATE": str(state), "TEMPER_THREADS": "1"})
        try:
            with contextlib.chdir(cwd):
                main(arguments, standalone_mode=False)
        finally:
            _set_environment(before)

    return run


@pytest.fixture(name="tiny_copy")
def _tiny_copy(tiny_run: PipelineRun, tmp_path: Path) -> Path:
    """Give a copy of the tiny run's artefacts, to be altered."""
    return Path(shutil.copytree(tiny_run.folder, tmp_path / "copy"))
