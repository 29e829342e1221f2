"""MLflow: one parent run for a pipeline run, a child for each step; an injected run is adopted."""

import contextlib
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from components.environment import state_folder, tracking_uri
from training.errors import TemperError

EXPERIMENT = "temper"
PARENT = "TEMPER_PARENT_RUN_ID"
ADOPTED = "MLFLOW_RUN_ID"

_PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "mlflow.runName"
_LONGEST_PARAM = 6000
_LONGEST_NAME = 250
_PARAMS_AT_A_TIME = 100
_LONGEST_REASON = 200

_SECRETS = ((re.compile(r"://[^/\s]*@"), "://***@"), (re.compile(r"(?i)(password=)[^&\s]*"), r"\1***"))


class Tracker:
    """Writes to one MLflow run."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log the values that are there, at ``step``."""
        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, step) for name, value in values.items() if value is not None]
        self.client.log_batch(self.run_id, metrics=metrics)

    def params(self, values: Mapping[str, object], prefix: str) -> None:
        """Log nested values under dotted names; long ones are cut."""
        flat = _flatten(values, prefix)
        params = [Param(_param_name(name), text[:_LONGEST_PARAM]) for name, text in flat.items()]
        for start in range(0, len(params), _PARAMS_AT_A_TIME):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS_AT_A_TIME])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags on the run."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, text) for name, text in values.items()])

    def artefact(self, path: Path, under: str) -> None:
        """Log a file or a folder.

        Raises:
            TemperError: the artifact store refuses or does not answer.
        """
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        try:
            log(self.run_id, str(path), under)
        except Exception as error:  # each kind of store raises its own library's errors
            msg = f"artifact store of {shown_uri()}: {told(error)}; check its credentials and its room"
            raise TemperError(msg) from error


def _flatten(value: object, prefix: str) -> dict[str, str]:
    if isinstance(value, Mapping):
        parts = [_flatten(item, f"{prefix}.{key}") for key, item in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return _flatten(dict(enumerate(value)), prefix)
    return {prefix: str(value)}


def _param_name(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)[:_LONGEST_NAME]


def without_secrets(text: str) -> str:
    """Return text in which no URI tells a user or a password."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def shown_uri() -> str:
    """Return the tracking URI as it may be shown and stored."""
    return without_secrets(tracking_uri())


def told(error: Exception) -> str:
    """Return an error's first line, cut where it is long, without secrets."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "does not answer" if "Max retries exceeded" in line else without_secrets(line)[:_LONGEST_REASON]


@contextlib.contextmanager
def _explained(*others: type[Exception]) -> Iterator[None]:
    """Turn what the tracking store raises, and ``others``, into a TemperError of one line."""
    failures: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, *others)
    try:
        yield
    except failures as error:
        msg = f"tracking store {shown_uri()}: {told(error)}; start the server, or mend MLFLOW_TRACKING_URI"
        raise TemperError(msg) from error


@contextlib.contextmanager
def _soon() -> Iterator[None]:
    """Ask a server once or twice: one that goes away during a run is waited for, one never there is not."""
    hurried = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = {key: value for key, value in hurried.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Let one process at a time create an SQLite store: two that migrate a new one break each other."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    store = Path(uri.removeprefix("sqlite:///"))
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.with_name(f"{store.name}.lock")):
        yield


def connect() -> MlflowClient:
    """Open the tracking store in force; a default SQLite store is created beside its artefacts.

    Raises:
        TemperError: a store that does not answer; the message names it.
    """
    uri = tracking_uri()
    # Schema migrations of a new SQLite store are told line by line on INFO.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic|sqlalchemy)\..*")
    with _explained(OSError, ImportError), _soon(), _one_at_a_time(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def experiment_id(client: MlflowClient) -> str:
    """Return the id of Temper's experiment, creating it where it is missing."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    local = tracking_uri().startswith("sqlite:///")
    where = (state_folder() / "mlartifacts").as_uri() if local else None
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=where))
    except MlflowException:
        # Another process created it in between.
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return str(found.experiment_id)


@contextlib.contextmanager
def tracked_run(name: str, tags: Mapping[str, str]) -> Iterator[Tracker]:
    """Open a run for the body: the injected one ($MLFLOW_RUN_ID), else a new one.

    A new run is a child of $TEMPER_PARENT_RUN_ID where that is set. It ends FINISHED, or FAILED when the
    body raises.

    Raises:
        TemperError: the store refuses or does not answer.
    """
    client = connect()
    adopted = os.environ.get(ADOPTED)
    with _explained():
        run_id = adopted or _create(client, name)
        tracker = Tracker(client, run_id)
        tracker.tags({"temper.step": name, **tags})
    try:
        with _explained():
            yield tracker
            # An adopted run is ended by whoever injected it.
            if not adopted:
                client.set_terminated(run_id, "FINISHED")
    except BaseException:
        # What went wrong is told, not that a store which is away cannot note it.
        with contextlib.suppress(MlflowException):
            if not adopted:
                client.set_terminated(run_id, "FAILED")
        raise


def _create(client: MlflowClient, name: str) -> str:
    parent = os.environ.get(PARENT)
    if not parent:
        return str(client.create_run(experiment_id(client), tags={_NAME_TAG: name}).info.run_id)
    # Beside its parent: an adopted one may be of another experiment.
    experiment = str(client.get_run(parent).info.experiment_id)
    tags = {_NAME_TAG: name, _PARENT_TAG: parent}
    return str(client.create_run(experiment, tags=tags).info.run_id)


@contextlib.contextmanager
def parent_run(name: str) -> Iterator[Tracker]:
    """Open the parent run of a pipeline run and hand it to the steps started in the body."""
    with tracked_run(name, {"temper.parent": "1"}) as tracker:
        saved = {key: os.environ.pop(key, None) for key in (ADOPTED, PARENT)}
        os.environ[PARENT] = tracker.run_id
        try:
            yield tracker
        finally:
            del os.environ[PARENT]
            os.environ.update({key: value for key, value in saved.items() if value is not None})


@contextlib.contextmanager
def shared_parent(key: str) -> Iterator[None]:
    """Give steps that run in processes of their own, such as DVC's stages, one parent run by its key.

    Nothing changes where a parent or an injected run is already set.
    """
    if os.environ.get(PARENT) or os.environ.get(ADOPTED):
        yield
        return
    with _explained():
        parent = _parent_with_key(connect(), key)
    os.environ[PARENT] = parent
    try:
        yield
    finally:
        del os.environ[PARENT]


def _parent_with_key(client: MlflowClient, key: str) -> str:
    experiment = experiment_id(client)
    found = client.search_runs([experiment], f"tags.`temper.run` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {_NAME_TAG: f"stages {key}", "temper.run": key, "temper.parent": "1"}
    run_id = str(client.create_run(experiment, tags=tags).info.run_id)
    client.set_terminated(run_id)
    return run_id
