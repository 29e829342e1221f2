"""The model card of a student: written from its bundle, its manifest and its decision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.artefact import Manifest
from training.bundle import read_info
from training.gates import Decision
from training.robustness.model_card import render_model_card
from training.robustness.results import EvaluationResult


def write_card(result: EvaluationResult, decision: Decision, student: Path, made: Manifest, name: str) -> str:
    """Return the card as Markdown.

    Args:
        result: the evaluation.
        decision: what the gates said.
        student: the bundle.
        made: the bundle's manifest: it holds the sections that the student was trained with.
        name: of the registered model.
    """
    info = read_info(student)
    told = f"{info.architecture.name} with {info.parameters:,} parameters. "
    return render_model_card(result, name=name, training=told + _phases(made.config), decision=decision)


def _phases(config: Mapping[str, object]) -> str:
    student = config.get("student")
    phases: list[dict[str, Any]] = student.get("phases", []) if isinstance(student, dict) else []
    told = [f"{phase['name']} ({phase['epochs']} epochs, {phase['objective']['name']})" for phase in phases]
    return f"Trained in phases: {', '.join(told)}." if told else "How it was trained is not stated."
