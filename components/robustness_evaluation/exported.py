"""A model that MLflow logged as an exported graph (pt2), loaded without running code that came with it."""

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
from mlflow.models import Model
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn

from components.robustness_evaluation.loaded import LoadedModel, digest_model
from components.tracking import told
from training.config import Normalisation
from training.errors import ArtefactError
from training.models.classifier import Classifier

MLMODEL = "MLmodel"

_GRAPH = "model.pt2"
_PICKLES = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
_CHANNELS = (1, 3)
_IMAGE_DIMENSIONS = 4
_LOG_AGAIN = "log it again with mlflow.pytorch.log_model(..., serialization_format='pt2')"


class ExportedGraph(nn.Module):
    """An exported graph that may be asked for eval mode: it has one mode only, that of its export."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.training = False

    def train(self, mode: bool = True) -> "ExportedGraph":  # noqa: ARG002, FBT001, FBT002 - torch's own signature
        """Change nothing; the graph itself would raise."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.graph(x)
        return logits


def load_exported(folder: Path, name: str, normalisation: Normalisation | None) -> LoadedModel:
    """Load the exported graph of an MLflow model's folder.

    Args:
        folder: holds MLmodel; it is only read.
        name: what messages and the description call the model.
        normalisation: what the graph expects to be done to pixels in [0, 1]; None gives it the pixels.

    Raises:
        ArtefactError: no PyTorch flavour, a pickled model, a graph that cannot be read, or one whose
            signature is not float32 (any batch, channels, height, width).
    """
    described = _describe(folder, name)
    shape = _check_signature(described.signature.inputs if described.signature else None, name)
    graph = ExportedGraph(_load_graph(folder, described, name))
    told_of = {"graph": _graph_digest(graph.graph)}
    if normalisation is not None:
        told_of["normalisation"] = normalisation.model_dump_json()
    model = graph if normalisation is None else Classifier(graph, normalisation)
    model.training = False
    return LoadedModel(
        model=model,
        digest=digest_model(model, told_of),
        description=f"{name}: exported graph logged with MLflow",
        shape=shape,
    )


def _describe(folder: Path, name: str) -> Model:
    try:
        described = Model.load(str(folder))
    except Exception as error:
        msg = f"{name}: its {MLMODEL} cannot be read ({told(error)}); {_LOG_AGAIN}"
        raise ArtefactError(msg) from error
    pytorch = described.flavors.get("pytorch")
    if pytorch is None:
        flavours = ", ".join(sorted(described.flavors)) or "none"
        msg = f"{name}: an MLflow model of flavour {flavours}; attacks need a PyTorch model: {_LOG_AGAIN}"
        raise ArtefactError(msg)
    if not (folder / str(pytorch.get("model_data")) / _GRAPH).is_file():
        msg = f"{name}: its PyTorch model is pickled, and nothing is ever unpickled here; {_LOG_AGAIN}, "
        msg += "or give a bundle or module:factory with --weights"
        raise ArtefactError(msg)
    return described


def _check_signature(inputs: Schema | None, name: str) -> tuple[int, int, int] | None:
    """Return (height, width, channels), or None where the signature leaves them open."""
    if inputs is None:
        return None
    spec = inputs.inputs[0] if len(inputs.inputs) == 1 else None
    if not isinstance(spec, TensorSpec):
        msg = f"{name}: its signature is not one tensor; log a model from images alone to logits"
        raise ArtefactError(msg)
    if spec.type != np.dtype(np.float32) or len(spec.shape) != _IMAGE_DIMENSIONS:
        msg = f"{name}: takes {spec.type} of shape {tuple(spec.shape)}; log a model that takes float32 "
        raise ArtefactError(msg + "(-1, channels, height, width) with pixels in [0, 1]")
    batch, channels, height, width = (int(size) for size in spec.shape)
    if batch != -1:
        msg = f"{name}: takes batches of {batch} only; log it with an input_example of 2 images or more and "
        raise ArtefactError(msg + "a signature that begins with -1")
    if channels not in (*_CHANNELS, -1) and width in _CHANNELS:
        msg = f"{name}: takes channels last, {tuple(spec.shape)}; log a model that takes "
        raise ArtefactError(msg + "(-1, channels, height, width)")
    return None if -1 in (channels, height, width) else (height, width, channels)


def _load_graph(folder: Path, described: Model, name: str) -> nn.Module:
    with tempfile.TemporaryDirectory(prefix="temper-model-") as scratch, _guarded():
        copy = Path(shutil.copytree(folder, Path(scratch) / "model"))
        # MLflow would put the model's own code first on the import path; a graph needs none.
        code = described.flavors["pytorch"].get("code")
        if code and (copy / code).resolve().is_relative_to(copy.resolve()):
            shutil.rmtree(copy / code, ignore_errors=True)
        try:
            graph: nn.Module = mlflow.pytorch.load_model(str(copy))
        except Exception as error:
            msg = f"{name}: its exported graph cannot be loaded ({told(error)}); {_LOG_AGAIN}"
            raise ArtefactError(msg) from error
    return graph


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Forbid pickles whatever the environment says, keep the import path, and silence notes on versions."""
    path, allowed = list(sys.path), os.environ.get(_PICKLES)
    os.environ[_PICKLES] = "false"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        sys.path[:] = path
        os.environ.pop(_PICKLES)
        if allowed is not None:
            os.environ[_PICKLES] = allowed


def _graph_digest(graph: Any) -> str:  # noqa: ANN401 - torch.fx.GraphModule; naming it imports torch's compiler
    return hashlib.sha256(str(graph.code).encode()).hexdigest()
