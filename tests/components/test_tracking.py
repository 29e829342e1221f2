"""Tracking, against a real SQLite store."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from components.step import execute
from components.tracking import (
    connect,
    experiment_id,
    parent_run,
    shared_parent,
    shown_uri,
    tracked_run,
    without_secrets,
)
from pipelines.local import PipelineRun
from training.artefact import Manifest
from training.config import PipelineConfig
from training.errors import TemperError


@pytest.fixture(name="client")
def _client() -> MlflowClient:
    return connect()


@pytest.fixture(name="snapshot")
def _snapshot(tiny: Callable[..., PipelineConfig], tmp_path: Path) -> Callable[[], Manifest]:
    return lambda: execute("dataset", {"data": tiny().data}, {}, tmp_path / "dataset")


def children(client: MlflowClient, parent: str) -> list[Run]:
    experiment = client.get_run(parent).info.experiment_id
    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    return list(client.search_runs([experiment], query))


def test_a_step_is_a_child_under_its_parent(client: MlflowClient, snapshot: Callable[[], Manifest]) -> None:
    with parent_run("pipeline") as parent:
        assert os.environ["TEMPER_PARENT_RUN_ID"] == parent.run_id
        manifest = snapshot()
    assert "TEMPER_PARENT_RUN_ID" not in os.environ
    (child,) = children(client, parent.run_id)
    assert child.info.status == client.get_run(parent.run_id).info.status == "FINISHED"
    assert child.data.tags["temper.step"] == "dataset"
    assert child.data.tags["temper.digest"] == manifest.digest
    assert child.data.tags["temper.source"] == manifest.source
    assert child.data.params["dataset.data.source.name"] == "digits"
    assert child.data.metrics["classes"] == 10.0
    assert child.data.metrics["seconds"] > 0


def test_a_whole_pipeline_run_has_one_parent_and_six_children(
    client: MlflowClient, tiny_run: PipelineRun
) -> None:
    tags = f"tags.`temper.digest` = '{tiny_run.manifests['registration'].digest}'"
    *_, run = client.search_runs([experiment_id(client)], tags)  # the oldest is last
    steps = [
        child.data.tags["temper.step"] for child in children(client, run.data.tags["mlflow.parentRunId"])
    ]
    assert sorted(steps) == sorted(tiny_run.manifests)


def test_an_injected_run_is_used_and_not_ended(
    client: MlflowClient, snapshot: Callable[[], Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    injected = client.create_run(experiment_id(client)).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    manifest = snapshot()
    run = client.get_run(injected)
    assert run.info.status == "RUNNING"
    assert run.data.tags["temper.digest"] == manifest.digest
    assert children(client, injected) == []


def test_an_injected_run_is_not_ended_by_a_failure_either(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    injected = client.create_run(experiment_id(client)).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    with pytest.raises(ZeroDivisionError), tracked_run("step", {}):
        raise ZeroDivisionError
    assert client.get_run(injected).info.status == "RUNNING"


def test_a_pipeline_run_under_an_injected_run_makes_it_the_parent(
    client: MlflowClient, snapshot: Callable[[], Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = client.create_experiment(f"platform {os.urandom(4).hex()}")
    injected = client.create_run(elsewhere).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    with parent_run("pipeline") as parent:
        assert parent.run_id == injected
        snapshot()
    assert os.environ["MLFLOW_RUN_ID"] == injected
    (child,) = children(client, injected)
    assert child.info.experiment_id == elsewhere
    assert client.get_run(injected).info.status == "RUNNING"


def test_a_failed_step_is_marked_failed_and_so_is_its_parent(
    client: MlflowClient, tmp_path: Path, tiny: Callable[..., PipelineConfig]
) -> None:
    data = tiny("data.source={name: npz, path: /no/such.npz}").data
    with (
        pytest.raises(TemperError, match=r"/no/such\.npz: no such file"),
        parent_run("pipeline") as parent,
    ):
        execute("dataset", {"data": data}, {}, tmp_path / "out")
    (child,) = children(client, parent.run_id)
    assert child.info.status == client.get_run(parent.run_id).info.status == "FAILED"
    assert "temper.digest" not in child.data.tags


def test_an_interrupted_step_does_not_stay_running(client: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), tracked_run("step", {}) as tracker:
        raise KeyboardInterrupt
    assert client.get_run(tracker.run_id).info.status == "FAILED"


def test_params_may_be_nested_long_many_and_oddly_named(client: MlflowClient) -> None:
    values: Mapping[str, object] = {
        "list": [{"name": "one", "deep": {"x": 1}}, {"name": "two"}],
        "plain": [1, 2],
        "long": "a" * 9000,
        "many": {str(number): number for number in range(250)},
        "odd (name)!": {"ü" * 300: 0},
        "empty": {},
        "none": None,
    }
    with tracked_run("step", {}) as tracker:
        tracker.params(values, prefix="step")
    params = client.get_run(tracker.run_id).data.params
    assert params["step.list.0.deep.x"] == "1"
    assert params["step.list.1.name"] == "two"
    assert params["step.plain"] == "[1, 2]"
    assert len(params["step.long"]) == 6000
    assert params["step.many.249"] == "249"
    assert params["step.none"] == "None"
    assert any(name.startswith("step.odd _name__.ü") for name in params)


def test_metrics_that_are_missing_are_left_out(client: MlflowClient) -> None:
    with tracked_run("step", {}) as tracker:
        tracker.metrics({"there": 1.0, "missing": None}, step=3)
        tracker.metrics({})
    assert client.get_run(tracker.run_id).data.metrics == {"there": 1.0}


def test_steps_in_processes_of_their_own_share_a_parent_by_key(client: MlflowClient) -> None:
    parents, key = [], os.urandom(6).hex()
    for name in (key, key, f"{key}2"):
        with shared_parent(name):
            parents.append(os.environ["TEMPER_PARENT_RUN_ID"])
    assert "TEMPER_PARENT_RUN_ID" not in os.environ
    assert parents[0] == parents[1] != parents[2]
    assert client.get_run(parents[0]).info.status == "FINISHED"


@pytest.mark.parametrize("name", ["TEMPER_PARENT_RUN_ID", "MLFLOW_RUN_ID"])
def test_a_parent_that_is_set_already_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "of somebody")
    with shared_parent("key"):
        assert {key for key in ("TEMPER_PARENT_RUN_ID", "MLFLOW_RUN_ID") if key in os.environ} == {name}


# --- stores that are not there --------------------------------------------------------------------

DEAD = "http://me:hunter2@127.0.0.1:9"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (DEAD, "http://***@127.0.0.1:9: does not answer; start the server"),
        ("nonsense", "tracking store nonsense: "),
        ("ftp://host/x", "tracking store ftp://host/x: "),
        ("sqlite:////proc/none/mlflow.db", "/proc/none"),
        ("postgresql+nodriver://me:hunter2@127.0.0.1:9/db?password=hunter2", "postgresql+nodriver://***@"),
    ],
)
def test_a_store_that_is_not_there_is_one_line_without_secrets(
    monkeypatch: pytest.MonkeyPatch, uri: str, words: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for attempt in (
        connect,
        lambda: tracked_run("step", {}).__enter__(),
        lambda: parent_run("p").__enter__(),
    ):
        with pytest.raises(TemperError) as caught:
            attempt()
        message = str(caught.value)
        assert words in message
        assert "\n" not in message
        assert "hunter2" not in message
    with pytest.raises(TemperError), shared_parent("key"):
        pytest.fail("no parent can be")


def test_a_file_that_is_no_database_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, and longer than a header of sixteen bytes")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(TemperError, match="file is not a database") as caught:
        connect()
    assert "\n" not in str(caught.value)


def test_a_step_on_a_dead_store_publishes_nothing(
    monkeypatch: pytest.MonkeyPatch, snapshot: Callable[[], Manifest], tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    with pytest.raises(TemperError, match="does not answer"):
        snapshot()
    assert not (tmp_path / "dataset").exists()


def test_a_parent_that_is_unknown_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_PARENT_RUN_ID", "0" * 32)
    with pytest.raises(TemperError, match="not found"), tracked_run("step", {}):
        pytest.fail("no run can be")


def test_a_store_that_refuses_in_the_middle_is_one_line(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run(experiment_id(client)).info.run_id)
    with tracked_run("step", {}) as tracker:
        tracker.params({"seed": 0}, prefix="step")
    with pytest.raises(TemperError, match="tracking store sqlite"), tracked_run("step", {}) as tracker:
        tracker.params({"seed": 1}, prefix="step")


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p@ss@host:1/x")
    assert shown_uri() == "https://***@host:1/x"
    assert without_secrets("db?user=a&Password=b&c=d") == "db?user=a&Password=***&c=d"
    assert without_secrets("sqlite:////a@b/c") == "sqlite:////a@b/c"


# --- the default store ----------------------------------------------------------------------------


def test_the_default_store_and_its_artefacts_lie_in_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "file").write_text("content")
    with tracked_run("step", {}) as tracker:
        tracker.artefact(tmp_path / "file", "under")
    folder = tmp_path / "state" / "mlartifacts" / tracker.run_id / "artifacts" / "under"
    assert (folder / "file").read_text() == "content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "state"]
