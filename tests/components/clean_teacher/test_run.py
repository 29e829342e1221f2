"""The clean teacher: trained, or an existing model reused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.step import execute
from pipelines.local import PipelineRun
from training.artefact import Manifest, open_artefact
from training.bundle import MODEL, WEIGHTS, load_bundle, read_info, save_bundle
from training.config import PipelineConfig, SmallCnn
from training.errors import TemperError
from training.models.classifier import build_classifier

Reuse: TypeAlias = Callable[..., Manifest]


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(name="reuse")
def _reuse(tiny_run: PipelineRun, out: Path) -> Reuse:
    def reuse(**teacher: object) -> Manifest:
        inputs = {"dataset": tiny_run.folder / "dataset"}
        return execute("clean_teacher", {"seed": 0, "teacher": teacher}, inputs, out)

    return reuse


@pytest.fixture(name="bundle")
def _bundle(tiny_run: PipelineRun, tmp_path: Path) -> Path:
    """Give a bundle as another team hands it over: without a manifest."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in (MODEL, WEIGHTS):
        shutil.copy(tiny_run.folder / "clean_teacher" / name, folder)
    return folder


def test_a_trained_teacher_tells_its_history(
    tiny_run: PipelineRun, tiny: Callable[..., PipelineConfig]
) -> None:
    history = json.loads((tiny_run.folder / "clean_teacher" / "history.json").read_bytes())
    assert len(history["epochs"]) == 3
    assert history["epochs"][history["selected_epoch"]]["natural"] > 0.5
    manifest = open_artefact(tiny_run.folder / "clean_teacher", "teacher")
    assert manifest.inputs == {"dataset": tiny_run.manifests["dataset"].digest}
    assert set(manifest.config) == {"seed", "teacher"}
    assert tiny().seed == manifest.config["seed"]


def test_no_checkpoint_is_left_when_a_step_is_done(tiny_run: PipelineRun) -> None:
    folder = tiny_run.folder.parent / "state" / "checkpoints"
    assert list(folder.iterdir()) == []


def test_a_bundle_is_reused_whatever_its_path(
    reuse: Reuse, bundle: Path, out: Path, tmp_path: Path, tiny_run: PipelineRun
) -> None:
    first = reuse(name="bundle", path=str(bundle))
    assert read_info(out) == read_info(tiny_run.folder / "clean_teacher")
    assert not (out / "history.json").exists()
    moved = shutil.move(bundle, tmp_path / "moved")
    assert reuse(name="bundle", path=str(moved)).digest == first.digest


def test_weights_and_an_architecture_are_reused_whatever_their_path(
    reuse: Reuse, bundle: Path, out: Path, tmp_path: Path
) -> None:
    described = read_info(bundle).model_dump(mode="json")
    given = {"architecture": described["architecture"], "normalisation": described["normalisation"]}
    first = reuse(name="weights", path=str(bundle / WEIGHTS), **given)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_bundle(out)[0](images), load_bundle(bundle)[0](images))
    moved = shutil.copy(bundle / WEIGHTS, tmp_path / "other.safetensors")
    assert reuse(name="weights", path=str(moved), **given).digest == first.digest


def test_weights_without_normalisation_take_pixels(reuse: Reuse, bundle: Path, out: Path) -> None:
    architecture = read_info(bundle).model_dump(mode="json")["architecture"]
    reuse(name="weights", path=str(bundle / WEIGHTS), architecture=architecture)
    assert read_info(out).normalisation is None


def model(folder: Path, classes: int, shape: tuple[int, int, int], names: tuple[str, ...]) -> Path:
    architecture = SmallCnn(name="small_cnn", width=4)
    classifier = build_classifier(architecture, shape=shape, classes=classes, normalisation=None, seed=0)
    folder.mkdir()
    save_bundle(
        folder, classifier, architecture=architecture, normalisation=None, class_names=names, shape=shape
    )
    return folder


DIGITS = tuple(str(digit) for digit in range(10))


@pytest.mark.parametrize(
    ("classes", "shape", "names"),
    [
        (9, (8, 8, 1), DIGITS[:9]),
        (10, (8, 8, 1), tuple(reversed(DIGITS))),
        (10, (8, 8, 3), DIGITS),
        (10, (16, 16, 1), DIGITS),
    ],
)
def test_a_bundle_for_other_data_is_refused(
    reuse: Reuse, out: Path, tmp_path: Path, classes: int, shape: tuple[int, int, int], names: tuple[str, ...]
) -> None:
    with pytest.raises(TemperError, match=r"give a teacher for this data") as caught:
        reuse(name="bundle", path=str(model(tmp_path / "other", classes, shape, names)))
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_weights_of_another_architecture_or_for_other_classes_are_refused(
    reuse: Reuse, bundle: Path, out: Path, tmp_path: Path
) -> None:
    other = model(tmp_path / "other", 9, (8, 8, 1), DIGITS[:9])
    for path in (bundle, other):
        with pytest.raises(TemperError, match="does not fit architecture small_cnn") as caught:
            reuse(
                name="weights",
                path=str(path / WEIGHTS),
                architecture={"name": "small_cnn", "width": 4},
            )
        assert "\n" not in str(caught.value)
    assert not out.exists()


def test_an_altered_bundle_is_refused(reuse: Reuse, bundle: Path, out: Path) -> None:
    state = load_file(bundle / WEIGHTS)
    name = next(iter(state))
    save_file({**state, name: state[name] + 1}, bundle / WEIGHTS)
    with pytest.raises(TemperError, match="altered since the bundle was made"):
        reuse(name="bundle", path=str(bundle))
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "words"), [("missing", "no such file"), ("empty", "missing; a bundle is a folder")]
)
def test_a_bundle_that_is_not_there_is_one_line(
    reuse: Reuse, out: Path, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TemperError, match=words):
        reuse(name="bundle", path=str(tmp_path / name))
    assert not out.exists()
