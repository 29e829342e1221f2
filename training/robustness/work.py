"""Finished work of an evaluation, kept so that a killed one goes on and gives the same result."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from training.artefact import digest_json
from training.checkpoint import Checkpoint
from training.config import Section

_Found = TypeVar("_Found", bound=Section)


class Work:
    """Units of work by name, each computed once.

    Args:
        folder: where finished units are kept; None keeps nothing.
        key: digest of everything that shapes the result.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self._folder = folder
        self._key = key

    def unit(
        self, name: str, compute: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the unit's tensors and JSON values, computed now or kept from before.

        Raises:
            ArtefactError: a kept unit that cannot be read.
        """
        if self._folder is None:
            return compute()
        kept = Checkpoint(self._folder / f"{name}.safetensors", digest_json([self._key, name]))
        found = kept.load()
        if found is None:
            found = compute()
            kept.save(*found)
        return found

    def section(self, name: str, kind: type[_Found], compute: Callable[[], _Found]) -> _Found:
        """Return a result of the given kind, computed now or kept from before."""
        _, values = self.unit(name, lambda: ({}, {"value": compute().model_dump(mode="json")}))
        return kind.model_validate(without_computed(values["value"]))

    def clear(self) -> None:
        """Remove what was kept, once the artefact is published."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def without_computed(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Drop a rate's computed fields from JSON: they follow from count and n."""
    if isinstance(value, dict):
        is_rate = {"count", "n", "value"} <= value.keys()
        kept = {"count": value["count"], "n": value["n"]} if is_rate else value
        return {key: without_computed(item) for key, item in kept.items()}
    return [without_computed(item) for item in value] if isinstance(value, list) else value
