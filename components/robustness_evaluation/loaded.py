"""A loaded model, whatever it was loaded from, and the digest that tells it from others."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.artefact import digest_json


@dataclass(frozen=True)
class LoadedModel:
    """A model to evaluate.

    Attributes:
        model: in eval mode on the CPU, from pixels in [0, 1], shape (n, c, h, w), to logits (n, classes).
        digest: sha256 in hexadecimal; a bundle's own, else :func:`digest_model`.
        description: what it is and where it came from, in one line without secrets.
        class_names: the classes of the logits in order, where they are known.
        shape: (height, width, channels) of its images, where it is known.
    """

    model: nn.Module
    digest: str
    description: str
    class_names: tuple[str, ...] | None = None
    shape: tuple[int, int, int] | None = None


def digest_model(model: nn.Module, described: Mapping[str, object]) -> str:
    """Return the sha256 over every parameter and buffer in name order and over a JSON description.

    Each tensor counts with its name, dtype, shape and bytes; buffers that are not saved count too.
    """
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    weights = [[name, *_digest_tensor(tensors[name])] for name in sorted(tensors)]
    return digest_json([weights, dict(described)])


def _digest_tensor(tensor: Tensor) -> tuple[str, list[int], str]:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), list(tensor.shape), hashlib.sha256(content.numpy().tobytes()).hexdigest()
