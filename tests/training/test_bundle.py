"""Bundles: the same model again bit by bit, and no code ever runs from one."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.artefact import digest_file, digest_json
from training.bundle import (
    MODEL,
    WEIGHTS,
    ModelInfo,
    classifier_from_weights,
    load_bundle,
    read_info,
    save_bundle,
)
from training.config import (
    Architecture,
    Factory,
    Normalisation,
    PreactResnet18,
    SmallCnn,
    SmallResnet,
    WideResnet,
)
from training.errors import ArtefactError
from training.models.classifier import Classifier, build_classifier

SHAPE = (8, 8, 1)
NAMES = ("a", "b", "c")
NORMALISATION = Normalisation(mean=(0.3,), std=(0.37,))
SMALL = SmallCnn(name="small_cnn", width=4)
BUILT_IN: list[Architecture] = [
    SMALL,
    SmallResnet(width=4),
    PreactResnet18(name="preact_resnet18", width=4),
    WideResnet(name="wide_resnet", depth=10, width=1),
]


def built(architecture: Architecture) -> Classifier:
    model = build_classifier(architecture, shape=SHAPE, classes=3, normalisation=NORMALISATION, seed=1)
    with torch.no_grad():
        model(torch.rand(8, 1, 8, 8))  # BatchNorm's statistics and counters are no longer fresh
    return model


def save(folder: Path, model: Classifier, architecture: Architecture) -> ModelInfo:
    return save_bundle(
        folder,
        model,
        architecture=architecture,
        normalisation=NORMALISATION,
        class_names=NAMES,
        shape=SHAPE,
    )


def weights(path: Path, architecture: Architecture = SMALL) -> Classifier:
    return classifier_from_weights(
        path, architecture=architecture, normalisation=None, shape=SHAPE, classes=3
    )


def seal_again(folder: Path) -> None:
    """Make the digests fit whatever the folder holds now, as someone who forges a bundle would."""
    plain = json.loads((folder / MODEL).read_text())
    plain.pop("digest")
    plain["weights_sha256"] = digest_file(folder / WEIGHTS)
    (folder / MODEL).write_text(json.dumps({**plain, "digest": digest_json(plain)}))


def assert_same(first: Classifier, second: Classifier) -> None:
    state, other = first.state_dict(), second.state_dict()
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("architecture", BUILT_IN, ids=lambda section: section.name)
def test_a_model_comes_back_bit_by_bit(tmp_path: Path, architecture: Architecture) -> None:
    model = built(architecture)
    info = save(tmp_path, model, architecture)
    loaded, described = load_bundle(tmp_path)
    assert described == info
    assert not any(module.training for module in loaded.modules())
    assert_same(model, loaded)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), loaded(x))


def test_tied_weights_come_back_tied(tmp_path: Path, networks: str) -> None:
    architecture = Factory(name="factory", factory=f"{networks}:Tied")
    model = built(architecture)
    save(tmp_path, model, architecture)
    loaded, info = load_bundle(tmp_path)
    assert_same(model, loaded)
    pairs = loaded.network.get_submodule("encode").weight, loaded.network.get_submodule("decode").weight
    assert pairs[0] is pairs[1]
    assert info.parameters == 64 * 64 + 2 * 64 + 64 * 3 + 3


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = (save(tmp_path / name, built(SMALL), SMALL) for name in ("1", "2"))
    assert first.digest == second.digest
    for file in (MODEL, WEIGHTS):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path, built(SMALL), SMALL)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(ArtefactError, match=r"weights\.safetensors: altered"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("class_names", ["a", "b", "x"]), ("shape", [8, 8, 3]), ("parameters", 1), ("normalisation", None)],
)
def test_an_altered_description_is_refused(tmp_path: Path, field: str, value: object) -> None:
    save(tmp_path, built(SMALL), SMALL)
    plain = json.loads((tmp_path / MODEL).read_text())
    (tmp_path / MODEL).write_text(json.dumps({**plain, field: value}))
    with pytest.raises(ArtefactError, match=r"model\.json: altered"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '"text"', "{", '{"digest": 1}', "\x00", "[" * 100_000]
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path, built(SMALL), SMALL)
    (tmp_path / MODEL).write_text(text)
    with pytest.raises(ArtefactError, match=r"model\.json: not a "):
        read_info(tmp_path)


def test_a_description_of_another_version_is_refused(tmp_path: Path) -> None:
    save(tmp_path, built(SMALL), SMALL)
    plain = json.loads((tmp_path / MODEL).read_text())
    (tmp_path / MODEL).write_text(json.dumps({**plain, "schema_version": 2}))
    with pytest.raises(ArtefactError, match="schema_version"):
        read_info(tmp_path)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path, built(SMALL), SMALL)
    (tmp_path / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name}: missing"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_even_with_fitting_digests(
    tmp_path: Path, bad: float
) -> None:
    model = built(SMALL)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = bad
    save(tmp_path, model, SMALL)
    with pytest.raises(ArtefactError, match="holds NaN or infinity"):
        load_bundle(tmp_path)


def test_weights_that_overflow_when_loaded_are_refused(tmp_path: Path) -> None:
    state = {name: value.double().contiguous() for name, value in built(SMALL).network.state_dict().items()}
    state["head.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ArtefactError, match=r"head\.bias holds NaN or infinity"):
        weights(tmp_path / "w.safetensors")


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, built(SMALL), SMALL)
    with pytest.raises(ArtefactError, match=r"does not fit architecture small_resnet: .*Missing key"):
        weights(tmp_path / WEIGHTS, SmallResnet(width=4))
    with pytest.raises(ArtefactError, match=r"does not fit architecture small_cnn: .*size mismatch"):
        weights(tmp_path / WEIGHTS, SmallCnn(name="small_cnn", width=8))


def test_the_networks_own_names_load_without_a_description(tmp_path: Path) -> None:
    model = built(SMALL)
    save(tmp_path, model, SMALL)
    assert set(load_file(tmp_path / WEIGHTS)) == set(model.network.state_dict())
    assert_same(model, weights(tmp_path / WEIGHTS))


class Bomb:
    """Pickled, it creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_in_place_of_weights_is_refused_and_never_unpickled(tmp_path: Path, protocol: int) -> None:
    target, bundle = tmp_path / "ran", tmp_path / "bundle"
    bundle.mkdir()
    save(bundle, built(SMALL), SMALL)
    bomb = pickle.dumps(Bomb(target), protocol=protocol)
    (bundle / WEIGHTS).write_bytes(bomb)
    seal_again(bundle)
    with pytest.raises(ArtefactError, match="not a readable safetensors file"):
        load_bundle(bundle)
    assert not target.exists()
    pickle.loads(bomb)  # noqa: S301 - the proof that it would have run
    assert target.exists()


def test_a_torch_file_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    torch.save(built(SMALL).network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ArtefactError, match="not a readable safetensors file"):
        weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    save(tmp_path, built(SMALL), SMALL)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtefactError, match="not a readable safetensors file"):
        weights(path)
    with pytest.raises(ArtefactError, match="altered"):
        load_bundle(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not a readable safetensors file"):
        weights(tmp_path / "absent.safetensors")
