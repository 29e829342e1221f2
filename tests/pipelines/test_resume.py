"""A training that is killed with SIGKILL goes on to the same weights."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import checks
from training.errors import TemperError

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="build", autouse=True)
def _build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blank_store: Path) -> Path:
    empty = checks._empty

    def with_store(name: str) -> Path:
        folder = empty(name)
        (folder / "state").mkdir()
        shutil.copy(blank_store, folder / "state")
        return folder

    monkeypatch.setattr(checks, "BUILD", tmp_path)
    monkeypatch.setattr(checks, "_empty", with_store)
    monkeypatch.chdir(ROOT)
    return tmp_path


def test_a_killed_training_resumes_to_the_same_digest(
    tiny_params: Path, build: Path, in_process: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = ("student.phases.1.epochs=8", "student.phases.1.attack_steps=3", "teacher.epochs=1")
    run, done = checks._run, []

    def quick(*words: str, cwd: Path, state: Path) -> None:
        """Use a process of its own for what is resumed alone."""
        done.append(words)
        (run if len(done) == 5 else in_process)(*words, cwd=cwd, state=state)

    monkeypatch.setattr(checks, "_run", quick)
    unbroken, resumed, epoch = checks.check_resume(tiny_params, longer)
    assert unbroken == resumed
    assert 2 <= epoch < 9
    assert done[3] == done[4]
    home = build / "check-resume"
    assert list((home / "state" / "checkpoints").iterdir()) == []
    # What the killed process was writing stands beside the artefact, under a name of its own.
    names = {path.name for path in (home / "artefacts").iterdir()}
    assert {name for name in names if not name.startswith(".adversarial_student.partial-")} == {
        "dataset",
        "clean_teacher",
        "teacher_cache",
        "adversarial_student",
    }


def test_a_training_too_short_to_be_killed_is_told(monkeypatch: pytest.MonkeyPatch, build: Path) -> None:
    class Ended:
        def poll(self) -> int:
            return 0

    monkeypatch.setattr(checks, "_POLL_SECONDS", 0.0)
    with pytest.raises(TemperError, match="give it more epochs"):
        checks._wait_for_epoch(build, 1, Ended())  # type: ignore[arg-type]
