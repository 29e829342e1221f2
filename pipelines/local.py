"""The in-process runner: the steps in order, each reused where its artefact is already there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.environment import configure_compute
from components.step import execute, is_current, step_inputs, step_sections
from components.steps import STEPS
from components.tracking import parent_run
from training.artefact import Manifest, digest_json, open_artefact, source_digest
from training.config import PipelineConfig, TrainedTeacher

# What these make depends on more than their inputs: files at a path, or the registry.
_ALWAYS_RUN = ("dataset", "registration")


@dataclass(frozen=True)
class PipelineRun:
    """Where the artefacts of one run are, and which of them were already there."""

    folder: Path
    manifests: dict[str, Manifest] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)


def run_name(config: PipelineConfig) -> str:
    """Return the name of a run: equal for equal configuration, package source and threads."""
    threads = configure_compute().threads
    return digest_json([config.model_dump(mode="json"), source_digest(), threads])[:12]


def make_artefact(
    step: str, config: PipelineConfig, inputs: Mapping[str, Path], out: Path, *, fresh: bool = False
) -> tuple[Manifest, bool]:
    """Run one step unless ``out`` already holds what it would make.

    Args:
        step: its name.
        config: the whole configuration.
        inputs: artefacts by the name of the step that made them.
        out: where its artefact is or appears.
        fresh: run it in any case.

    Returns:
        The manifest, and whether the artefact was reused.
    """
    sections = {name: getattr(config, name) for name in step_sections(step)}
    if not fresh and _can_reuse(step, config):
        manifests = {name: open_artefact(folder, STEPS[name]) for name, folder in inputs.items()}
        if is_current(step, sections, manifests, out, configure_compute().threads):
            return open_artefact(out, STEPS[step]), True
    return execute(step, sections, inputs, out), False


def _can_reuse(step: str, config: PipelineConfig) -> bool:
    imported = step == "clean_teacher" and not isinstance(config.teacher, TrainedTeacher)
    shifted = step == "robustness_evaluation" and config.evaluation.shift.path is not None
    return step not in _ALWAYS_RUN and not imported and not shifted


def run_pipeline(config: PipelineConfig, folder: Path, *, fresh: bool = False) -> PipelineRun:
    """Run every step, tracked under one parent run.

    Args:
        config: the whole configuration.
        folder: the artefacts appear below it, named like the steps.
        fresh: make everything again.
    """
    run = PipelineRun(folder)
    with parent_run(f"pipeline {folder.name}"):
        for step in STEPS:
            inputs = {name: folder / name for name in step_inputs(step)}
            manifest, reused = make_artefact(step, config, inputs, folder / step, fresh=fresh)
            run.manifests[step] = manifest
            if reused:
                run.reused.append(step)
    return run
