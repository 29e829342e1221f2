"""The in-process runner: what is reused, and what is made again."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from components.steps import STEPS
from pipelines.local import PipelineRun, run_name, run_pipeline
from training.artefact import open_artefact
from training.config import PipelineConfig
from training.errors import TemperError

Tiny: TypeAlias = Callable[..., PipelineConfig]

ALWAYS = ["dataset", "registration"]
REUSABLE = [step for step in STEPS if step not in ALWAYS]


def test_a_run_makes_every_artefact(tiny_run: PipelineRun) -> None:
    assert tiny_run.reused == []
    for step, kind in STEPS.items():
        assert open_artefact(tiny_run.folder / step, kind) == tiny_run.manifests[step]
    assert sorted(path.name for path in tiny_run.folder.iterdir()) == sorted(STEPS)


def test_a_second_run_reuses_all_but_dataset_and_registration(
    tiny: Tiny, tiny_copy: Path, tiny_run: PipelineRun
) -> None:
    again = run_pipeline(tiny(), tiny_copy)
    assert again.reused == REUSABLE
    assert again.manifests == tiny_run.manifests


def test_changing_the_gate_runs_registration_alone(
    tiny: Tiny, tiny_copy: Path, tiny_run: PipelineRun
) -> None:
    changed = run_pipeline(tiny("gate.minimum_examples=1"), tiny_copy)
    assert changed.reused == REUSABLE
    differ = [step for step in STEPS if changed.manifests[step].digest != tiny_run.manifests[step].digest]
    assert differ == ["registration"]


def test_changing_epsilon_keeps_the_teacher_and_its_cache(tiny: Tiny, tiny_copy: Path) -> None:
    changed = run_pipeline(tiny("threat_model.epsilon=0.1"), tiny_copy)
    assert changed.reused == ["clean_teacher", "teacher_cache"]


def test_an_altered_artefact_is_made_again_and_the_rest_kept(
    tiny: Tiny, tiny_copy: Path, tiny_run: PipelineRun
) -> None:
    logits = tiny_copy / "teacher_cache" / "logits.npy"
    content = bytearray(logits.read_bytes())
    content[-1] ^= 1
    logits.write_bytes(content)
    again = run_pipeline(tiny(), tiny_copy)
    assert [step for step in REUSABLE if step not in again.reused] == ["teacher_cache"]
    assert again.manifests == tiny_run.manifests


def test_a_reused_teacher_is_read_each_time(tiny: Tiny, tiny_copy: Path, tiny_run: PipelineRun) -> None:
    # What stands at its path may have changed; its digest then says whether anything else must run.
    config = tiny(f"teacher={{name: bundle, path: {tiny_run.folder / 'clean_teacher'}}}")
    run_pipeline(config, tiny_copy)
    again = run_pipeline(config, tiny_copy)
    assert "clean_teacher" not in again.reused
    assert again.reused == ["teacher_cache", "adversarial_student", "robustness_evaluation"]


def test_fresh_makes_everything_again_and_the_same(
    tiny: Tiny, tiny_copy: Path, tiny_run: PipelineRun
) -> None:
    fresh = run_pipeline(tiny(), tiny_copy, fresh=True)
    assert fresh.reused == []
    assert fresh.manifests == tiny_run.manifests


def test_somebodys_folder_named_like_a_step_is_not_replaced(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.csv").write_text("1,2")
    with pytest.raises(TemperError, match=r"mine\.csv: is not of an artefact"):
        run_pipeline(tiny(), tmp_path)
    assert (tmp_path / "dataset" / "mine.csv").read_text() == "1,2"


def test_a_run_is_named_by_what_shapes_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run_name(tiny())
    assert name == run_name(tiny())
    assert name != run_name(tiny("seed=1"))
    monkeypatch.setenv("TEMPER_THREADS", "2")
    assert name != run_name(tiny())
