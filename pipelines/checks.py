"""Checks that take longer than tests: the three runners agree, and a killed training resumes exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from safetensors import SafetensorError, safe_open

from components.steps import STEPS
from pipelines.params import dump_params, load_params
from training.artefact import SOURCE_PACKAGES, open_artefact
from training.config import PipelineConfig
from training.errors import TemperError

BUILD = Path("build")
KILLED_STEP = "adversarial_student"

_Found = TypeVar("_Found")

_POLL_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 600.0


def _command(*words: str, cwd: Path, state: Path) -> subprocess.Popen[str]:
    """Start one of our programs as a user would, with a state folder of its own."""
    folder = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {"TEMPER_STATE": str(state), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(words, cwd=cwd, env=environment, text=True)  # noqa: S603 - our own words


def _run(*words: str, cwd: Path, state: Path) -> None:
    if _command(*words, cwd=cwd, state=state).wait() != 0:
        msg = f"{' '.join(words)}: failed; what it said stands above"
        raise TemperError(msg)


def _empty(name: str) -> Path:
    folder = (BUILD / name).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    return {step: open_artefact(folder / step, kind).digest for step, kind in STEPS.items()}


def check_runners(params: Path, overrides: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Run the whole pipeline by each runner and return every step's digest, by runner.

    Each runner has a state folder of its own, so that nothing is shared but the source and the parameters.
    """
    home = _empty("check-runners")
    config = load_params(params, overrides)
    stages = _dvc_project(home / "dvc", config)
    given = ("--params", str(stages / "params.yaml"))
    by_process = ("temper", "run", *given, "--out", str(home / "process"))
    by_kfp = ("temper", "run", "--runner", "kfp", *given, "--out", str(home / "kfp"))
    _run(*by_process, cwd=home, state=home / "state-process")
    _run("dvc", "init", "--quiet", "--no-scm", cwd=stages, state=home / "state-dvc")
    _run("dvc", "repro", "--quiet", cwd=stages, state=home / "state-dvc")
    _run(*by_kfp, cwd=home, state=home / "state-kfp")
    return {
        "temper run": _digests(home / "process"),
        "dvc repro": _digests(stages / "artefacts"),
        "kfp local": _digests(home / "kfp"),
    }


def _dvc_project(folder: Path, config: PipelineConfig) -> Path:
    """Copy what the stages track; DVC compares the text of params.yaml, so overrides are written into it."""
    folder.mkdir()
    for name in SOURCE_PACKAGES:
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("dvc.yaml", folder)
    (folder / "params.yaml").write_text(dump_params(config), encoding="utf-8")
    return folder


def check_resume(params: Path, overrides: tuple[str, ...]) -> tuple[str, str, int]:
    """Kill the student's training with SIGKILL in its second phase, resume it, and compare.

    Returns:
        The digest of an unbroken run, that of the resumed one, and the epoch in which it was killed.
    """
    home = _empty("check-resume")
    config = load_params(params, overrides)
    first = config.student.phases[0].epochs
    frequent = "student.checkpoint_minutes=0.005"
    given = ("--params", str(params.absolute()), *(f"--set={text}" for text in (*overrides, frequent)))
    artefacts = ("--artefacts", str(home / "artefacts"))
    for step in ("dataset", "clean_teacher", "teacher_cache", KILLED_STEP):
        _run("temper", "step", step, *given, *artefacts, cwd=home, state=home / "state")
    out = home / "artefacts" / KILLED_STEP
    unbroken = open_artefact(out, STEPS[KILLED_STEP]).digest
    shutil.rmtree(out)
    again = ("temper", "step", KILLED_STEP, *given, *artefacts)
    process = _command(*again, cwd=home, state=home / "state")
    epoch = _wait_for_epoch(home / "state" / "checkpoints", first + 1, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if out.exists():
        msg = f"{out}: appeared although its step was killed"
        raise TemperError(msg)
    _run(*again, cwd=home, state=home / "state")
    return unbroken, open_artefact(out, STEPS[KILLED_STEP]).digest, epoch


def _wait_for_epoch(folder: Path, epoch: int, process: subprocess.Popen[str]) -> int:
    """Wait until a checkpoint of the wanted epoch (counted from 0) is there and return its epoch."""
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(_POLL_SECONDS)
        for path in folder.glob(f"{KILLED_STEP}-*.safetensors"):
            reached = _epoch_of(path)
            if reached >= epoch:
                return reached
    msg = "the training ended, or took too long, before its second phase was seen; give it more epochs"
    raise TemperError(msg)


def _epoch_of(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as stream:
            state = json.loads((stream.metadata() or {})["state"])
    except (SafetensorError, OSError):
        return -1
    return int(state["progress"]["epoch"])


@click.group()
def main() -> None:
    """Run a check."""


@main.command()
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"))
@click.option("--set", "overrides", multiple=True)
def runners(params: Path, overrides: tuple[str, ...]) -> None:
    """Compare the digests of the three runners."""
    found = _guarded(lambda: check_runners(params, overrides))
    reference = found["temper run"]
    for step in STEPS:
        click.echo(
            f"{step:24}" + "  ".join(f"{name} {digests[step][:16]}" for name, digests in found.items())
        )
    equal = sum(digests == reference for digests in found.values())
    click.echo(f"RESULT equal={equal}/{len(found)}")
    sys.exit(equal != len(found))


@main.command()
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"))
@click.option("--set", "overrides", multiple=True)
def resume(params: Path, overrides: tuple[str, ...]) -> None:
    """Compare an unbroken training with one that was killed and resumed."""
    unbroken, resumed, epoch = _guarded(lambda: check_resume(params, overrides))
    click.echo(f"unbroken            {unbroken}")
    click.echo(f"killed in epoch {epoch:<3} {resumed}")
    click.echo(f"RESULT equal={int(unbroken == resumed)}")
    sys.exit(unbroken != resumed)


def _guarded(check: Callable[[], _Found]) -> _Found:
    try:
        return check()
    except TemperError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
