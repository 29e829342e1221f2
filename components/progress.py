"""What a step tells while it works: a progress bar on a terminal, a line an epoch elsewhere."""

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Tell(Protocol):
    """Tells how far a step is."""

    def __call__(self, units: int, note: str = "") -> None:
        """Count ``units`` as done, with a note on the latest."""


def console() -> Console:
    """Return the console for progress and notes: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Tell]:
    """Give a function to call with (units done, note)."""
    screen = console()
    if not screen.is_terminal:
        yield _lines(screen, what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(units: int, note: str = "") -> None:
            bar.update(task, advance=units, note=note)

        yield advance


def _lines(screen: Console, what: str, total: int) -> Tell:
    done = 0
    told_at = time.monotonic()

    def tell(units: int, note: str = "") -> None:
        nonlocal done, told_at
        done += units
        if done >= total or time.monotonic() - told_at > _SECONDS_BETWEEN_LINES:
            told_at = time.monotonic()
            screen.print(f"{what} {done}/{total} {note}".rstrip(), markup=False)

    return tell
