"""Any model is scored as the pipeline scores its students; what cannot be is one line and leaves nothing."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import save_file

from components.tracking import connect, experiment_id
from pipelines.compare import compare_evaluations
from pipelines.evaluate import (
    EvaluatedModel,
    Request,
    evaluate_model,
    evaluation_line,
    parse_arguments,
    parse_normalisation,
    print_evaluation,
)
from pipelines.local import PipelineRun
from training.artefact import open_artefact
from training.bundle import read_info
from training.config import Normalisation, PipelineConfig
from training.errors import TemperError
from training.robustness.results import SanityCheck, read_outcomes, read_result
from training.robustness.statistics import Rate

QUICK = (
    "evaluation.sanity.enabled=false",
    "evaluation.shift={corruptions: none, threats: [], spatial: {degrees: 0, pixels: 0}}",
)
MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10, channels=1, late=False, pixels=64):
        super().__init__()
        self.late = late
        self.head = nn.Linear(pixels * channels, classes)

    def forward(self, x):
        return self.head(x.flatten(1)).softmax(1) if self.late else self.head(x.flatten(1))
"""

Score = Callable[..., EvaluatedModel]


@pytest.fixture(name="runs")
def _runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(name="score")
def _score(tiny: Callable[..., PipelineConfig], runs: Path) -> Score:
    """Give a function that evaluates a reference on the tiny data."""

    def score(reference: object, *overrides: str, out: Path | None = None, **said: object) -> EvaluatedModel:
        request = replace(Request(str(reference)), **said)  # type: ignore[arg-type]
        return evaluate_model(tiny(*QUICK, *overrides), request, runs=runs, out=out)

    return score


