"""Wording of refused data: one line that names the file, row or field."""

from collections.abc import Sequence
from pathlib import Path

from training.errors import DataError

MAX_LISTED = 5


def fault(where: Path | str, text: str) -> DataError:
    """Return the error ``where: text``, kept to one line whatever characters ``where`` holds."""
    return DataError(f"{printable(str(where))}: {text}")


def printable(text: str) -> str:
    """Return text that fits one line: text with unprintable characters is quoted and escaped."""
    return text if text.isprintable() else ascii(text)


def listed(names: Sequence[str]) -> str:
    """Join the first five names, and count the rest: ``a, b and 7 more``."""
    shown = ", ".join(printable(name) for name in names[:MAX_LISTED])
    rest = len(names) - MAX_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown
