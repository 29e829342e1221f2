"""The command line: happy paths, and every mistake as one line and exit status 2."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from components.steps import STEPS
from pipelines.cli import main
from pipelines.local import PipelineRun
from pipelines.params import load_params
from training.artefact import open_artefact
from training.config import PipelineConfig

Temper: TypeAlias = Callable[..., Result]

PROGRAM = Path(sys.executable).with_name("temper")
DEAD = "http://me:hunter2@127.0.0.1:9"


@pytest.fixture(name="temper")
def _temper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Temper:
    """Give the command line, in a folder of its own."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def refusal(result: Result) -> str:
    """Return the one line of a refusal."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# --- happy paths ----------------------------------------------------------------------------------


def test_run_prints_the_verdict_and_a_line_for_programs(
    temper: Temper, tiny_params: Path, tiny_copy: Path
) -> None:
    result = temper("run", "--params", tiny_params, "--out", tiny_copy)
    assert result.exit_code == 0, result.output
    assert "reused as they were: clean_teacher, teacher_cache" in result.stdout
    assert "Accuracy on 64 test images, Linf epsilon 0.15" in result.stdout
    assert "REFUSED" in result.stdout
    last = result.stdout.splitlines()[-1]
    pattern = r"RESULT seconds=\d+\.\d natural=0\.\d{4} robust=0\.\d{4} version=\d+ alias=challenger"
    assert re.fullmatch(pattern, last)
    assert sorted(path.name for path in Path.cwd().iterdir()) == []


def test_step_prints_the_digest(temper: Temper, tiny_params: Path, tiny_run: PipelineRun) -> None:
    result = temper("step", "dataset", "--params", tiny_params)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"dataset {tiny_run.manifests['dataset'].digest}\n"
    assert open_artefact(Path("artefacts/dataset"), "snapshot") == tiny_run.manifests["dataset"]


def test_compile_writes_the_pipeline(temper: Temper, tiny_params: Path) -> None:
    result = temper("compile", "--params", tiny_params)
    assert (result.exit_code, result.stdout) == (0, "compiled to build/pipeline.yaml\n")
    assert "temper-robust-training" in Path("build/pipeline.yaml").read_text(encoding="utf-8")


def test_config_show_prints_what_is_in_force(temper: Temper, tiny_params: Path) -> None:
    result = temper("config", "show", "--params", tiny_params, "--set", "seed=7")
    assert result.exit_code == 0
    Path("shown.yaml").write_text(result.stdout, encoding="utf-8")
    assert load_params(Path("shown.yaml")) == load_params(tiny_params, ["seed=7"])


def test_config_check_says_that_it_is_valid(temper: Temper, tiny_params: Path) -> None:
    result = temper("config", "check", "--params", tiny_params)
    assert result.exit_code == 0
    assert result.stdout == f"{tiny_params}: valid; 2 phases, 2 epochs, seed 0\n"


def test_report_takes_a_folder_a_name_or_latest(temper: Temper, tiny_run: PipelineRun) -> None:
    Path("runs/older/registration").mkdir(parents=True)
    os.utime("runs/older/registration", (0, 0))
    Path("runs/unfinished").mkdir()
    Path("runs/newest").symlink_to(tiny_run.folder, target_is_directory=True)
    for words in ((tiny_run.folder,), ("newest",), ("latest",), ()):
        result = temper("report", *words)
        assert result.exit_code == 0, result.output
        assert "robust (worst case)" in result.stdout
        assert "robustness_evaluation/report.html" in result.stdout
        assert "RESULT" not in result.stdout


def test_help_names_every_command(temper: Temper) -> None:
    result = temper("--help")
    for command in ("run", "step", "compile", "config", "report", "evaluate", "compare", "doctor"):
        assert re.search(rf"^  {command} ", result.stdout, re.MULTILINE)
    usage = re.sub(r"\s", "", temper("step", "--help").stdout)
    assert "|".join(STEPS) in usage
    assert temper("--version").exit_code == 0


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.phazes=1", "student.phazes: unknown field; did you mean student.phases?"),
        ("teacher.epochs=0", "teacher.epochs: must be at least 1, got 0"),
        ("teacher.epochs=many", "teacher.epochs: must be a whole number"),
        ("threat_model.epsilon=8", "so write 8/255"),
        ("data.source.name=mnits", "did you mean mnist?"),
        ("seed", "an override without '='"),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["step", "dataset"], ["compile"], ["config", "check"]])
def test_a_wrong_parameter_is_one_line(
    temper: Temper, tiny_params: Path, command: list[str], override: str, words: str
) -> None:
    assert words in refusal(temper(*command, "--params", tiny_params, "--set", override))
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", [["run"], ["step", "dataset"], ["compile"], ["config", "show"]])
def test_a_folder_without_params_is_one_line(temper: Temper, command: list[str]) -> None:
    assert refusal(temper(*command)) == "params.yaml: no such file; give the path of a params file"


def test_a_folder_as_params_is_one_line(temper: Temper, tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(temper("config", "check", "--params", tmp_path))


def test_several_faults_are_a_line_each(temper: Temper, tiny_params: Path) -> None:
    result = temper("config", "check", "--params", tiny_params, "--set", "seed=-1", "--set", "gate.rule=[]")
    assert result.exit_code == 2
    result = temper(
        "config", "check", "--params", tiny_params, "--set", "seed=-1", "--set", "teacher.epochs=0"
    )
    assert [line[:7] for line in result.stderr.splitlines()] == ["error: ", "error: "]


def test_a_step_without_its_input_says_which_step_makes_it(temper: Temper, tiny_params: Path) -> None:
    line = refusal(temper("step", "clean_teacher", "--params", tiny_params))
    assert line.startswith("artefacts/dataset: no snapshot artefact there")
    assert not Path("artefacts").exists()


@pytest.mark.parametrize("command", ["run", "step"])
def test_an_output_that_cannot_be_is_one_line(temper: Temper, tiny_params: Path, command: str) -> None:
    Path("file").write_text("")
    words = ["run", "--out"] if command == "run" else ["step", "dataset", "--artefacts"]
    assert "file" in refusal(temper(*words, "file", "--params", tiny_params))
    assert "/proc/p.yaml" in refusal(temper("compile", "--params", tiny_params, "--out", "/proc/p.yaml"))
    assert Path("file").read_text() == ""


def test_somebodys_files_are_not_replaced(temper: Temper, tiny_params: Path) -> None:
    Path("dataset").mkdir()
    Path("dataset/mine.csv").write_text("1,2")
    for words in (("run", "--out"), ("run", "--runner", "kfp", "--out"), ("step", "dataset", "--artefacts")):
        line = refusal(temper(*words, ".", "--params", tiny_params))
        assert "mine.csv: is not of an artefact" in line
    assert Path("dataset/mine.csv").read_text() == "1,2"


def test_data_that_is_missing_is_one_line(temper: Temper, tiny_params: Path) -> None:
    source = "data.source={name: npz, path: missing.npz}"
    for words in (("run",), ("step", "dataset")):
        line = refusal(temper(*words, "--params", tiny_params, "--set", source))
        assert line == "missing.npz: no such file or folder; correct the path, or put the data there"


@pytest.mark.parametrize("command", [["run"], ["step", "dataset"]])
def test_a_dead_tracking_server_is_one_line_and_soon(
    temper: Temper, tiny_params: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    started = time.monotonic()
    line = refusal(temper(*command, "--params", tiny_params))
    assert time.monotonic() - started < 10
    assert line.startswith("tracking store http://***@127.0.0.1:9: does not answer")
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["TEMPER_THREADS", "TEMPER_DEVICE"])
def test_a_wrong_environment_is_one_line(
    temper: Temper, tiny_params: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "many")
    assert refusal(temper("run", "--params", tiny_params)).startswith(f"{name}=many")


def test_a_report_of_nothing_is_one_line(temper: Temper) -> None:
    assert refusal(temper("report")) == "runs: no finished run there; run temper run"
    assert "no finished run there" in refusal(temper("report", "never"))


def test_a_report_of_an_altered_run_is_one_line(temper: Temper, tiny_copy: Path) -> None:
    registered = tiny_copy / "registration" / "registered.json"
    content = registered.read_text()
    for broken in ("{", "{}", "[]"):
        registered.write_text(broken)
        assert "run step registration again" in refusal(temper("report", tiny_copy))
    registered.write_text(content)
    evaluation = tiny_copy / "robustness_evaluation" / "evaluation.json"
    evaluation.write_text(evaluation.read_text().replace("1", "2"))
    assert "evaluation.json: altered" in refusal(temper("report", tiny_copy))


def test_an_unknown_step_is_refused_by_click(temper: Temper) -> None:
    result = temper("step", "datset")
    assert result.exit_code == 2
    assert "'datset' is not one of 'dataset'" in result.stderr


# --- evaluate and compare -------------------------------------------------------------------------


def test_evaluate_and_compare_end_with_a_line_for_programs(
    temper: Temper, tiny_params: Path, tiny_run: PipelineRun
) -> None:
    student = tiny_run.folder / "adversarial_student"
    result = temper("evaluate", student, "--params", tiny_params, "--out", "scored")
    assert result.exit_code == 0, result.output
    assert f"model     {student}: bundle of small_resnet" in result.stdout
    pattern = r"RESULT natural=\d\.\d{4} robust=\d\.\d{4} examples=64 model_digest=[0-9a-f]{64}"
    assert re.fullmatch(pattern, result.stdout.splitlines()[-1])
    result = temper("compare", "scored", tiny_run.folder)
    assert result.exit_code == 0, result.output
    assert "A against B on the same 64 test images" in result.stdout
    expected = "RESULT natural_difference=0.0000 robust_difference=0.0000 natural_p=1 robust_p=1 n=64"
    assert result.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere: no such folder and no reference to a model"),
        (("models:/nowhere/1",), "models:/nowhere/1: Model Version (name=nowhere, version=1) not found"),
        (("nowhere:build",), "nowhere:build: No module named 'nowhere'"),
        (("math:sqrt", "--mean", "0.5"), "--mean without --std; give both"),
        (("math:sqrt", "--arguments", "[]"), "--arguments: a JSON list"),
        (("math:sqrt", "--set", "threat_model.epsilon=8"), "threat_model: epsilon 8 is above 1 for Linf"),
    ],
)
def test_a_wrong_evaluate_is_one_line(
    temper: Temper, tiny_params: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in refusal(temper("evaluate", *words, "--params", tiny_params))
    assert list(Path.cwd().iterdir()) == []


def test_a_wrong_compare_is_one_line(temper: Temper, tiny_run: PipelineRun) -> None:
    assert "no evaluation artefact there" in refusal(temper("compare", "nowhere", tiny_run.folder))


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_here(temper: Temper) -> None:
    result = temper("doctor")
    assert result.exit_code == 0, result.output
    assert re.search(r"^ok +tracking +sqlite:///", result.stdout, re.MULTILINE)
    assert re.search(r"^- +s3 +not set up", result.stdout, re.MULTILINE)


def test_doctor_tells_of_dead_servers_soon_and_shows_no_password(
    temper: Temper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    monkeypatch.setenv("AWS_ENDPOINT_URL", DEAD)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    started = time.monotonic()
    result = temper("doctor")
    assert time.monotonic() - started < 15
    assert result.exit_code == 1
    found = dict(re.findall(r"^FAILS +(\w+) +(.+)$", result.stdout, re.MULTILINE))
    assert set(found) == {"tracking", "s3"}
    assert "start the server, or mend MLFLOW_TRACKING_URI" in found["tracking"]
    assert "cannot reach 127.0.0.1:9; check AWS_ENDPOINT_URL" in found["s3"]
    assert "hunter2" not in result.output


def test_doctor_tells_of_a_wrong_environment(temper: Temper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DEVICE", "tpu")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    result = temper("doctor")
    assert result.exit_code == 1
    found = dict(re.findall(r"^FAILS +(\w+) +(.+)$", result.stdout, re.MULTILINE))
    assert set(found) == {"torch", "s3"}
    assert "set auto, cpu or cuda" in found["torch"]


# --- the installed program ------------------------------------------------------------------------


def program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, check=False)


def test_the_program_refuses_without_a_stack_trace(tmp_path: Path) -> None:
    done = program(tmp_path, "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: params.yaml: no such file; give the path of a params file\n"


def test_the_program_is_quiet_and_leaves_no_folders(
    tmp_path: Path, tiny_params: Path, tiny_copy: Path, tiny: Callable[..., PipelineConfig]
) -> None:
    assert tiny().registration.model_name == "tiny"
    folder = tmp_path / "empty"
    folder.mkdir()
    done = program(
        folder, "run", "--params", str(tiny_params), "--out", str(tiny_copy), "--set", "gate.rules=[]"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(folder.iterdir()) == []
