"""Checkpoints of training: one safetensors file, replaced atomically, keyed by what shapes the run."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.artefact import canonical_json, write_atomic
from training.errors import ArtefactError


class Checkpoint:
    """Where one run keeps its state.

    Args:
        path: the file.
        key: digest of inputs, configuration, source and thread count; state of another key is refused.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key

    def save(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Write tensors (by name) and progress (JSON values) whole or not at all."""
        text = canonical_json({"key": self._key, "progress": progress})
        # Copies: safetensors refuses tensors that share memory, as tied weights do.
        plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        write_atomic(self.path, save(plain, metadata={"state": text}))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what :meth:`save` wrote, or None where there is no checkpoint.

        Raises:
            ArtefactError: an unreadable file or one of another run.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as stream:
                state = json.loads((stream.metadata() or {}).get("state", "{}"))
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, ValueError) as error:
            msg = f"{self.path}: unreadable checkpoint ({error}); remove it to start this step again"
            raise ArtefactError(msg) from error
        if not isinstance(state, dict) or state.get("key") != self._key:
            msg = f"{self.path}: belongs to another run (inputs, configuration, source or threads differ); "
            msg += "remove it to start this step again"
            raise ArtefactError(msg)
        return tensors, state["progress"]

    def clear(self) -> None:
        """Remove the file, once the artefact is published."""
        self.path.unlink(missing_ok=True)
