"""What every step has in common: its interface is its ``run`` function's signature.

A keyword named like a section of the configuration receives that section, validated; one named like a
step receives that step's artefact; ``out`` is the artefact to publish and ``context`` the surroundings.
The kfp components, dvc.yaml and ``temper run`` all end in :func:`execute`.
"""

import importlib
import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from components.environment import Compute, configure_compute, state_folder
from components.steps import STEPS
from components.tracking import Tracker, tracked_run
from training.artefact import (
    MANIFEST,
    Manifest,
    digest_json,
    open_artefact,
    read_manifest,
    source_digest,
)
from training.checkpoint import Checkpoint
from training.config import PipelineConfig
from training.errors import TemperError
from training.robustness.work import Work


@dataclass(frozen=True)
class StepContext:
    """The surroundings of a step: where it computes, what it tracks to, where state is kept."""

    compute: Compute
    tracker: Tracker
    state: Path

    def checkpoint(
        self, step: str, inputs: Mapping[str, Manifest], config: Mapping[str, object]
    ) -> Checkpoint:
        """Return the checkpoint of this work, keyed by everything that shapes its result."""
        key = self._key(inputs, config)
        return Checkpoint(self._kept(step, key).with_suffix(".safetensors"), key)

    def work(self, step: str, inputs: Mapping[str, Manifest], config: Mapping[str, object]) -> Work:
        """Return where finished units of this work are kept, keyed as :meth:`checkpoint`."""
        key = self._key(inputs, config)
        return Work(self._kept(step, key), key)

    def _key(self, inputs: Mapping[str, Manifest], config: Mapping[str, object]) -> str:
        digests = {name: manifest.digest for name, manifest in inputs.items()}
        return digest_json([digests, config, source_digest(), self.compute.threads])

    def _kept(self, step: str, key: str) -> Path:
        return self.state / "checkpoints" / f"{step}-{key[:16]}"


class StepFunction(Protocol):
    """The ``run`` function of a step."""

    def __call__(self, **arguments: Any) -> None:  # noqa: ANN401 - each step names its own
        """Make the artefact ``out``."""


def step_function(step: str) -> StepFunction:
    """Return the ``run`` function of a step.

    Raises:
        TemperError: no such step.
    """
    if step not in STEPS:
        msg = f"{step}: no such step; the steps are {', '.join(STEPS)}"
        raise TemperError(msg)
    function: StepFunction = importlib.import_module(f"components.{step}.run").run
    return function


@cache
def step_sections(step: str) -> tuple[str, ...]:
    """Names of the configuration's sections that a step uses, in its signature's order."""
    names = inspect.signature(step_function(step)).parameters
    return tuple(name for name in names if name in PipelineConfig.model_fields)


@cache
def step_inputs(step: str) -> tuple[str, ...]:
    """Names of the steps whose artefacts a step reads, in its signature's order."""
    names = inspect.signature(step_function(step)).parameters
    return tuple(name for name in names if name in STEPS and name not in PipelineConfig.model_fields)


def digested(sections: Mapping[str, object]) -> dict[str, object]:
    """Return sections as JSON values without what names a place: two copies of one file are the same data."""
    return {name: _placeless(_plain(section)) for name, section in sections.items()}


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _placeless(value: object) -> object:
    if isinstance(value, dict):
        # A user's factory may take a "path" too: its arguments shape the model, whatever their names.
        kept = {key: item for key, item in value.items() if key != "path"}
        return {key: item if key == "arguments" else _placeless(item) for key, item in kept.items()}
    return [_placeless(item) for item in value] if isinstance(value, list) else value


def validated_sections(step: str, params: Mapping[str, object]) -> dict[str, Any]:
    """Validate the sections that a step uses, such as kfp hands over.

    Raises:
        TemperError: a section is missing or not valid.
    """
    names = step_sections(step)
    for name in names:
        if name not in params:
            msg = f"step {step}: section {name} is missing from its parameters"
            raise TemperError(msg)
    try:
        config = PipelineConfig.model_validate({name: params[name] for name in names})
    except ValidationError as error:
        first = error.errors()[0]
        msg = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise TemperError(msg) from error
    return {name: getattr(config, name) for name in names}


def execute(step: str, params: Mapping[str, object], inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Run one step, tracked, and return the manifest of what it published.

    Args:
        step: its name.
        params: at least the sections that it uses, by name; validated or plain.
        inputs: the artefacts that it reads, by the name of the step that made them.
        out: where its artefact appears, whole or not at all.

    Raises:
        TemperError: a user's mistake or an unusable input.
    """
    sections = validated_sections(step, params)
    check_replaceable(out)
    compute = configure_compute()
    with tracked_run(step, {}) as tracker:
        for name, section in sections.items():
            tracker.params({name: _plain(section)}, prefix=step)
        context = StepContext(compute, tracker, state_folder())
        started = time.monotonic()
        step_function(step)(**sections, **inputs, out=out, context=context)
        manifest = read_manifest(out, STEPS[step])
        tracker.metrics({"seconds": time.monotonic() - started})
        tracker.tags({"temper.digest": manifest.digest, "temper.source": manifest.source})
    return manifest


def check_replaceable(out: Path) -> None:
    """Refuse to replace anything but an artefact, or an empty folder such as kfp makes.

    Raises:
        TemperError: ``out`` is a file, or holds files that no artefact's manifest names.
    """
    if not out.exists():
        return
    if not out.is_dir():
        msg = f"{out}: is a file, but an artefact is a folder; move it away, or give another folder"
        raise TemperError(msg)
    try:
        manifest = Manifest.model_validate_json((out / MANIFEST).read_bytes())
        known = {*manifest.files, *manifest.volatile, MANIFEST}
    except (FileNotFoundError, ValidationError):
        known = set()
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.relative_to(out).as_posix() not in known:
            msg = f"{path}: is not of an artefact, and making one here would delete it; "
            msg += "move it away, or give another folder"
            raise TemperError(msg)


def open_inputs(**folders: Path) -> dict[str, Manifest]:
    """Open the artefacts that a step reads, each checked against its manifest.

    Raises:
        ArtefactError: an artefact that is missing or altered.
    """
    return {step: open_artefact(folder, STEPS[step]) for step, folder in folders.items()}


def is_current(
    step: str, sections: Mapping[str, object], inputs: Mapping[str, Manifest], out: Path, threads: int
) -> bool:
    """Tell whether ``out`` already holds, unaltered, what the step would make of these inputs."""
    try:
        manifest = open_artefact(out, STEPS[step])
    except TemperError:
        return False
    return (
        manifest.inputs == {name: item.digest for name, item in inputs.items()}
        and manifest.config == digested(sections)
        and manifest.source == source_digest()
        and manifest.threads == threads
    )
