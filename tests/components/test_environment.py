"""What the environment decides."""

import os
from pathlib import Path

import pytest
import torch

from components.environment import configure_compute, state_folder, tracking_uri
from training.errors import TemperError


def test_the_state_folder_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPER_STATE", "here")
    assert state_folder() == tmp_path / "here"


@pytest.mark.parametrize("empty", [True, False])
def test_unset_and_empty_mean_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, empty: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TEMPER_STATE", "TEMPER_THREADS", "TEMPER_DEVICE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
        if empty:
            monkeypatch.setenv(name, "")
    assert state_folder() == tmp_path / ".temper"
    assert tracking_uri() == f"sqlite:///{tmp_path}/.temper/mlflow.db"
    assert configure_compute().threads == len(os.sched_getaffinity(0))


def test_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_THREADS", "1")
    assert configure_compute().threads == 1
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²", " ", "9" * 30, "100000"])
def test_a_thread_count_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TEMPER_THREADS", text)
    with pytest.raises(TemperError, match=r"TEMPER_THREADS=.*set a whole number"):
        configure_compute()


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DEVICE", "gpu")
    with pytest.raises(TemperError, match="TEMPER_DEVICE=gpu: unknown device; set auto, cpu or cuda"):
        configure_compute()


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TemperError, match="torch finds no CUDA device"):
        configure_compute()
    monkeypatch.setenv("TEMPER_DEVICE", "auto")
    assert configure_compute().device == torch.device("cpu")
