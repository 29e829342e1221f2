"""The student step: where it starts, and which caches it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch

from components.step import execute, step_inputs, step_sections
from pipelines.local import PipelineRun
from training.artefact import Manifest
from training.bundle import load_bundle, read_info
from training.config import PipelineConfig
from training.errors import TemperError

Step: TypeAlias = Callable[..., Manifest]


@pytest.fixture(name="step")
def _step(tiny: Callable[..., PipelineConfig], tiny_run: PipelineRun, tmp_path: Path) -> Step:
    """Give a function that runs a step on the tiny run's artefacts, but for those given by name."""

    def step(name: str, *overrides: str, **instead: Path) -> Manifest:
        config = tiny(*overrides)
        sections = {section: getattr(config, section) for section in step_sections(name)}
        inputs = {made: tiny_run.folder / made for made in step_inputs(name)} | instead
        return execute(name, sections, inputs, tmp_path / name)

    return step


def test_the_student_starts_from_the_clean_weights(step: Step, tmp_path: Path, tiny_run: PipelineRun) -> None:
    still = ("student.start=clean", "student.selection.rule=last", "student.optimiser.weight_decay=0")
    frozen = [f"student.phases.{phase}.learning_rate={{start: 0, end: 0}}" for phase in (0, 1)]
    step("adversarial_student", *still, *frozen)
    student, described = load_bundle(tmp_path / "adversarial_student")
    teacher, _ = load_bundle(tiny_run.folder / "clean_teacher")
    weights = dict(teacher.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in student.named_parameters())
    assert described.normalisation == read_info(tiny_run.folder / "clean_teacher").normalisation


def test_a_start_from_weights_of_another_architecture_is_refused(step: Step, tmp_path: Path) -> None:
    with pytest.raises(TemperError, match=r"student\.start is clean, but the teacher is") as caught:
        step("adversarial_student", "student.start=clean", "student.architecture.width=8")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "adversarial_student").exists()


def test_a_cache_of_another_teacher_is_refused_by_name(
    step: Step, tmp_path: Path, tiny_run: PipelineRun
) -> None:
    step("clean_teacher", f"teacher={{name: bundle, path: {tiny_run.folder / 'clean_teacher'}}}")
    with pytest.raises(TemperError, match=r"teacher_cache: stale cache, made of another teacher"):
        step("adversarial_student", clean_teacher=tmp_path / "clean_teacher")
    assert not (tmp_path / "adversarial_student").exists()


def test_a_cache_of_another_snapshot_is_refused_by_name(step: Step, tmp_path: Path) -> None:
    step("dataset", "data.split.seed=1")
    with pytest.raises(TemperError, match=r"teacher_cache: stale cache, made of another snapshot"):
        step("adversarial_student", dataset=tmp_path / "dataset")


@pytest.mark.parametrize("override", ["seed=1", "cache.augmentation.shift=1"])
def test_a_cache_of_another_view_scheme_is_refused_by_name(step: Step, override: str) -> None:
    with pytest.raises(TemperError, match=r"teacher_cache: stale cache, made with another view scheme"):
        step("adversarial_student", override)


def test_a_cache_of_fewer_views_is_refused(step: Step) -> None:
    with pytest.raises(TemperError, match=r"holds 1 views of .* run step teacher_cache again"):
        step("adversarial_student", "cache.views=2")


def test_a_batch_larger_than_the_training_side_is_refused(step: Step) -> None:
    with pytest.raises(TemperError, match="batch_size 5000 is larger than the training side"):
        step("adversarial_student", "student.optimiser.batch_size=5000")
