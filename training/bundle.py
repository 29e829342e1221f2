"""A model on disk: ``weights.safetensors`` and ``model.json``; nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.artefact import digest_file, digest_json, write_json
from training.config import Architecture, Normalisation, Section
from training.errors import ArtefactError
from training.models.classifier import Classifier, build_classifier

WEIGHTS = "weights.safetensors"
MODEL = "model.json"


class ModelInfo(Section):
    """What a bundle's model is; ``shape`` is (height, width, channels) of pixels in [0, 1]."""

    schema_version: Literal[1] = 1
    architecture: Architecture = Field(discriminator="name")
    normalisation: Normalisation | None
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    parameters: int
    weights_sha256: str

    @property
    def digest(self) -> str:
        """Sha256 over this description, the weights' digest included."""
        return digest_json(self.model_dump(mode="json"))


def save_bundle(
    folder: Path,
    classifier: Classifier,
    *,
    architecture: Architecture,
    normalisation: Normalisation | None,
    class_names: tuple[str, ...],
    shape: tuple[int, int, int],
) -> ModelInfo:
    """Write a bundle into an existing folder."""
    state = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in classifier.network.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)
    info = ModelInfo(
        architecture=architecture,
        normalisation=normalisation,
        class_names=class_names,
        shape=shape,
        parameters=sum(parameter.numel() for parameter in classifier.parameters()),
        weights_sha256=digest_file(folder / WEIGHTS),
    )
    write_json(folder / MODEL, {**info.model_dump(mode="json"), "digest": info.digest})
    return info


def read_info(folder: Path) -> ModelInfo:
    """Read a bundle's description and check it against its digest and its weights' digest.

    Raises:
        ArtefactError: a file is missing, unreadable or altered.
    """
    path = folder / MODEL
    for needed in (path, folder / WEIGHTS):
        if not needed.is_file():
            msg = f"{needed}: missing; a bundle is a folder with {MODEL} and {WEIGHTS}"
            raise ArtefactError(msg)
    try:
        described = json.loads(path.read_bytes())
        claimed = described.pop("digest", None)
        info = ModelInfo.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{path}: not a bundle's description ({where or 'the file'}: {first['msg']})"
        raise ArtefactError(msg) from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        msg = f"{path}: not a JSON object; use an intact copy of the bundle"
        raise ArtefactError(msg) from error
    if info.digest != claimed:
        msg = f"{path}: altered since the bundle was made (its digest differs); use an intact copy"
        raise ArtefactError(msg)
    if digest_file(folder / WEIGHTS) != info.weights_sha256:
        msg = (
            f"{folder / WEIGHTS}: altered since the bundle was made (its sha256 differs); use an intact copy"
        )
        raise ArtefactError(msg)
    return info


def load_bundle(folder: Path) -> tuple[Classifier, ModelInfo]:
    """Load a bundle as a classifier in eval mode on the CPU.

    Raises:
        ArtefactError: as :func:`read_info`; also weights that do not fit the architecture.
    """
    info = read_info(folder)
    classifier = classifier_from_weights(
        folder / WEIGHTS,
        architecture=info.architecture,
        normalisation=info.normalisation,
        shape=info.shape,
        classes=len(info.class_names),
    )
    return classifier, info


def classifier_from_weights(
    path: Path,
    *,
    architecture: Architecture,
    normalisation: Normalisation | None,
    shape: tuple[int, int, int],
    classes: int,
) -> Classifier:
    """Build a classifier, in eval mode, from a safetensors file with the network's own tensor names.

    Raises:
        ArtefactError: an unreadable file, names or shapes that do not fit, weights that are not finite.
    """
    classifier = build_classifier(
        architecture, shape=shape, classes=classes, normalisation=normalisation, seed=0
    )
    try:
        state: dict[str, Any] = load_file(path)
        classifier.network.load_state_dict(state)
    except (SafetensorError, OSError) as error:
        msg = f"{path}: not a readable safetensors file ({error})"
        raise ArtefactError(msg) from error
    except RuntimeError as error:
        header, *details = str(error).splitlines() or [""]
        msg = f"{path}: does not fit architecture {architecture.name}: {(details or [header])[0].strip()}"
        raise ArtefactError(msg) from error
    # What was loaded, not what was read: a float64 may overflow on its way into a float32.
    for name, tensor in classifier.network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            msg = f"{path}: tensor {name} holds NaN or infinity; use an intact copy"
            raise ArtefactError(msg)
    return classifier.eval()
