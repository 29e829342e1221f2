"""Random numbers for attacks: keyed by example, or the reference's own stream."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from training.randomness import FloatArray, IntArray, derive_seed, normal, uniform

# The largest float32 below 1: rounding a float64 may otherwise reach 1.
_BELOW_ONE = 1.0 - 2.0**-24


class Draws(Protocol):
    """Where an attack's random numbers come from.

    ``active`` holds positions in the batch, int64, shape (k,): the examples that still stand. Every
    call draws anew, so an attack makes the same calls for every example until that example falls.
    """

    def uniform(self, active: Tensor, *shape: int) -> Tensor:
        """Draw from [0, 1), float32, shape (k, *shape)."""

    def normal(self, active: Tensor, *shape: int) -> Tensor:
        """Draw standard normal numbers, float32, shape (k, *shape)."""

    def uniform_together(self, active: Tensor, *shape: int) -> Tensor:
        """Draw as :meth:`uniform`, where the reference draws once for the whole batch."""


class KeyedDraws:
    """Numbers that depend on (seed, call, example's row) alone: never on batches, shards or a resume.

    Args:
        seed: the key of one attack's run.
        rows: the examples' indices in their data set, shape (n,).
    """

    def __init__(self, seed: int, rows: IntArray) -> None:
        self._seed = seed
        self._rows = rows
        self._calls = 0

    def uniform(self, active: Tensor, *shape: int) -> Tensor:
        """Draw from [0, 1), float32, shape (k, *shape)."""
        key, rows, size = self._next(active, shape)
        return _tensor(np.minimum(uniform(key, rows, size), _BELOW_ONE), active, shape)

    def normal(self, active: Tensor, *shape: int) -> Tensor:
        """Draw standard normal numbers, float32, shape (k, *shape)."""
        key, rows, size = self._next(active, shape)
        return _tensor(normal(key, rows, size), active, shape)

    def uniform_together(self, active: Tensor, *shape: int) -> Tensor:
        """Draw for each example by itself, so that its neighbours do not matter."""
        return self.uniform(active, *shape)

    def _next(self, active: Tensor, shape: tuple[int, ...]) -> tuple[int, IntArray, int]:
        self._calls += 1
        return derive_seed(self._seed, self._calls), self._rows[active.cpu().numpy()], int(np.prod(shape))


class StreamDraws:
    """The reference's stream: batch-drawn from torch's generator, in the reference's order and shapes.

    Args:
        seed: what the reference gives to ``torch.random.manual_seed``.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, active: Tensor, *shape: int) -> Tensor:
        """Draw from [0, 1), float32, shape (k, *shape)."""
        return torch.rand((len(active), *shape), generator=self._generator).to(active.device)

    def normal(self, active: Tensor, *shape: int) -> Tensor:
        """Draw standard normal numbers, float32, shape (k, *shape)."""
        return torch.randn((len(active), *shape), generator=self._generator).to(active.device)

    def uniform_together(self, active: Tensor, *shape: int) -> Tensor:
        """Draw once, of ``shape``, for the whole batch."""
        drawn = torch.rand(shape, generator=self._generator).to(active.device)
        return drawn.expand(len(active), *shape)


def _tensor(drawn: FloatArray, active: Tensor, shape: tuple[int, ...]) -> Tensor:
    values = torch.from_numpy(drawn.astype(np.float32))
    return values.to(active.device).view(len(active), *shape)
