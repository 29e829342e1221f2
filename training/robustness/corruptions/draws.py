"""Random fields for corruptions: keyed by example, so that batches and their order do not matter."""

import numpy as np
import torch
from torch import Tensor

from training.randomness import IntArray, derive_seed, normal, uniform


class Draws:
    """Numbers that depend on (seed, call, example's row) alone; every call draws anew.

    Args:
        seed: the key of one corruption at one severity.
        rows: the examples' indices in their data set, shape (n,).
    """

    def __init__(self, seed: int, rows: IntArray) -> None:
        self._seed = seed
        self._rows = rows
        self._calls = 0

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._rows)

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1), float64, shape (n, *shape)."""
        drawn = uniform(self._next(), self._rows, int(np.prod(shape)))
        return torch.from_numpy(drawn).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, float64, shape (n, *shape)."""
        drawn = normal(self._next(), self._rows, int(np.prod(shape)))
        return torch.from_numpy(drawn).view(-1, *shape)

    def poisson(self, rates: Tensor) -> Tensor:
        """Draw Poisson counts of the given rates, float64, the shape of ``rates`` (n, ...).

        Each example has a generator of its own (numpy's PCG64): inverting the distribution function, as
        one uniform number for a count would need, costs hundreds of passes at rates near 500.
        """
        key = self._next()
        counts = [
            np.random.Generator(np.random.PCG64(derive_seed(key, int(row)))).poisson(rate)
            for row, rate in zip(self._rows, rates.numpy(), strict=True)
        ]
        return torch.from_numpy(np.stack(counts)).double()

    def _next(self) -> int:
        self._calls += 1
        return derive_seed(self._seed, self._calls)
