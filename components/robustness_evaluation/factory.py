"""A user's own torch module, named ``module:factory``, with weights from a safetensors file."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.parameter import is_lazy

from components.robustness_evaluation.loaded import LoadedModel, digest_model
from training.config import Normalisation
from training.errors import TrainingError
from training.models.classifier import Classifier

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


def load_from_factory(
    reference: str,
    *,
    weights: Path | None,
    normalisation: Normalisation | None,
    arguments: Mapping[str, object] | None,
) -> LoadedModel:
    """Import and build a user's model.

    Args:
        reference: ``module:factory``, a function or class that returns a torch module, or such a module.
        weights: a safetensors file with the module's own tensor names.
        normalisation: what the module expects to be done to pixels in [0, 1]; None gives it the pixels.
        arguments: JSON values that the factory is called with, by name.

    Raises:
        TrainingError: what cannot be imported or called, or is no torch module; weights that cannot be
            read, do not fit or are not finite.
    """
    found = _import(reference)
    network = _build(found, reference, arguments)
    if weights is not None:
        _load_weights(network, weights, reference)
    _check_tensors(network, reference, weights)
    model = network if normalisation is None else Classifier(network, normalisation)
    described = {
        "factory": reference,
        "arguments": dict(arguments or {}),
        "normalisation": None if normalisation is None else normalisation.model_dump(mode="json"),
    }
    model = model.cpu().eval()
    with_weights = "" if weights is None else f" with weights {weights.name}"
    return LoadedModel(model, digest_model(model, described), f"{reference}{with_weights}")


def _import(reference: str) -> object:
    module_name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        msg = f"{reference}: {error}; install the package or put its folder on PYTHONPATH"
        raise TrainingError(msg) from error
    except (Exception, SystemExit) as error:
        msg = f"{reference}: importing {module_name} raised {_told(error)}; mend the module"
        raise TrainingError(msg) from error
    if not hasattr(module, attribute):
        msg = f"{reference}: module {module_name} has no {attribute}; correct the name after the colon"
        raise TrainingError(msg)
    return getattr(module, attribute)


def _build(found: object, reference: str, arguments: Mapping[str, object] | None) -> nn.Module:
    if isinstance(found, nn.Module):
        if arguments is not None:
            msg = f"{reference}: is a module already and is not called; leave out --arguments"
            raise TrainingError(msg)
        return found
    if not callable(found):
        msg = f"{reference}: is a {type(found).__name__}; name a torch module, or a function or class that "
        raise TrainingError(msg + "returns one")
    try:
        # Weights drawn at random are the same at each call, and so is their digest.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network: object = found(**(arguments or {}))
    except (Exception, SystemExit) as error:
        called = f"with {', '.join(arguments)}" if arguments else "without arguments"
        msg = f"{reference}: called {called}, it raised {_told(error)}; "
        raise TrainingError(msg + "give what it needs by --arguments, a JSON object") from error
    if not isinstance(network, nn.Module):
        msg = f"{reference}: returned a {type(network).__name__}, but a torch module is needed"
        raise TrainingError(msg)
    return network


def _load_weights(network: nn.Module, path: Path, reference: str) -> None:
    if not path.is_file():
        msg = f"{path}: no such file; correct --weights"
        raise TrainingError(msg)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        pickled = "pickled, and nothing is ever unpickled here" if path.suffix in _PICKLED else str(error)
        msg = f"{path}: not a readable safetensors file ({pickled}); "
        msg += "write it with safetensors.torch.save_file(model.state_dict(), path)"
        raise TrainingError(msg) from error
    except RuntimeError as error:
        header, *details = str(error).splitlines() or [""]
        msg = f"{path}: does not fit {reference}: {(details or [header])[0].strip()}; "
        raise TrainingError(
            msg + "give this model's weights, or the --arguments they were trained with"
        ) from error


def _check_tensors(network: nn.Module, reference: str, weights: Path | None) -> None:
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            msg = f"{reference}: tensor {name} has no shape yet (a lazy layer); "
            raise TrainingError(msg + "pass one batch through the module inside the factory")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            msg = f"{weights or reference}: tensor {name} holds NaN or infinity; use an intact copy"
            raise TrainingError(msg)


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0]}"
