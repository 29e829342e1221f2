"""Checkpoints: whole, keyed, and refused when they are not this run's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training.checkpoint import Checkpoint
from training.errors import ArtefactError

TENSORS = {"model/a": torch.arange(6.0).view(2, 3), "model/n": torch.tensor(3), "best/a": torch.ones(1)}
PROGRESS = {"epoch": 2, "sums": {"kl": 0.1 + 0.2}, "history": []}


def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "run.safetensors", "key")
    checkpoint.save(TENSORS, PROGRESS)
    loaded = checkpoint.load()
    assert loaded is not None
    tensors, progress = loaded
    assert progress == PROGRESS
    assert set(tensors) == set(TENSORS)
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "key")
    assert checkpoint.load() is None
    checkpoint.clear()


def test_a_cleared_checkpoint_is_gone(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "key")
    checkpoint.save(TENSORS, PROGRESS)
    checkpoint.clear()
    assert checkpoint.load() is None
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces_the_whole_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "key")
    checkpoint.save(TENSORS, PROGRESS)
    checkpoint.save({"model/b": torch.zeros(2)}, {})
    loaded = checkpoint.load()
    assert loaded is not None
    assert list(loaded[0]) == ["model/b"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_failed_save_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "key")
    checkpoint.save(TENSORS, PROGRESS)

    def killed(_self: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"model/b": torch.zeros(2)}, {})
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[1] == PROGRESS


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "run.safetensors", "key").save(TENSORS, PROGRESS)
    with pytest.raises(ArtefactError, match="belongs to another run"):
        Checkpoint(tmp_path / "run.safetensors", "other").load()


@pytest.mark.parametrize("metadata", [None, {"state": "{}"}, {"state": "[]"}])
def test_a_safetensors_file_of_something_else_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file(TENSORS, tmp_path / "run.safetensors", metadata)
    with pytest.raises(ArtefactError, match="belongs to another run"):
        Checkpoint(tmp_path / "run.safetensors", "key").load()


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "key")
    checkpoint.save(TENSORS, PROGRESS)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:keep])
    with pytest.raises(ArtefactError, match="unreadable checkpoint"):
        checkpoint.load()


def test_metadata_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "run.safetensors", {"state": "{"})
    with pytest.raises(ArtefactError, match="unreadable checkpoint"):
        Checkpoint(tmp_path / "run.safetensors", "key").load()


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    weight = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).weight.detach()  # type: ignore[call-overload]
    tied = torch.ones(3, 4)
    tensors = {"strided": weight, "part": weight[:, 0], "tied": tied, "same": tied, "row": tied[1]}
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "key")
    checkpoint.save(tensors, {})
    loaded = checkpoint.load()
    assert loaded is not None
    for name, tensor in tensors.items():
        assert torch.equal(loaded[0][name], tensor)
