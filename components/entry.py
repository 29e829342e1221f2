"""How a kfp component enters a step: a user's mistake is one line and exit status 2."""

import sys
from collections.abc import Mapping
from pathlib import Path

from components.progress import console
from components.step import execute
from training.errors import TemperError, explain


def enter(step: str, params: Mapping[str, object], inputs: Mapping[str, str], out: str) -> None:
    """Run a step with the sections and artefact paths that kfp hands over."""
    try:
        execute(step, params, {name: Path(path) for name, path in inputs.items()}, Path(out))
    except (TemperError, OSError) as error:
        console().print(f"error: {explain(error)}", markup=False)
        sys.exit(2)
