"""How a kfp component enters a step: a user's mistake is one line and exit status 2."""

import sys
from collections.abc import Mapping
from pathlib import Path

from components.progress import console
from components.step import execute
from training.errors import TemperError


def enter(step: str, params: Mapping[str, object], inputs: Mapping[str, str], out: str) -> None:
    """Run a step with the sections and artefact paths that kfp hands over."""
    try:
        execute(step, params, {name: Path(path) for name, path in inputs.items()}, Path(out))
    except (TemperError, OSError) as error:
        console().print(f"error: {explain(error)}", markup=False)
        sys.exit(2)


def explain(error: TemperError | OSError) -> str:
    """Return the message for a user: a TemperError's own, or what the system refused."""
    if isinstance(error, TemperError):
        return str(error)
    where = error.filename2 or error.filename or "a file"
    reason = error.strerror or type(error).__name__
    return f"{where}: {reason}; check that the folder is there, writable and not full"
