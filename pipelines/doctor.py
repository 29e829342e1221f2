"""``temper doctor``: what works here, what does not, how to mend it."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from components.dataset.s3 import connect as connect_s3
from components.dataset.s3 import endpoint_host, explained
from components.environment import configure_compute, state_folder, tracking_uri
from components.tracking import connect, shown_uri
from training.errors import TemperError

_NEEDED_GIB = 2.0
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``works`` None means that it is not set up and not needed."""

    what: str
    works: bool | None
    detail: str


def examine() -> list[Finding]:
    """Look at everything that a run may need."""
    return [_guarded(what, check) for what, check in _CHECKS.items()]


def _guarded(what: str, check: Callable[[], tuple[bool | None, str]]) -> Finding:
    try:
        works, detail = check()
    except TemperError as error:
        works, detail = False, str(error)
    return Finding(what, works, detail)


def _python() -> tuple[bool, str]:
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return False, f"{version}; install Python 3.11 or newer"
    return True, version


def _torch() -> tuple[bool, str]:
    compute = configure_compute()
    return True, f"{torch.__version__}, {compute.threads} threads, device {compute.device}"


def _disk() -> tuple[bool, str]:
    folder = state_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if not os.access(folder, os.W_OK):
        return False, f"{folder} is not writable; set TEMPER_STATE to a folder that is"
    if free < _NEEDED_GIB:
        return False, f"{free:.1f} GiB free at {folder}; make room, or set TEMPER_STATE to another disk"
    return True, f"{free:.1f} GiB free at {folder}"


def _tracking() -> tuple[bool, str]:
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return True, f"{uri} (made by the first run)"
    connect()
    return True, shown_uri()


def _s3() -> tuple[bool | None, str]:
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")
    if not any(os.environ.get(name) for name in names):
        return None, "not set up; only s3:// locations need it (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)"
    with explained("S3"):
        client = connect_s3(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
        buckets = client.list_buckets()["Buckets"]
    return True, f"{endpoint_host()}, {len(buckets)} buckets visible"


def _program(name: str, use: str) -> Callable[[], tuple[bool | None, str]]:
    def check() -> tuple[bool | None, str]:
        beside = Path(sys.executable).parent / name
        path = shutil.which(name) or (str(beside) if beside.exists() else None)
        return (True, path) if path else (None, f"not found; only {use} needs it")

    return check


_CHECKS: dict[str, Callable[[], tuple[bool | None, str]]] = {
    "python": _python,
    "torch": _torch,
    "disk": _disk,
    "tracking": _tracking,
    "s3": _s3,
    "git": _program("git", "recording the commit"),
    "dvc": _program("dvc", "dvc repro"),
}
