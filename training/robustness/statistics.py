"""Rates with intervals."""

import math

import numpy as np
import numpy.typing as npt
from pydantic import Field, computed_field, model_validator

from training.config import Section

_Z_95 = 1.959963984540054


class Rate(Section):
    """A share of examples with its Wilson 95 % interval (Wilson 1927; Agresti and Coull 1998)."""

    count: int = Field(ge=0)
    n: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_a_share(self) -> "Rate":
        if self.count > self.n:
            msg = f"{self.count} of {self.n} is no share"
            raise ValueError(msg)
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def value(self) -> float:
        """The share itself: count / n, in [0, 1]."""
        return self.count / self.n

    @computed_field  # type: ignore[prop-decorator]
    @property
    def low(self) -> float:
        """Lower end of the interval, in [0, 1]."""
        return max(0.0, min(self.value, self._centre - self._half_width))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def high(self) -> float:
        """Upper end of the interval, in [0, 1]."""
        return min(1.0, max(self.value, self._centre + self._half_width))

    @property
    def _scale(self) -> float:
        return 1.0 + _Z_95**2 / self.n

    @property
    def _centre(self) -> float:
        return (self.value + _Z_95**2 / (2 * self.n)) / self._scale

    @property
    def _half_width(self) -> float:
        spread = self.value * (1 - self.value) / self.n + _Z_95**2 / (4 * self.n**2)
        return _Z_95 * math.sqrt(spread) / self._scale


class Difference(Section):
    """A difference of two shares on the same examples, in [-1, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_difference(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> Difference:
    """Return share(ours) - share(theirs) with the normal interval for paired examples.

    Args:
        ours: whether each example counts, shape (n,).
        theirs: the same of the other model, on the same examples in the same order.
    """
    gaps = ours.astype(np.float64) - theirs.astype(np.float64)
    half_width = _Z_95 * float(gaps.std()) / math.sqrt(len(gaps))
    value = float(gaps.mean())
    return Difference(value=value, low=value - half_width, high=value + half_width)
