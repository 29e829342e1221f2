"""Counter-based random numbers: a value depends on its key and its row, never on what was drawn before.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, figure 17) used as a hash of (key, row, column). Rows may therefore be drawn in any order,
batch or shard, and training that resumes draws what an unbroken run would have drawn.
"""

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2^53) for one purpose, such as ``derive_seed(0, "student", phase, epoch)``."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(seed: int, rows: IntArray, columns: int) -> FloatArray:
    """Draw uniform numbers in [0, 1), shape (len(rows), columns); row r depends on (seed, r) alone.

    Args:
        seed: the key, from :func:`derive_seed`.
        rows: example indices, shape (n,).
        columns: how many numbers for each row.
    """
    with np.errstate(over="ignore"):
        keys = _mix(np.uint64(seed) + _GOLDEN * (rows.astype(np.uint64) + np.uint64(1)))
        state = keys[:, None] + _GOLDEN * np.arange(1, columns + 1, dtype=np.uint64)[None, :]
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, rows: IntArray, columns: int) -> FloatArray:
    """Draw standard normal numbers, shape (len(rows), columns), by the Box-Muller transform."""
    draws = uniform(seed, rows, 2 * columns)
    radius = np.sqrt(-2.0 * np.log1p(-draws[:, :columns]))
    return np.asarray(radius * np.cos(2.0 * np.pi * draws[:, columns:]))


def permutation(seed: int, size: int) -> IntArray:
    """Return a random order of ``range(size)``, shape (size,), that depends on the arguments alone."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(size).astype(np.int64)
