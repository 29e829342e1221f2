"""Any model is loaded or refused in one line: bundles, MLflow models of every reference, users' modules."""

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow.pytorch
import mlflow.sklearn
import numpy as np
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from safetensors.torch import save_file
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from components.robustness_evaluation.loaded import LoadedModel, digest_model
from components.robustness_evaluation.subject import load_subject_model
from components.tracking import connect, experiment_id
from pipelines.local import PipelineRun
from training.artefact import write_json
from training.bundle import load_bundle, read_info, save_bundle
from training.config import Normalisation, SmallCnn
from training.errors import TemperError
from training.models.classifier import build_classifier

MODULE = """
import torch
from torch import nn


def build(width=8, seedless=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.norm(x).flatten(1))


ready = Net()
number = 3


def fails():
    raise ValueError("no such luck\\nand more")


def leaves():
    raise SystemExit(3)


def lazy():
    return nn.LazyLinear(10)


def nan():
    net = build()
    nn.init.constant_(net[1].bias, float("nan"))
    return net


def nothing():
    return None
"""

Load = Callable[..., LoadedModel]


@pytest.fixture(name="load")
def _load(tmp_path: Path) -> Load:
    return lambda reference, **options: load_subject_model(
        str(reference), state=tmp_path / "state", **options
    )


@pytest.fixture(name="own", autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put a module of the user's on the import path."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_nets.py").write_text(MODULE)
    (folder / "own_broken.py").write_text("def (")
    (folder / "own_needy.py").write_text("import not_installed_here")
    monkeypatch.syspath_prepend(str(folder))
    yield "own_nets"
    for name in ("own_nets", "own_broken", "own_needy"):
        sys.modules.pop(name, None)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(TemperError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable(), line
    return line


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    return model.eval()


def save_graph(
    folder: Path, shape: tuple[int, ...] = (-1, 1, 8, 8), dtype: type = np.float32, **options: object
) -> Path:
    """Save an MLflow model as the exported graph of a small network that fits the shape."""
    count = abs(int(np.prod(shape[1:])))
    model = nn.Sequential(nn.Flatten(), nn.Linear(count, 10)).eval()
    example: np.ndarray = np.zeros([abs(size) + (size == -1) for size in shape], dtype=dtype)
    model = model.to(torch.from_numpy(example).dtype)
    given = options.pop("model", model)
    signature = ModelSignature(Schema([TensorSpec(np.dtype(dtype), shape)]))
    with quietly():
        mlflow.pytorch.save_model(
            given,
            str(folder),
            serialization_format="pt2",
            input_example=example,
            signature=signature,
            pip_requirements=["torch"],
            **options,
        )
    return folder


# --- bundles --------------------------------------------------------------------------------------


def test_a_bundle_is_loaded_with_its_own_digest(load: Load, tiny_run: PipelineRun) -> None:
    folder = tiny_run.folder / "adversarial_student"
    loaded = load(folder)
    assert loaded.digest == read_info(folder).digest
    assert loaded.shape == (8, 8, 1)
    assert loaded.class_names == tuple("0123456789")
    assert "bundle of small_resnet" in loaded.description
    assert not any(module.training for module in loaded.model.modules())


def test_an_altered_bundle_is_refused(load: Load, tiny_copy: Path) -> None:
    description = tiny_copy / "clean_teacher" / "model.json"
    description.write_text(description.read_text().replace('"width": 4', '"width": 8'))
    assert "altered since the bundle was made" in refusal(lambda: load(tiny_copy / "clean_teacher"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": Path("x.safetensors")}, "--weights goes with module:factory only"),
        ({"arguments": {}}, "--arguments goes with module:factory only"),
        ({"normalisation": Normalisation(mean=(0.5,), std=(0.5,))}, "leave out --mean and --std"),
    ],
)
def test_a_bundle_takes_no_options(
    load: Load, tiny_run: PipelineRun, options: dict[str, object], words: str
) -> None:
    assert words in refusal(lambda: load(tiny_run.folder / "adversarial_student", **options))


# --- MLflow references ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["models:/tiny/{version}", "models:/tiny@challenger"])
def test_a_registered_student_is_loaded_from_its_bundle(load: Load, tiny_run: PipelineRun, form: str) -> None:
    version = json.loads((tiny_run.folder / "registration" / "registered.json").read_text())["version"]
    loaded = load(form.format(version=version))
    assert loaded.digest == read_info(tiny_run.folder / "adversarial_student").digest
    assert loaded.class_names == tuple("0123456789")
    assert loaded.description.startswith("models:/tiny")


def test_a_run_s_bundle_and_a_logged_model_are_loaded(load: Load, tiny_run: PipelineRun) -> None:
    registered = json.loads((tiny_run.folder / "registration" / "registered.json").read_text())
    loaded = load(f"runs:/{registered['run_id']}/student")
    assert loaded.digest == read_info(tiny_run.folder / "adversarial_student").digest
    client = connect()
    source = str(client.get_model_version("tiny", str(registered["version"])).source)
    student, _ = load_bundle(tiny_run.folder / "adversarial_student")
    for reference in (source, source.removeprefix("models:/"), f"runs:/{registered['run_id']}/model"):
        graph = load(reference)
        assert "exported graph" in graph.description
        assert graph.shape == (8, 8, 1)
        assert graph.class_names is None
        with torch.no_grad():
            assert torch.allclose(graph.model(images()), student(images()), atol=1e-5)


def test_a_version_whose_bundle_is_another_is_refused(
    load: Load, tiny_run: PipelineRun, tmp_path: Path
) -> None:
    registered = json.loads((tiny_run.folder / "registration" / "registered.json").read_text())
    client = connect()
    version = client.get_model_version("tiny", str(registered["version"]))
    source, run_id = str(version.source), version.run_id
    client.create_registered_model("other")
    version = client.create_model_version("other", source, run_id=run_id)
    assert "exported graph" in load(f"models:/other/{version.version}").description
    client.set_model_version_tag("other", version.version, "temper.digest.model", "0" * 64)
    line = refusal(lambda: load(f"models:/other/{version.version}"))
    assert "is not the one that the version was registered with" in line
    run = client.create_run(experiment_id(client)).info.run_id
    bare = client.create_model_version("other", source, run_id=run)
    client.set_model_version_tag("other", bare.version, "temper.digest.model", "0" * 64)
    assert "exported graph" in load(f"models:/other/{bare.version}").description
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("models:/nowhere/1", "Model Version (name=nowhere, version=1) not found"),
        ("models:/tiny/999", "version=999) not found"),
        ("models:/tiny@nobody", "alias nobody not found"),
        ("models:/m-0000", "m-0000"),
        ("m-0000", "models:/m-0000"),
        ("runs:/0000/model", "0000"),
        ("models:/tiny/latest", "give models:/NAME/VERSION, models:/NAME@ALIAS"),
        ("models:/tiny", "not a reference to one model"),
        ("runs:/0000", "not a reference to one model"),
    ],
)
def test_an_unknown_reference_is_one_line(
    load: Load, tiny_run: PipelineRun, reference: str, words: str
) -> None:
    assert tiny_run.folder.is_dir()
    assert words in refusal(lambda: load(reference))


