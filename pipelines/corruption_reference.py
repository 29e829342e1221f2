"""The reference's side of the corruption check: run by the interpreter that has imagecorruptions.

Usage: ``python corruption_reference.py FOLDER``. FOLDER/jobs.json lists jobs; each reads its images, and
its random numbers if it is given any, and writes what the reference makes of them. Temper is not imported.
"""

import ast
import contextlib
import importlib
import inspect
import json
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Corrupting: TypeAlias = Callable[[Any, int], Array]

# Of a grey picture these blur along one axis alone, or fail; as three equal channels they do not.
_COLOUR_ONLY = ("gaussian_blur", "glass_blur", "motion_blur")


class Stream:
    """Stands in for numpy's random functions: gives numbers that were drawn elsewhere, in their order."""

    def __init__(self, values: Array) -> None:
        self._values = values
        self._taken = 0

    def random(self, size: tuple[int, ...] | None = None) -> Array:
        """Return the next numbers, shape ``size``."""
        count = int(np.prod(size)) if size is not None else 1
        start, self._taken = self._taken, self._taken + count
        found = self._values[start : self._taken]
        return found.reshape(size) if size is not None else found[0]

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: tuple[int, ...] | None = None) -> Array:
        """Scale the next numbers, which must be standard normal."""
        return loc + scale * self.random(size)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: tuple[int, ...] | None = None) -> Array:
        """Scale the next numbers, which must be uniform in [0, 1)."""
        return low + (high - low) * self.random(size)

    def randint(self, low: int, high: int, size: tuple[int, ...] | None = None) -> Array:
        """Return whole numbers from ``low`` up to, not including, ``high``."""
        return np.floor(self.uniform(low, high, size)).astype(np.int64)

    def is_used_up(self) -> bool:
        """Whether every number was asked for."""
        return self._taken == len(self._values)


def load_reference() -> Any:  # noqa: ANN401 - the package carries no types
    """Import imagecorruptions' functions; two names that its dependencies have renamed are put back."""
    np.float_ = np.float64  # type: ignore[attr-defined]  # noqa: NPY201 - the old name is the point
    warnings.simplefilter("ignore")
    module: Any = importlib.import_module("imagecorruptions.corruptions")
    blur = module.gaussian

    def gaussian(image: Array, sigma: Any, *, multichannel: bool = False, **options: Any) -> Array:  # noqa: ANN401
        widths = tuple(sigma) if isinstance(sigma, np.ndarray) else sigma
        return np.asarray(blur(image, widths, channel_axis=-1 if multichannel else None, **options))

    module.gaussian = gaussian
    return module


class _Replace(ast.NodeTransformer):
    """Put a value in the place of ``[...][severity - 1]``."""

    def __init__(self, value: ast.expr) -> None:
        self.value = value
        self.replaced = 0

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.List) and isinstance(node.slice, ast.BinOp):
            self.replaced += 1
            return self.value
        return self.generic_visit(node)


def with_values(module: Any, name: str, values: Any) -> Corrupting:  # noqa: ANN401
    """Return the module's function of this name with other parameters than its own table's."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(module, name))))
    replace = _Replace(ast.parse(repr(values), mode="eval").body)
    tree = ast.fix_missing_locations(replace.visit(tree))
    if replace.replaced != 1:
        msg = f"{name}: {replace.replaced} tables of parameters, where one was expected"
        raise RuntimeError(msg)
    space = dict(vars(module))
    exec(compile(tree, name, "exec"), space)  # noqa: S102 - the reference's own source
    changed: Corrupting = space[name]
    return changed


@contextlib.contextmanager
def given_numbers(values: Array | None) -> Iterator[None]:
    """Let numpy's random functions give ``values``; with None they draw as ever."""
    if values is None:
        yield
        return
    stream = Stream(values)
    names = ("normal", "uniform", "randint")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(np.random, name, getattr(stream, name)))
        stack.enter_context(mock.patch.object(np.random, "default_rng", return_value=stream))
        yield
    if not stream.is_used_up():
        msg = "the reference asked for fewer random numbers than were drawn for it"
        raise RuntimeError(msg)


def corrupted(corrupting: Corrupting, name: str, image: Array, severity: int) -> Array:
    """Corrupt one uint8 image (h, w, c); float64 in [0, 1], the same shape."""
    pictures = importlib.import_module("PIL.Image")
    grey = image.shape[2] == 1
    three = (
        np.repeat(image, 3, axis=2)
        if grey and name in _COLOUR_ONLY
        else image.squeeze(axis=2)
        if grey
        else image
    )
    found = np.asarray(corrupting(pictures.fromarray(three), severity), dtype=np.float64) / 255.0
    if grey:
        found = found[:, :, 0] if found.ndim == image.ndim else found
        return found[:, :, None]
    return found


def run(folder: Path, module: Any, job: dict[str, Any]) -> None:  # noqa: ANN401
    """Do one job: read images (n, h, w, c), write the corrupted ones."""
    name, severity = job["kind"], job["severity"]
    corrupting = getattr(module, name) if job["values"] is None else with_values(module, name, job["values"])
    images = np.load(folder / job["images"], allow_pickle=False)
    streams = np.load(folder / job["numbers"], allow_pickle=False) if job["numbers"] else [None] * len(images)
    np.random.seed(job["seed"])  # noqa: NPY002 - what the reference draws from
    found = []
    for image, numbers in zip(images, streams, strict=True):
        with given_numbers(numbers):
            found.append(corrupted(corrupting, name, image, severity))
    np.save(folder / job["out"], np.stack(found), allow_pickle=False)


def main() -> None:
    """Do every job of the folder that is named on the command line."""
    folder = Path(sys.argv[1])
    module = load_reference()
    for job in json.loads((folder / "jobs.json").read_text(encoding="utf-8")):
        run(folder, module, job)


if __name__ == "__main__":
    main()
