"""The curve of accuracy against epsilon, laid out in percent of its box."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from training.robustness.reporting.wording import WHOLE_NUMBER_TOLERANCE
from training.robustness.results import CurveResult
from training.robustness.statistics import Rate

MAX_TICKS = 5


@dataclass(frozen=True)
class Point:
    """A point of the curve; ``x`` is in percent of the plot's width."""

    x: float
    epsilon: float
    accuracy: Rate


@dataclass(frozen=True)
class Plot:
    """The curve in percent of the plot: ``line`` and ``band`` are SVG point lists, y pointing down."""

    points: tuple[Point, ...]
    line: str
    band: str
    ticks: tuple[tuple[float, str], ...]
    threat_x: float


def plot_curve(curve: CurveResult, threat_epsilon: float) -> Plot:
    """Lay out the curve; the threat model's epsilon is always inside the plot."""
    top = max(threat_epsilon, *(point.epsilon for point in curve.points), 0.0)
    points = tuple(Point(100 * point.epsilon / top, point.epsilon, point.accuracy) for point in curve.points)
    upper = [(point.x, point.accuracy.high) for point in points]
    lower = [(point.x, point.accuracy.low) for point in points]
    return Plot(
        points=points,
        line=_svg_points((point.x, point.accuracy.value) for point in points),
        band=_svg_points([*upper, *reversed(lower)]),
        ticks=tuple((100 * tick / top, f"{tick:.6g}") for tick in _ticks(top)),
        threat_x=100 * threat_epsilon / top,
    )


def _svg_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{100 - 100 * accuracy:.2f}" for x, accuracy in points)


def _ticks(top: float) -> list[float]:
    """Return at most six round values from 0 to ``top``."""
    magnitude = 10.0 ** math.floor(math.log10(top / MAX_TICKS))
    step = next(
        factor * magnitude for factor in (1, 2, 2.5, 5, 10) if top / (factor * magnitude) <= MAX_TICKS
    )
    return [count * step for count in range(math.floor(top / step + WHOLE_NUMBER_TOLERANCE) + 1)]
