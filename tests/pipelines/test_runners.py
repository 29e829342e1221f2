"""The three runners, with the real programs: equal digests, and what DVC finds stale after an edit."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from components.steps import STEPS
from pipelines import checks
from training.artefact import open_artefact

ROOT = Path(__file__).parents[2]
DVC = Path(sys.executable).with_name("dvc")


class Checked(NamedTuple):
    """What the check returned, and the folder it worked in."""

    digests: dict[str, dict[str, str]]
    home: Path


@pytest.fixture(scope="module", name="checked")
def _checked(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_params: Path,
    blank_store: Path,
    in_process: Callable[..., None],
) -> Iterator[Checked]:
    build = tmp_path_factory.mktemp("runners")
    run = checks._run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "BUILD", build)
        patch.setattr(checks, "_empty", with_stores(blank_store))
        patch.setattr(
            checks,
            "_run",
            lambda *words, cwd, state: (in_process if is_plain(words) else run)(*words, cwd=cwd, state=state),
        )
        patch.chdir(ROOT)
        patch.setenv("TEMPER_THREADS", "1")
        digests = checks.check_runners(tiny_params, ())
        yield Checked(digests, build / "check-runners")


def is_plain(words: tuple[str, ...]) -> bool:
    return words[0] == "temper" and "kfp" not in words


def with_stores(blank: Path) -> Callable[[str], Path]:
    """Return a maker of empty folders in which each runner finds a store, which takes long to create."""
    empty = checks._empty

    def make(name: str) -> Path:
        folder = empty(name)
        for runner in ("process", "dvc", "kfp"):
            (folder / f"state-{runner}").mkdir()
            shutil.copy(blank, folder / f"state-{runner}")
        return folder

    return make


def test_the_three_runners_make_equal_digests(checked: Checked) -> None:
    process, dvc, kfp = checked.digests.values()
    assert list(process) == list(STEPS)
    assert process == dvc == kfp


def test_kfp_names_its_artefacts_like_the_others(checked: Checked) -> None:
    for step, kind in STEPS.items():
        link = checked.home / "kfp" / step
        assert link.is_symlink()
        assert open_artefact(link, kind).digest == checked.digests["temper run"][step]


def test_no_runner_leaves_a_tracking_store_in_the_working_folder(checked: Checked) -> None:
    names = {path.name for path in checked.home.iterdir()}
    assert names == {"process", "dvc", "kfp", "state-process", "state-dvc", "state-kfp"}
    for runner in ("process", "dvc", "kfp"):
        state = {path.name for path in (checked.home / f"state-{runner}").iterdir()}
        assert {"mlflow.db", "mlartifacts", "snapshots"} <= state
    assert not list(checked.home.rglob("mlruns"))


# --- what DVC finds stale -------------------------------------------------------------------------


@pytest.fixture(name="stale")
def _stale(checked: Checked, tmp_path: Path) -> Callable[..., set[str]]:
    """Give a function that edits the reproduced project's params.yaml and names what is stale then."""
    project = Path(shutil.copytree(checked.home / "dvc", tmp_path / "project"))

    def stale(*path: str | int, value: object) -> set[str]:
        file = project / "params.yaml"
        params = yaml.safe_load(file.read_text(encoding="utf-8"))
        section = params
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        return status(project)

    return stale


def status(project: Path) -> set[str]:
    done = subprocess.run(
        [DVC, "status", "--json"],
        cwd=project,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
    )
    return set(json.loads(done.stdout))


def test_nothing_is_stale_after_repro(checked: Checked) -> None:
    assert status(checked.home / "dvc") == set()


def test_editing_a_gate_makes_registration_stale_alone(stale: Callable[..., set[str]]) -> None:
    assert stale("gate", "rules", 0, "minimum", value=0.1) == {"registration"}


def test_editing_epsilon_does_not_retrain_the_teacher(stale: Callable[..., set[str]]) -> None:
    found = stale("threat_model", "epsilon", value=0.05)
    assert found == {"adversarial_student", "robustness_evaluation"}


def test_a_kfp_run_takes_the_place_of_another_runners_artefacts(
    checked: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What gathers kfp's artefacts, on those that the check's kfp run made.
    from pipelines.kfp_local import _gather  # noqa: PLC0415 - imports kfp

    folder = Path(shutil.copytree(checked.home / "process", tmp_path / "run"))
    (made,) = (checked.home / "kfp" / "kfp").iterdir()
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run = _gather(made, Path("run"))
        assert {step: manifest.digest for step, manifest in run.manifests.items()} == checked.digests[
            "kfp local"
        ]
    assert all((folder / step).is_symlink() for step in STEPS)
