"""What every step has in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.step import (
    check_replaceable,
    digested,
    execute,
    is_current,
    open_inputs,
    step_function,
    step_inputs,
    step_sections,
    validated_sections,
)
from components.steps import STEPS
from pipelines.local import PipelineRun
from training.artefact import open_artefact
from training.config import Factory, PipelineConfig, Student, WeightsTeacher
from training.errors import TemperError


def test_an_unknown_step_is_refused_with_the_steps_there_are() -> None:
    with pytest.raises(TemperError, match="teacher: no such step; the steps are dataset, clean_teacher"):
        step_function("teacher")


def test_a_step_reads_only_what_earlier_steps_make() -> None:
    order = list(STEPS)
    for step in STEPS:
        assert all(order.index(made) < order.index(step) for made in step_inputs(step))


def test_every_section_is_used_by_some_step() -> None:
    used = {section for step in STEPS for section in step_sections(step)}
    assert used == set(PipelineConfig.model_fields)


def test_no_step_before_evaluation_opens_the_test_side_or_knows_the_gate() -> None:
    for step in ("dataset", "clean_teacher", "teacher_cache", "adversarial_student"):
        assert not {"evaluation", "gate", "registration"} & set(step_sections(step))


def test_sections_from_kfp_validate_to_the_same_digest(tiny: Callable[..., PipelineConfig]) -> None:
    config = tiny()
    plain: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    doubles = {name: _doubled(section) for name, section in plain.items()}
    for step in STEPS:
        want = {name: getattr(config, name) for name in step_sections(step)}
        assert validated_sections(step, doubles) == want
        assert digested(validated_sections(step, doubles)) == digested(want)


def _doubled(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: _doubled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_doubled(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, r"step clean_teacher: section seed is missing from its parameters"),
        ({"seed": 0}, r"step clean_teacher: section teacher is missing"),
        ({"seed": -1, "teacher": {"name": "train"}}, r"^seed: .*greater than or equal to 0"),
        ({"seed": "x", "teacher": {"name": "train"}}, r"^seed: "),
        ({"seed": 0, "teacher": {"name": "train", "epohcs": 1}}, r"^teacher\.train\.epohcs: "),
        ({"seed": 0, "teacher": None}, r"^teacher: "),
        ({"seed": 0, "teacher": {"name": "bundle"}}, r"^teacher\.bundle\.path: "),
    ],
)
def test_parameters_of_the_wrong_type_are_one_line(params: dict[str, object], message: str) -> None:
    with pytest.raises(TemperError, match=message) as caught:
        validated_sections("clean_teacher", params)
    assert "\n" not in str(caught.value)


def test_bounds_that_stand_beside_the_type_hold_for_a_single_section() -> None:
    with pytest.raises(TemperError, match="seed"):
        validated_sections("teacher_cache", {"seed": 2**53, "cache": {}})


def test_a_place_is_not_digested() -> None:
    here, there = (
        WeightsTeacher.model_validate(
            {"name": "weights", "path": path, "architecture": {"name": "small_cnn"}}
        )
        for path in ("/a/w.safetensors", "s3://b/w.safetensors")
    )
    assert digested({"teacher": here}) == digested({"teacher": there})
    assert digested({"teacher": here})["teacher"]["name"] == "weights"  # type: ignore[index]


def test_a_factorys_own_argument_named_path_is_digested() -> None:
    def student(path: str) -> Student:
        arguments: dict[str, str | bool | int | float] = {"path": path}
        return Student(architecture=Factory(name="factory", factory="m:f", arguments=arguments))

    assert digested({"student": student("a")}) != digested({"student": student("b")})


# --- where an artefact goes -----------------------------------------------------------------------


def test_a_folder_with_somebodys_files_is_never_replaced(
    tmp_path: Path, tiny: Callable[..., PipelineConfig]
) -> None:
    precious = tmp_path / "dataset" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("five years")
    with pytest.raises(TemperError, match=r"thesis\.txt: is not of an artefact.* move it away"):
        execute("dataset", {"data": tiny().data}, {}, precious.parent)
    assert precious.read_text() == "five years"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize("text", ["{}", "not json", '{"name": "a web extension"}'])
def test_a_manifest_of_something_else_is_no_licence_to_delete(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TemperError, match=r"manifest\.json: is not of an artefact"):
        check_replaceable(tmp_path)


def test_a_file_beside_an_artefacts_own_is_kept(tiny_copy: Path) -> None:
    check_replaceable(tiny_copy / "dataset")
    (tiny_copy / "dataset" / "notes.txt").write_text("mine")
    with pytest.raises(TemperError, match=r"notes\.txt"):
        check_replaceable(tiny_copy / "dataset")


def test_an_altered_artefact_may_be_replaced(tiny_copy: Path) -> None:
    (tiny_copy / "dataset" / "snapshot.json").write_text("{}")
    (tiny_copy / "dataset" / "train_labels.npy").unlink()
    check_replaceable(tiny_copy / "dataset")


def test_nothing_and_an_empty_folder_may_be_replaced_but_not_a_file(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "missing")
    check_replaceable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TemperError, match="file: is a file, but an artefact is a folder"):
        check_replaceable(tmp_path / "file")


# --- reuse ----------------------------------------------------------------------------------------


def test_an_artefact_is_current_only_for_the_same_everything(
    tiny_run: PipelineRun, tiny: Callable[..., PipelineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tiny(), tiny_run.folder / "teacher_cache"
    sections = {"seed": config.seed, "cache": config.cache}
    inputs = open_inputs(dataset=tiny_run.folder / "dataset", clean_teacher=tiny_run.folder / "clean_teacher")
    assert is_current("teacher_cache", sections, inputs, out, threads=1)
    assert not is_current("teacher_cache", {**sections, "seed": 1}, inputs, out, threads=1)
    assert not is_current("teacher_cache", sections, inputs, out, threads=2)
    assert not is_current("teacher_cache", sections, {"dataset": inputs["dataset"]}, out, threads=1)
    assert not is_current("dataset", sections, inputs, out, threads=1)
    monkeypatch.setattr("components.step.source_digest", lambda: "another source")
    assert not is_current("teacher_cache", sections, inputs, out, threads=1)


def test_a_step_refuses_an_altered_input(tiny_copy: Path, tiny: Callable[..., PipelineConfig]) -> None:
    labels = tiny_copy / "dataset" / "train_labels.npy"
    content = bytearray(labels.read_bytes())
    content[-8] ^= 1
    labels.write_bytes(content)
    config = tiny()
    inputs = {"dataset": tiny_copy / "dataset"}
    with pytest.raises(TemperError, match=r"train_labels\.npy: altered since the snapshot was made"):
        execute("clean_teacher", {"seed": 0, "teacher": config.teacher}, inputs, tiny_copy / "clean_teacher")
    open_artefact(tiny_copy / "clean_teacher", "teacher")