def test_a_dead_server_is_one_line_without_its_password(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    line = refusal(lambda: load("models:/tiny/1"))
    assert line.startswith("tracking store http://***@127.0.0.1:9: does not answer")
    assert "hunter2" not in line


# --- MLflow folders -------------------------------------------------------------------------------


def test_an_exported_graph_has_gradients_a_shape_and_an_eval_mode(load: Load, tmp_path: Path) -> None:
    model = net()
    loaded = load(save_graph(tmp_path / "graph", model=model))
    assert loaded.shape == (8, 8, 1)
    loaded.model.eval()
    loaded.model.train()
    assert not loaded.model.training
    x = images().requires_grad_()
    logits = loaded.model(x)
    assert torch.allclose(logits, model(x), atol=1e-6)
    (ours,) = torch.autograd.grad(logits.sum(), x)
    (theirs,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_stated_normalisation_stands_before_a_graph(load: Load, tmp_path: Path) -> None:
    folder = save_graph(tmp_path / "graph", model=net())
    plain, normalised = load(folder), load(folder, normalisation=Normalisation(mean=(0.5,), std=(0.25,)))
    with torch.no_grad():
        expected = plain.model((images() - 0.5) / 0.25)
        assert torch.allclose(normalised.model.eval()(images()), expected, atol=1e-6)
    assert plain.digest != normalised.digest


def test_equal_graphs_have_equal_digests(load: Load, tmp_path: Path) -> None:
    model = net()
    first = load(save_graph(tmp_path / "first", model=model)).digest
    assert load(save_graph(tmp_path / "second", model=model)).digest == first
    with torch.no_grad():
        model[3].bias[0] += 1e-6  # type: ignore[index]
    assert load(save_graph(tmp_path / "third", model=model)).digest != first
    activated = nn.Sequential(model, nn.ReLU()).eval()
    assert load(save_graph(tmp_path / "fourth", model=activated)).digest != first


def test_a_model_s_own_code_is_never_imported(load: Load, tmp_path: Path) -> None:
    code = tmp_path / "shipped"
    code.mkdir()
    (code / "shipped_with_the_model.py").write_text("raise SystemExit('imported')")
    folder = save_graph(tmp_path / "graph", code_paths=[str(code)])
    before = list(sys.path)
    load(folder)
    assert sys.path == before
    assert (folder / "code").is_dir()


@pytest.mark.parametrize("allowed", ["true", "false"])
def test_a_pickled_model_is_refused_whatever_is_allowed(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", allowed)
    with quietly():
        mlflow.pytorch.save_model(
            net(), str(tmp_path / "model"), serialization_format="pickle", pip_requirements=["torch"]
        )
    line = refusal(lambda: load(tmp_path / "model"))
    assert "is pickled, and nothing is ever unpickled here" in line
    assert "serialization_format='pt2'" in line
    folder = save_graph(tmp_path / "graph")
    (folder / "data" / "model.pt2").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "cannot be loaded" in refusal(lambda: load(folder))
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == allowed


def test_another_flavour_is_refused(load: Load, tmp_path: Path) -> None:
    with quietly():
        tree = DecisionTreeClassifier()  # type: ignore[no-untyped-call]
        mlflow.sklearn.save_model(
            tree.fit([[0], [1]], [0, 1]),
            str(tmp_path / "tree"),
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    assert "flavour python_function, sklearn; attacks need a PyTorch model" in refusal(
        lambda: load(tmp_path / "tree")
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((2, 1, 8, 8), np.float32, "takes batches of 2 only"),
        ((-1, 8, 8, 3), np.float32, "takes channels last, (-1, 8, 8, 3)"),
        ((-1, 64), np.float32, "takes float32 of shape (-1, 64)"),
        ((-1, 1, 8, 8), np.float64, "takes float64 of shape (-1, 1, 8, 8)"),
    ],
)
def test_another_signature_is_refused(
    load: Load, tmp_path: Path, shape: tuple[int, ...], dtype: type, words: str
) -> None:
    assert words in refusal(lambda: load(save_graph(tmp_path / "graph", shape, dtype)))


def test_a_damaged_description_is_one_line(load: Load, tmp_path: Path) -> None:
    folder = save_graph(tmp_path / "graph")
    for content in ("", "flavors: [", "{}", "flavors: {pytorch: {}}"):
        (folder / "MLmodel").write_text(content)
        assert "graph" in refusal(lambda: load(folder))


# --- other paths ----------------------------------------------------------------------------------


def test_what_is_no_model_is_one_line(load: Load, tiny_run: PipelineRun, tmp_path: Path) -> None:
    assert "no such folder and no reference to a model; give a bundle's folder" in refusal(
        lambda: load(tmp_path / "nowhere")
    )
    assert "empty reference" in refusal(lambda: load(""))
    assert "neither a bundle (model.json is missing) nor an MLflow model" in refusal(lambda: load(tmp_path))
    line = refusal(lambda: load(tiny_run.folder))
    assert "holds 2 bundles; give one, such as" in line
    assert line.endswith("/adversarial_student")
    (tmp_path / "weights.pth").write_bytes(b"")
    assert "write the weights as safetensors" in refusal(lambda: load(tmp_path / "weights.pth"))
    assert "hunter2" not in refusal(lambda: load("ftp://me:hunter2@host/model"))


def test_a_file_uri_is_a_path(load: Load, tiny_run: PipelineRun) -> None:
    folder = tiny_run.folder / "adversarial_student"
    assert load(f"file://{folder}").digest == load(folder).digest


# --- module:factory -------------------------------------------------------------------------------


def test_a_factory_a_class_and_a_module_are_loaded(load: Load, own: str) -> None:
    for name in ("build", "Net", "ready"):
        loaded = load(f"{own}:{name}")
        assert loaded.description == f"{own}:{name}"
        assert loaded.model(images()).shape == (3, 10)
        assert not any(module.training for module in loaded.model.modules())


def test_the_digest_tells_models_apart_and_repeats(load: Load, own: str, tmp_path: Path) -> None:
    digests = {
        "plain": load(f"{own}:build").digest,
        "arguments": load(f"{own}:build", arguments={"seedless": False}).digest,
        "width": load(f"{own}:build", arguments={"width": 4}).digest,
        "normalised": load(f"{own}:build", normalisation=Normalisation(mean=(0.5,), std=(1.0,))).digest,
        "weights": load(f"{own}:build", weights=_weights(tmp_path, load(f"{own}:build").model)).digest,
    }
    assert len(set(digests.values())) == len(digests)
    torch.rand(1)
    assert load(f"{own}:build").digest == digests["plain"]


def _weights(folder: Path, model: nn.Module, change: float = 1.0) -> Path:
    path = folder / "weights.safetensors"
    save_file({name: (tensor + change).contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def test_weights_are_loaded_and_normalisation_stands_before(load: Load, own: str, tmp_path: Path) -> None:
    path = _weights(tmp_path, load(f"{own}:build").model)
    weighted = load(f"{own}:build", weights=path)
    assert weighted.description == f"{own}:build with weights weights.safetensors"
    normalised = load(f"{own}:build", weights=path, normalisation=Normalisation(mean=(0.5,), std=(0.5,)))
    with torch.no_grad():
        assert torch.equal(normalised.model(images()), weighted.model((images() - 0.5) / 0.5))


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("not_there:build", "No module named 'not_there'; install the package or put its folder on"),
        ("own_needy:build", "No module named 'not_installed_here'"),
        ("own_broken:build", "importing own_broken raised SyntaxError"),
        ("own_nets:nobody", "module own_nets has no nobody"),
        ("own_nets:number", "is a int; name a torch module"),
        ("own_nets:nothing", "returned a NoneType, but a torch module is needed"),
        ("own_nets:fails", "called without arguments, it raised ValueError: no such luck; give"),
        ("own_nets:leaves", "raised SystemExit: 3"),
        ("own_nets:lazy", "tensor weight has no shape yet"),
        ("own_nets:nan", "tensor 1.bias holds NaN or infinity"),
    ],
)
def test_a_wrong_module_is_one_line(load: Load, reference: str, words: str) -> None:
    assert words in refusal(lambda: load(reference))


def test_wrong_arguments_are_one_line(load: Load, own: str) -> None:
    line = refusal(lambda: load(f"{own}:build", arguments={"depth": 3}))
    assert "called with depth, it raised TypeError" in line
    assert "leave out --arguments" in refusal(lambda: load(f"{own}:ready", arguments={"width": 3}))


def test_wrong_weights_are_one_line(load: Load, own: str, tmp_path: Path) -> None:
    build, path = f"{own}:build", tmp_path / "weights.safetensors"
    model = load(build).model
    assert "no such file; correct --weights" in refusal(lambda: load(build, weights=tmp_path / "none"))
    _weights(tmp_path, model, float("nan"))
    assert "weights.safetensors: tensor 1.weight holds NaN" in refusal(lambda: load(build, weights=path))
    _weights(tmp_path, load(build, arguments={"width": 4}).model)
    assert "does not fit own_nets:build: size mismatch for 1.weight" in refusal(
        lambda: load(build, weights=path)
    )
    save_file({"other": torch.zeros(1)}, path)
    assert "does not fit own_nets:build: Missing key(s)" in refusal(lambda: load(build, weights=path))
    path.write_bytes(b"none")
    assert "not a readable safetensors file" in refusal(lambda: load(build, weights=path))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    line = refusal(lambda: load(build, weights=tmp_path / "weights.pth"))
    assert "(pickled, and nothing is ever unpickled here); write it with safetensors" in line


# --- digests --------------------------------------------------------------------------------------


def test_the_digest_counts_names_types_shapes_values_and_unsaved_buffers() -> None:
    def model(value: float = 1.0, shape: tuple[int, ...] = (2, 3), dtype: torch.dtype = torch.float32) -> str:
        module = nn.Module()
        module.register_buffer("kept", torch.full(shape, value, dtype=dtype), persistent=False)
        module.register_buffer("scalar", torch.tensor(1))
        return digest_model(module, {})

    digests = [model(), model(2.0), model(shape=(3, 2)), model(dtype=torch.bfloat16)]
    assert len(set(digests)) == 4
    assert model() == digests[0]
    assert digest_model(nn.Module(), {}) != digest_model(nn.Module(), {"a": 1})


def test_a_bundle_of_its_own_shape_is_told(load: Load, tmp_path: Path) -> None:
    architecture = SmallCnn(name="small_cnn", width=2)
    shape, names = (6, 7, 3), ("cat", "dog")
    classifier = build_classifier(architecture, shape=shape, classes=2, normalisation=None, seed=0)
    folder = tmp_path / "bundle"
    folder.mkdir()
    save_bundle(
        folder, classifier, architecture=architecture, normalisation=None, class_names=names, shape=shape
    )
    loaded = load(folder)
    assert (loaded.shape, loaded.class_names) == (shape, names)
    write_json(folder / "model.json", {})
    assert "not a bundle's description" in refusal(lambda: load(folder))
