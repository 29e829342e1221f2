"""Phases of training: a list of frozen records with a lookup by step."""

from collections.abc import Iterator
from dataclasses import dataclass

from training.config import Phase, Ramp, TrainedTeacher
from training.objectives.base import Objective
from training.objectives.build import build_objective
from training.objectives.clean import CleanObjective


@dataclass(frozen=True)
class TrainingPhase:
    """One phase as the loop runs it; ``epsilon`` in pixel units, ``step_size`` in multiples of it."""

    name: str
    epochs: int
    objective: Objective
    learning_rate: Ramp
    epsilon: Ramp
    attack_steps: int
    step_size: float
    awp_gamma: float


@dataclass(frozen=True)
class Position:
    """An epoch's place: its phase, its number in the phase and in all (both from 0)."""

    phase: TrainingPhase
    epoch_in_phase: int
    epoch: int


def ramp_value(ramp: Ramp, done: float) -> float:
    """Value of a ramp when a share ``done`` in [0, 1] of its phase is over."""
    return ramp.start + (ramp.end - ramp.start) * done


def positions(phases: tuple[TrainingPhase, ...]) -> Iterator[Position]:
    """Go through the epochs of all phases in order."""
    epoch = 0
    for phase in phases:
        for epoch_in_phase in range(phase.epochs):
            yield Position(phase, epoch_in_phase, epoch)
            epoch += 1


def student_phases(phases: tuple[Phase, ...], epsilon: float) -> tuple[TrainingPhase, ...]:
    """Make the student's phases; ``epsilon`` is the threat model's, in pixel units of [0, 1]."""
    return tuple(
        TrainingPhase(
            name=phase.name,
            epochs=phase.epochs,
            objective=build_objective(phase.objective),
            learning_rate=phase.learning_rate,
            epsilon=Ramp(start=phase.epsilon.start * epsilon, end=phase.epsilon.end * epsilon),
            attack_steps=phase.attack_steps,
            step_size=phase.step_size,
            awp_gamma=phase.awp_gamma,
        )
        for phase in phases
    )


def teacher_phases(teacher: TrainedTeacher) -> tuple[TrainingPhase, ...]:
    """Make the one phase of clean training."""
    phase = TrainingPhase(
        name="clean",
        epochs=teacher.epochs,
        objective=CleanObjective(teacher.label_smoothing),
        learning_rate=teacher.learning_rate,
        epsilon=Ramp(start=0.0, end=0.0),
        attack_steps=0,
        step_size=0.0,
        awp_gamma=0.0,
    )
    return (phase,)
