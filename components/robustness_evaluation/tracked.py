"""Downloads what an MLflow reference names: a model version, a logged model, or what a run holds."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components.environment import tracking_uri
from components.tracking import connect, shown_uri, told
from training.bundle import MODEL, read_info
from training.errors import ArtefactError, TemperError

SCHEMES = ("models:", "runs:")
FORMS = "models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or runs:/ID/PATH"

# What registration puts beside each version: components/registration.
_BUNDLE = "student"
_DIGEST_TAG = "temper.digest.model"

_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>\d+)")
_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_OTHER = re.compile(r"models:/m-[0-9a-f]+|runs:/[^/]+/.+")
_PROGRESS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


@contextlib.contextmanager
def downloaded(reference: str) -> Iterator[Path]:
    """Give a temporary folder with the model: the Temper bundle beside a version where it has one.

    Raises:
        ArtefactError: a bundle that is not the one that its version names.
        TemperError: a reference of another form, or one that the tracking store does not hold; a store
            that does not answer.
    """
    if not any(form.fullmatch(reference) for form in (_VERSION, _ALIAS, _OTHER)):
        msg = f"{reference}: not a reference to one model; give {FORMS}"
        raise TemperError(msg)
    client = connect()
    with tempfile.TemporaryDirectory(prefix="temper-model-") as scratch:
        try:
            folder = _download(client, reference, Path(scratch))
        except TemperError:
            raise
        except Exception as error:  # each kind of artifact store raises its own library's errors
            msg = f"{reference}: {told(error)} (tracking store {shown_uri()}); correct the reference, or set "
            raise TemperError(msg + "MLFLOW_TRACKING_URI") from error
        yield folder


def _download(client: MlflowClient, reference: str, scratch: Path) -> Path:
    version = _version(client, reference)
    if version is None:
        return _fetch(reference, scratch / "model")
    bundle = _bundle_beside(client, version, scratch)
    return bundle or _fetch(f"models:/{version.name}/{version.version}", scratch / "model")


def _version(client: MlflowClient, reference: str) -> ModelVersion | None:
    if found := _VERSION.fullmatch(reference):
        return client.get_model_version(found["name"], found["version"])
    if found := _ALIAS.fullmatch(reference):
        return client.get_model_version_by_alias(found["name"], found["alias"])
    return None


def _bundle_beside(client: MlflowClient, version: ModelVersion, scratch: Path) -> Path | None:
    digest = version.tags.get(_DIGEST_TAG)
    if not digest or not version.run_id:
        return None
    try:
        names = [item.path for item in client.list_artifacts(version.run_id, _BUNDLE)]
    except MlflowException:  # the run was deleted for good; the graph is still there
        return None
    if f"{_BUNDLE}/{MODEL}" not in names:
        return None
    folder = _fetch(f"runs:/{version.run_id}/{_BUNDLE}", scratch / "bundle")
    if read_info(folder).digest != digest:
        msg = f"models:/{version.name}/{version.version}: the bundle in its run is not the one that the "
        msg += f"version was registered with (tag {_DIGEST_TAG}); register the student again"
        raise ArtefactError(msg)
    return folder


def _fetch(uri: str, into: Path) -> Path:
    with _without_progress_bar():
        where = tracking_uri()
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(into), tracking_uri=where, registry_uri=where
            )
        )


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    before = os.environ.get(_PROGRESS)
    os.environ[_PROGRESS] = "false"
    try:
        yield
    finally:
        os.environ.pop(_PROGRESS)
        if before is not None:
            os.environ[_PROGRESS] = before
