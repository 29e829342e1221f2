"""Rates with intervals, comparisons on the same examples, and how many examples it takes."""

import math

import numpy as np
import numpy.typing as npt
from pydantic import Field, computed_field, model_validator
from scipy.stats import binomtest

from training.config import Section

_Z_95 = 1.959963984540054
# Two intervals that must hold together at 95 %: 97.5 % each (Bonferroni).
_Z_97_5 = 2.241402727604947


def wilson(value: float, n: int, z: float = _Z_95) -> tuple[float, float]:
    """Return the Wilson interval of a share ``value`` of ``n`` examples, both ends in [0, 1].

    Wilson 1927; Agresti and Coull 1998. ``z`` is the normal quantile, by default that of 95 %.
    """
    scale = 1.0 + z**2 / n
    centre = (value + z**2 / (2 * n)) / scale
    half_width = z * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, min(value, centre - half_width)), min(1.0, max(value, centre + half_width))


class Rate(Section):
    """A share of examples with its Wilson 95 % interval."""

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
        return wilson(self.value, self.n)[0]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def high(self) -> float:
        """Upper end of the interval, in [0, 1]."""
        return wilson(self.value, self.n)[1]


class Estimate(Section):
    """A share that was not counted on every example, with its 95 % interval, all in [0, 1]."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


def estimate_of(value: float, n: int) -> Estimate:
    """Return a mean share over the same ``n`` examples with the interval of one share of ``n``."""
    low, high = wilson(value, n)
    return Estimate(value=value, low=low, high=high)


def two_phase(first: Rate, second: Rate) -> Estimate:
    """Return the share that stands after both: ``first`` of all, ``second`` of a sample of those it left.

    The interval multiplies the ends of two 97.5 % intervals, so it covers at least 95 % of the time.
    """
    low, high = wilson(first.value, first.n, _Z_97_5)
    second_low, second_high = wilson(second.value, second.n, _Z_97_5)
    return Estimate(value=first.value * second.value, low=low * second_low, high=high * second_high)


class Difference(Section):
    """A difference of two shares on the same examples, in [-1, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(Section):
    """Two sets of outcomes on the same examples: the difference, and McNemar's exact test.

    ``gained`` counts examples that only ours has right, ``lost`` those that only theirs has; ``p_value``
    is two-sided (McNemar 1947; exact binomial form).
    """

    difference: Difference
    gained: int
    lost: int
    n: int
    p_value: float


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


def compare_paired(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> Comparison:
    """Compare two models, or two attacks, by their outcomes on the same examples.

    Args:
        ours: whether each example counts, shape (n,).
        theirs: the same of the other, on the same examples in the same order.
    """
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    decided = gained + lost
    p_value = float(binomtest(gained, decided, 0.5).pvalue) if decided else 1.0
    return Comparison(
        difference=paired_difference(ours, theirs), gained=gained, lost=lost, n=len(ours), p_value=p_value
    )


def margin_of(n: int, value: float = 0.5) -> float:
    """Return the half width of the 95 % interval that ``n`` examples give a share near ``value``."""
    return _Z_95 * math.sqrt(value * (1 - value) / n)


def examples_for(margin: float, value: float = 0.5) -> int:
    """Return how many examples give a 95 % interval of plus or minus ``margin`` (Cochran 1977, 4.2)."""
    return math.ceil(_Z_95**2 * value * (1 - value) / margin**2)


def advise_examples(n: int) -> str:
    """Say what ``n`` examples tell, and how many would tell more, such as "1,000 give +-3.1 points"."""
    wanted = next((points for points in (5.0, 2.0, 1.0, 0.5, 0.2) if points / 100 < margin_of(n)), 0.1)
    return (
        f"{n:,} examples give \N{PLUS-MINUS SIGN}{100 * margin_of(n):.1f} points at worst; "
        f"for \N{PLUS-MINUS SIGN}{wanted:g} you need {examples_for(wanted / 100):,}"
    )
