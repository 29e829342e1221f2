"""Phases: epochs in order, ramps, and what a section becomes."""

import pytest

from training.config import Guided, Phase, Ramp, TrainedTeacher
from training.objectives.clean import CleanObjective
from training.objectives.guided import GuidedObjective
from training.phases import positions, ramp_value, student_phases, teacher_phases

WARM = Phase(
    name="warm",
    epochs=2,
    objective=Guided(name="guided", weight=0.25, beta=2.0, attack="kl"),
    epsilon=Ramp(start=0.0, end=1.5),
    attack_steps=3,
    step_size=0.4,
    learning_rate=Ramp(start=0.1, end=0.2),
    awp_gamma=0.01,
)
HARD = WARM.model_copy(update={"name": "hard", "epochs": 3})


def test_a_ramp_is_linear_from_start_to_end() -> None:
    ramp = Ramp(start=0.2, end=0.1)
    assert [ramp_value(ramp, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.15, 0.1])


def test_epochs_are_numbered_in_the_phase_and_in_all() -> None:
    phases = student_phases((WARM, HARD), 0.1)
    found = [(place.phase.name, place.epoch_in_phase, place.epoch) for place in positions(phases)]
    assert found == [("warm", 0, 0), ("warm", 1, 1), ("hard", 0, 2), ("hard", 1, 3), ("hard", 2, 4)]


def test_a_students_epsilon_is_in_multiples_of_the_threat_models() -> None:
    (phase,) = student_phases((WARM,), 0.2)
    assert (phase.epsilon.start, phase.epsilon.end) == pytest.approx((0.0, 0.3))
    assert phase.objective == GuidedObjective(0.25, 2.0, "kl")
    assert (phase.attack_steps, phase.step_size, phase.awp_gamma) == (3, 0.4, 0.01)
    assert (phase.epochs, phase.learning_rate) == (2, WARM.learning_rate)


def test_a_teacher_is_trained_in_one_phase_without_attack() -> None:
    section = TrainedTeacher(epochs=7, label_smoothing=0.1, learning_rate=Ramp(start=0.3, end=0.0))
    (phase,) = teacher_phases(section)
    assert phase.objective == CleanObjective(0.1)
    assert (phase.epochs, phase.learning_rate) == (7, section.learning_rate)
    assert (phase.attack_steps, phase.awp_gamma, phase.epsilon.end) == (0, 0.0, 0.0)
