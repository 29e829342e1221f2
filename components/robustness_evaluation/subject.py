"""Loads any model to evaluate: a bundle, an MLflow model, or a user's own torch module."""

from collections.abc import Mapping
from pathlib import Path

from components.dataset.remote import SCHEME, fetch
from components.robustness_evaluation.exported import MLMODEL, load_exported
from components.robustness_evaluation.factory import FORM, load_from_factory
from components.robustness_evaluation.loaded import LoadedModel
from components.robustness_evaluation.tracked import FORMS, SCHEMES, downloaded
from components.tracking import without_secrets
from training.bundle import MODEL, load_bundle
from training.config import Normalisation
from training.errors import ArtefactError, TemperError

_KINDS = f"give a bundle's folder, {FORMS}, an MLflow model's folder, or module:factory"
_BARE = (".safetensors", ".pt", ".pth", ".pkl", ".bin", ".ckpt", ".pt2")


def load_subject_model(
    reference: str,
    *,
    state: Path,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
    arguments: Mapping[str, object] | None = None,
) -> LoadedModel:
    """Load a model to evaluate; nothing is unpickled.

    Args:
        reference: the folder of a bundle or of an MLflow model, here or at s3://bucket/prefix;
            models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID, m-ID or runs:/ID/PATH; or
            module:factory. Beside a model version that has its Temper bundle, the bundle is loaded.
        state: where downloads from s3:// are kept.
        weights: a safetensors file for module:factory.
        normalisation: what a module or graph expects to be done to pixels in [0, 1]; a bundle has its own.
        arguments: what a factory is called with, by name.

    Raises:
        TemperError: a reference that names no model, one that cannot be loaded, or an option that does
            not go with it.
    """
    if FORM.fullmatch(reference):
        return load_from_factory(reference, weights=weights, normalisation=normalisation, arguments=arguments)
    name = without_secrets(reference)
    if weights is not None or arguments is not None:
        option = "--weights" if weights is not None else "--arguments"
        msg = f"{name}: {option} goes with module:factory only; this model is complete: leave it out"
        raise TemperError(msg)
    if reference.startswith("m-") and not Path(reference).exists():
        reference = name = f"models:/{reference}"
    if reference.startswith(SCHEMES):
        with downloaded(reference) as folder:
            return _from_folder(folder, name, normalisation)
    return _from_folder(_local(reference, name, state), name, normalisation)


def _local(reference: str, name: str, state: Path) -> Path:
    if reference.startswith(SCHEME):
        return fetch(reference, state / "downloads")
    path = Path(reference.removeprefix("file://"))
    if not reference or not path.exists():
        msg = f"{name or 'empty reference'}: no such folder and no reference to a model; {_KINDS}"
        raise TemperError(msg)
    return path


def _from_folder(folder: Path, name: str, normalisation: Normalisation | None) -> LoadedModel:
    if (folder / MODEL).is_file():
        return _from_bundle(folder, name, normalisation)
    if (folder / MLMODEL).is_file():
        return load_exported(folder, name, normalisation)
    if folder.is_file() and folder.suffix in _BARE:
        msg = f"{name}: a file of weights alone, or pickled; write the weights as safetensors and give "
        raise ArtefactError(msg + "module:factory --weights FILE.safetensors")
    below = sorted(path.parent.name for path in folder.glob(f"*/{MODEL}")) if folder.is_dir() else []
    if below:
        msg = f"{name}: holds {len(below)} bundles; give one, such as {name.rstrip('/')}/{below[0]}"
        raise ArtefactError(msg)
    msg = (
        f"{name}: neither a bundle ({MODEL} is missing) nor an MLflow model ({MLMODEL} is missing); {_KINDS}"
    )
    raise ArtefactError(msg)


def _from_bundle(folder: Path, name: str, normalisation: Normalisation | None) -> LoadedModel:
    if normalisation is not None:
        msg = f"{name}: a bundle, whose normalisation is part of it; leave out --mean and --std"
        raise TemperError(msg)
    classifier, info = load_bundle(folder)
    return LoadedModel(
        model=classifier,
        digest=info.digest,
        description=f"{name}: bundle of {info.architecture.name}, {info.parameters:,} parameters",
        class_names=info.class_names,
        shape=info.shape,
    )