@pytest.fixture(name="net", autouse=True)
def _net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put a module of the user's on the import path."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "scored_net.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    yield "scored_net:Net"
    sys.modules.pop("scored_net", None)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(TemperError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- what is found --------------------------------------------------------------------------------


def test_a_student_scores_as_in_the_pipeline(score: Score, tiny_run: PipelineRun, runs: Path) -> None:
    evaluated = score(tiny_run.folder / "adversarial_student")
    theirs = tiny_run.folder / "robustness_evaluation"
    assert evaluated.folder.parent == runs
    manifest = open_artefact(evaluated.folder, "evaluation")
    assert sorted(manifest.files) == ["evaluation.json", "outcomes.npz", "report.html"]
    assert manifest.inputs == {"dataset": tiny_run.manifests["dataset"].digest}
    assert manifest.config["model"] == read_info(tiny_run.folder / "adversarial_student").digest
    ours, pipeline = read_outcomes(evaluated.folder), read_outcomes(theirs)
    for name, array in vars(pipeline).items():
        assert np.array_equal(getattr(ours, name), array), name
    assert evaluated.result == read_result(evaluated.folder)
    comparison = compare_evaluations(evaluated.folder, tiny_run.folder)
    assert (comparison.robust.gained, comparison.robust.lost) == (0, 0)


def test_the_model_in_production_is_scored_and_tracked(score: Score, tiny_run: PipelineRun) -> None:
    reference = "models:/tiny@challenger"
    evaluated = score(reference)
    assert evaluated.result.model_digest == read_info(tiny_run.folder / "adversarial_student").digest
    client = connect()
    found = client.search_runs([experiment_id(client)], f"tags.`temper.model` = '{reference}'")
    parent, child = sorted(found, key=lambda run: "mlflow.parentRunId" in run.data.tags)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["temper.digest.model"] == evaluated.result.model_digest
    assert child.data.metrics["robust"] == pytest.approx(evaluated.result.robust.value)
    names = [item.path for item in client.list_artifacts(child.info.run_id, "evaluation")]
    assert "evaluation/report.html" in names
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_logged_graph_scores_as_its_bundle(score: Score, tiny_run: PipelineRun) -> None:
    client = connect()
    version = client.get_model_version_by_alias("tiny", "challenger")
    graph = score(version.source)
    bundle = read_outcomes(tiny_run.folder / "robustness_evaluation")
    ours = read_outcomes(graph.folder)
    assert "exported graph" in graph.loaded.description
    assert np.array_equal(ours.predictions, bundle.predictions)
    assert (ours.stands[-1] == bundle.stands[-1]).mean() > 0.9


def test_a_user_s_module_with_weights_and_a_teacher_is_scored(
    score: Score, tiny_run: PipelineRun, net: str, tmp_path: Path
) -> None:
    from scored_net import Net  # type: ignore[import-not-found]  # noqa: PLC0415 - written by the fixture

    save_file(Net().state_dict(), tmp_path / "own.safetensors")
    normalisation = Normalisation(mean=(0.3,), std=(0.4,))
    said = {"weights": tmp_path / "own.safetensors", "normalisation": normalisation}
    teacher = tiny_run.folder / "clean_teacher"
    evaluated = score(net, teacher=str(teacher), arguments={"channels": 1}, out=tmp_path / "out", **said)
    assert evaluated.folder == tmp_path / "out"
    manifest = open_artefact(tmp_path / "out", "evaluation")
    assert manifest.config["teacher"] == read_info(teacher).digest
    assert evaluated.loaded.description == f"{net} with weights own.safetensors"
    assert score(net, out=tmp_path / "out", **said).folder == tmp_path / "out"


def test_what_is_printed(score: Score, net: str) -> None:
    evaluated = score(net)
    check = SanityCheck(
        name="gradients_not_zero", status="failed", found=1.0, threshold=0.05, evidence="all are zero"
    )
    result = evaluated.result.model_copy(update={"sanity": (check,), "natural": Rate(count=6, n=64)})
    screen = Console(file=io.StringIO(), width=200, highlight=False, soft_wrap=True)
    print_evaluation(replace(evaluated, result=result), screen)
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert text.startswith(f"model     {net}\n")
    assert "Accuracy on 64 test images, Linf epsilon 0.15" in text
    assert "robust (worst case)" in text
    assert "doubt     gradients_not_zero: all are zero" in text
    assert "natural accuracy is at chance: is the order of the classes that of the data" in text
    assert f"report    {evaluated.folder}/report.html" in text
    pattern = r"RESULT natural=\d\.\d{4} robust=\d\.\d{4} examples=64 model_digest=[0-9a-f]{64}"
    assert re.fullmatch(pattern, evaluation_line(evaluated))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "names", "words"),
    [
        ((9, 8), "0123456789", "takes 8x8 images with 1 channels, but the data have 9x8 with 1"),
        (
            (8, 8),
            "abcdefghij",
            "its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, but those of the data are a, b",
        ),
    ],
)
def test_a_model_of_other_images_or_classes_is_refused(
    score: Score, tiny_run: PipelineRun, tmp_path: Path, size: tuple[int, int], names: str, words: str
) -> None:
    path, student = tmp_path / "data.npz", tiny_run.folder / "adversarial_student"
    x = np.random.default_rng(0).integers(0, 256, (1200, *size), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(1200) % 10, class_names=np.array(list(names)))
    source = f"data.source={{name: npz, path: {path}}}"
    assert words in refusal(lambda: score(student, source))
    own = {"reference": "scored_net:Net", "arguments": {"pixels": size[0] * size[1]}}
    line = refusal(lambda: score(own.pop("reference"), source, teacher=str(student), **own))
    assert line.startswith(f"--teacher {student}: ")
    assert words in line


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"arguments": {"classes": 7}}, "returns 7 logits, but the data have 10 classes"),
        ({"arguments": {"channels": 3}}, "wants 3 channels, but the images have 1"),
        ({"arguments": {"late": True}}, "returns probabilities"),
        (
            {"normalisation": Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3)},
            "have 3 values, but the images 1",
        ),
        ({"teacher": "nowhere"}, "nowhere: no such file or folder"),
    ],
)
def test_a_model_that_does_not_fit_leaves_nothing(
    score: Score, net: str, tmp_path: Path, said: dict[str, object], words: str
) -> None:
    out = tmp_path / "out"
    assert words in refusal(lambda: score(net, out=out, **said))
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_somebody_s_files_are_not_replaced(score: Score, net: str, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "mine.csv"
    mine.parent.mkdir()
    mine.write_text("1,2")
    assert f"{mine}: is not of an artefact" in refusal(lambda: score(net, out=mine.parent))
    assert mine.read_text() == "1,2"


def test_a_dead_tracking_store_is_one_line(
    score: Score, net: str, monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    line = refusal(lambda: score(net))
    assert line.startswith("tracking store http://***@127.0.0.1:9: does not answer")
    assert not runs.exists()


# --- what the user writes -------------------------------------------------------------------------


def test_mean_and_std_are_read() -> None:
    assert parse_normalisation(None, None) is None
    assert parse_normalisation("51/255, 0.5", "1,0.25") == Normalisation(mean=(0.2, 0.5), std=(1.0, 0.25))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("0.5", None, "--mean without --std; give both"),
        (None, "0.5", "--std without --mean; give both"),
        ("0.5,0.5", "0.5", "mean has 2 values and std 1"),
        ("0.5", "0", "--std: Input should be greater than 0"),
        ("nan", "1", "--mean: Input should be a finite number"),
        ("a", "1", "--mean: 'a' is not a number"),
        ("", "1", "--mean: '' is not a number"),
        ("0.5;0.5", "1", "separate the channels by commas"),
    ],
)
def test_a_wrong_mean_or_std_is_one_line(mean: str | None, std: str | None, words: str) -> None:
    assert words in refusal(lambda: parse_normalisation(mean, std))


def test_arguments_are_read() -> None:
    assert parse_arguments(None) is None
    assert parse_arguments('{"width": 64, "name": "a"}') == {"width": 64, "name": "a"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width=64", "--arguments: not JSON"),
        ("[64]", "--arguments: a JSON list"),
        ('{"width": NaN}', "NaN is no number"),
        ("[" * 10_000, "--arguments: not JSON"),
    ],
)
def test_wrong_arguments_are_one_line(text: str, words: str) -> None:
    assert words in refusal(lambda: parse_arguments(text))
