"""One interface, told four times: the step's signature, dvc.yaml, the kfp component, the pipeline."""

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from pydantic import BaseModel

from components.step import step_inputs, step_sections
from components.steps import STEPS
from pipelines.params import load_params, validate_params
from pipelines.robust_training import compile_pipeline, pipeline_arguments
from training.config import PipelineConfig
from training.errors import TemperError

ROOT = Path(__file__).parents[2]
TEMPLATES = ("training/robustness/report.html", "training/robustness/reporting/*.html")
PANELS = {"robustness_evaluation": ("metrics", "confusion", "robust_confusion", "report")}
CARD = "training/robustness/model_card.py"


@pytest.fixture(scope="module", name="stages")
def _stages() -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages


@pytest.fixture(scope="module", name="ir")
def _ir(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give the compiled pipeline."""
    out = tmp_path_factory.mktemp("ir") / "deep" / "pipeline.yaml"
    compile_pipeline(PipelineConfig(), out)
    documents = list(yaml.safe_load_all(out.read_text(encoding="utf-8")))
    assert len(documents) == 1
    compiled: dict[str, Any] = documents[0]
    return compiled


@pytest.fixture(scope="module", name="graph")
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("training", "components", "pipelines", cache_dir=None)


def kebab(step: str) -> str:
    return step.replace("_", "-")


def test_the_stages_are_the_steps_in_order(stages: dict[str, Any]) -> None:
    assert list(stages) == list(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_says_what_the_signature_says(stages: dict[str, Any], step: str) -> None:
    stage = stages[step]
    assert set(stage) == {"cmd", "deps", "params", "outs"}
    assert stage["cmd"] == f"temper step {step}"
    assert stage["params"] == list(step_sections(step))
    assert stage["outs"] == [f"artefacts/{step}"]
    artefacts = [name for name in stage["deps"] if name.startswith("artefacts/")]
    assert artefacts == [f"artefacts/{made}" for made in step_inputs(step)]


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_depends_on_the_modules_that_its_step_imports(
    stages: dict[str, Any], graph: grimp.ImportGraph, step: str
) -> None:
    code = [name for name in stages[step]["deps"] if not name.startswith("artefacts/")]
    module = f"components.{step}.run"
    files = {source(name) for name in graph.find_upstream_modules(module) | {module}}
    files = {name for name in files if (ROOT / name).stat().st_size}
    assert code == sorted(files | templates_of(files)), "renew the stage's deps"


def templates_of(files: set[str]) -> set[str]:
    """Give what is rendered by the modules: pages, and the model card's text."""
    found = {"training/robustness/model_card.md"} if CARD in files else set()
    if "training/robustness/report.py" in files:
        found |= {path.relative_to(ROOT).as_posix() for each in TEMPLATES for path in ROOT.glob(each)}
    return found


def source(module: str) -> str:
    path = Path(*module.split("."))
    return (path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")).as_posix()


def test_every_template_is_some_modules_dependency() -> None:
    found = [*(ROOT / "training").rglob("*.html"), *(ROOT / "training").rglob("*.md")]
    templates = {path.relative_to(ROOT).as_posix() for path in found}
    assert templates == templates_of({CARD, "training/robustness/report.py"})


@pytest.mark.parametrize("step", STEPS)
def test_a_component_takes_what_the_signature_says(ir: dict[str, Any], step: str) -> None:
    component = getattr(importlib.import_module(f"components.{step}.component"), step)
    assert list(component.component_spec.inputs) == [*step_sections(step), *step_inputs(step)]
    assert list(component.component_spec.outputs) == ["out", *PANELS.get(step, ())]
    definitions = ir["components"][f"comp-{kebab(step)}"]["inputDefinitions"]
    types = {name: field["parameterType"] for name, field in definitions["parameters"].items()}
    assert types == {name: "NUMBER_INTEGER" if name == "seed" else "STRUCT" for name in step_sections(step)}
    assert set(definitions.get("artifacts", {})) == set(step_inputs(step))


@pytest.mark.parametrize("step", STEPS)
def test_a_component_hands_everything_to_the_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    class Artefact:
        def __init__(self, name: str) -> None:
            self.path = str(tmp_path / name)

    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr("components.entry.enter", lambda *given: seen.append(given))
    shown: list[tuple[object, ...]] = []
    panels = "components.robustness_evaluation.panels.show_evaluation"
    monkeypatch.setattr(panels, lambda *given: shown.append(given))
    component = getattr(importlib.import_module(f"components.{step}.component"), step)
    sections = {name: {"section": name} for name in step_sections(step)}
    artefacts = {name: Artefact(name) for name in (*step_inputs(step), "out", *PANELS.get(step, ()))}
    component.python_func(**sections, **artefacts)
    drawn = [artefacts[name] for name in PANELS.get(step, ())]
    assert shown == ([(tmp_path / "out", *drawn)] if drawn else [])
    inputs = {name: str(tmp_path / name) for name in step_inputs(step)}
    assert seen == [(step, sections, inputs, str(tmp_path / "out"))]


def test_the_pipelines_parameters_are_the_sections(ir: dict[str, Any]) -> None:
    assert set(ir["root"]["inputDefinitions"]["parameters"]) == set(PipelineConfig.model_fields)


@pytest.mark.parametrize("step", STEPS)
def test_the_pipeline_wires_each_input_to_the_step_of_its_name(ir: dict[str, Any], step: str) -> None:
    tasks = ir["root"]["dag"]["tasks"]
    assert set(tasks) == {kebab(name) for name in STEPS}
    inputs = tasks[kebab(step)].get("inputs", {})
    for name, value in inputs.get("parameters", {}).items():
        assert value == {"componentInputParameter": name}
    producers = {
        name: value["taskOutputArtifact"]["producerTask"]
        for name, value in inputs.get("artifacts", {}).items()
    }
    assert producers == {name: kebab(name) for name in step_inputs(step)}
    assert "triggerPolicy" not in tasks[kebab(step)]


def test_components_install_nothing_when_they_start(ir: dict[str, Any]) -> None:
    for executor in ir["deploymentSpec"]["executors"].values():
        assert executor["container"]["image"] == "temper-worker:latest"
        assert "pip install" not in " ".join(executor["container"]["command"])


# --- the configuration through kfp ----------------------------------------------------------------


def defaults(compiled: dict[str, Any]) -> dict[str, Any]:
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    return {name: parameter["defaultValue"] for name, parameter in parameters.items()}


def test_the_compiled_pipeline_carries_the_configuration(ir: dict[str, Any]) -> None:
    assert validate_params(defaults(ir)) == PipelineConfig()


def test_an_unusual_configuration_comes_back_the_same(
    tmp_path: Path, tiny: Callable[..., PipelineConfig]
) -> None:
    config = tiny(
        "seed=9007199254740991",
        "threat_model={norm: L2, epsilon: 8/255}",
        "student.ema_decay=0.999",
        "student.architecture={name: factory, factory: 'm:f', arguments: {a: 3, b: true, c: '1/2', d: 0.5}}",
        "data.source={name: image-folder, path: 's3://b/ü', size: [8, 9]}",
        "data.limits.train=500",
        "gate.rules=[]",
        "evaluation.examples=7",
    )
    compile_pipeline(config, tmp_path / "pipeline.yaml")
    compiled = yaml.safe_load((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))
    assert validate_params(defaults(compiled)) == config
    assert validate_params(pipeline_arguments(config)) == config


def test_a_null_that_kfp_drops_is_every_such_fields_default() -> None:
    fields = list(itertools.chain.from_iterable(optional_fields(PipelineConfig)))
    assert ("Limits", "train") in fields
    assert ("WeightsTeacher", "normalisation") in fields


def optional_fields(section: type[BaseModel]) -> list[list[tuple[str, str]]]:
    found = []
    for model in models(section):
        nullable = [name for name, field in model.model_fields.items() if accepts_none(field.annotation)]
        for name in nullable:
            field = model.model_fields[name]
            assert not field.is_required(), (model, name)
            assert field.get_default(call_default_factory=True, validated_data={}) is None, (model, name)
        found.append([(model.__name__, name) for name in nullable])
    return found


def models(annotation: Any) -> set[type[BaseModel]]:  # noqa: ANN401 - any annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = (models(field.annotation) for field in annotation.model_fields.values())
        return {annotation}.union(*inner)
    return set().union(*(models(part) for part in getattr(annotation, "__args__", ())))


def accepts_none(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    return type(None) in getattr(annotation, "__args__", ())


def test_params_yaml_is_the_complete_default_configuration() -> None:
    assert load_params(ROOT / "params.yaml") == PipelineConfig()
    written = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert keys(written) == keys(PipelineConfig().model_dump(mode="json"))


def keys(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    return [keys(item) for item in value] if isinstance(value, list) else None


@pytest.mark.parametrize("name", ["pipeline.json", "pipeline", "pipeline.yml"])
def test_a_compiled_pipeline_ends_with_yaml(tmp_path: Path, name: str) -> None:
    with pytest.raises(TemperError, match=r"give a name that ends with \.yaml"):
        compile_pipeline(PipelineConfig(), tmp_path / name)
