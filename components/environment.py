"""Where Temper runs: state folder, threads, device and tracking server, all from the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from training.errors import TemperError

STATE = "TEMPER_STATE"
THREADS = "TEMPER_THREADS"
DEVICE = "TEMPER_DEVICE"

_MOST_THREADS = 1024


def state_folder() -> Path:
    """Return where checkpoints, downloads and the default tracking store are: $TEMPER_STATE or .temper."""
    return Path(os.environ.get(STATE) or ".temper").absolute()


def tracking_uri() -> str:
    """Return $MLFLOW_TRACKING_URI, or an SQLite file in the state folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state_folder() / 'mlflow.db'}"


@dataclass(frozen=True)
class Compute:
    """The device and the number of torch threads in force."""

    device: torch.device
    threads: int


def configure_compute() -> Compute:
    """Apply $TEMPER_THREADS (default: every core) and $TEMPER_DEVICE (auto, cpu or cuda) to torch.

    Raises:
        TemperError: a value that is not usable here.
    """
    threads = _threads()
    torch.set_num_threads(threads)
    # cuBLAS is deterministic only with a fixed workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Same as use_deterministic_algorithms, less the second that its import of torch's compiler takes.
    torch.set_deterministic_debug_mode("error")
    return Compute(_device(), threads)


def _threads() -> int:
    text = os.environ.get(THREADS, "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        msg = f"{THREADS}={text}: not a number of threads; set a whole number from 1 to {_MOST_THREADS}"
        raise TemperError(msg)
    return int(text)


def _device() -> torch.device:
    name = os.environ.get(DEVICE) or "auto"
    if name not in ("auto", "cpu", "cuda"):
        msg = f"{DEVICE}={name}: unknown device; set auto, cpu or cuda"
        raise TemperError(msg)
    if name == "cuda" and not torch.cuda.is_available():
        msg = f"{DEVICE}=cuda, but torch finds no CUDA device; set auto or cpu, or mend the driver"
        raise TemperError(msg)
    use_cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")
