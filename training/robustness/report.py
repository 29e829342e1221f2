"""The report: an evaluation as one self-contained HTML page, the same bytes for the same result."""

import base64
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from training.config import ApgdCeAttack, EvaluationAttack, PgdAttack, ThreatModel
from training.robustness.results import CurveResult, EvaluationResult, Strip
from training.robustness.statistics import Rate

TEMPLATE = "report.html"
SHOWN_PIXELS = 96
MAX_TICKS = 5
WHOLE_NUMBER_TOLERANCE = 1e-9

Picture: TypeAlias = npt.NDArray[np.float32]


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


@dataclass(frozen=True)
class Example:
    """One example of the strip: class names, what became of it, and its images as data URIs."""

    true: str
    natural_prediction: str
    adversarial_prediction: str
    outcome: str
    natural: str
    adversarial: str
    perturbation: str


def render_report(result: EvaluationResult, strip: Strip, class_names: Sequence[str] = ()) -> str:
    """Render the HTML page; it loads nothing and runs no script.

    Args:
        result: what the evaluation found.
        strip: the examples to show; none is allowed.
        class_names: a name for each label of the strip. Without it the names are those of
            ``result.classes``, which is right only if every class has evaluated examples.
    """
    names = tuple(class_names) or tuple(found.name for found in result.classes)
    scale = perturbation_scale(strip, result.threat_model)
    template = _environment().get_template(TEMPLATE)
    return template.render(
        result=result,
        plot=plot_curve(result.curve, result.threat_model.epsilon),
        examples=tuple(_examples(strip, names, scale)),
        scale=scale,
        smooth=max(strip.natural.shape[2:], default=0) > SHOWN_PIXELS,
        lowest=min(result.classes, key=lambda found: found.robust.value, default=None),
        configuration=json.dumps(configuration(result), indent=2, sort_keys=True),
    )


def percent(rate: Rate) -> str:
    """Write a rate as ``98.7 %``, with a space that does not break."""
    return f"{100 * rate.value:.1f}\N{NO-BREAK SPACE}%"


def interval(rate: Rate) -> str:
    """Write a rate's 95 % interval as ``97.1-99.4 %``, with an en dash."""
    return f"{100 * rate.low:.1f}\N{EN DASH}{100 * rate.high:.1f}\N{NO-BREAK SPACE}%"


def write_epsilon(epsilon: float) -> str:
    """Write an epsilon below 1 that is a whole number of 255ths as both; any other as a decimal."""
    count = round(epsilon * 255)
    whole = 0 < epsilon < 1 and abs(epsilon * 255 - count) < WHOLE_NUMBER_TOLERANCE
    return f"{epsilon:.6g} ({count}/255)" if whole else f"{epsilon:.6g}"


def describe_attack(attack: EvaluationAttack) -> str:
    """Write an attack and its settings in words."""
    starts = f"{attack.restarts} random start{'s' if attack.restarts > 1 else ''}"
    match attack:
        case PgdAttack():
            return f"{attack.steps} steps of {attack.step_size:g} of epsilon, {starts}"
        case ApgdCeAttack():
            return f"{attack.steps} steps of adaptive size, {starts}"


def name_attack(attack: EvaluationAttack) -> str:
    """Write an attack's name as the literature does."""
    return {"pgd": "PGD", "apgd_ce": "APGD-CE"}[attack.name]


def configuration(result: EvaluationResult) -> dict[str, Any]:
    """Return the settings that the result was made with, as JSON values."""
    return {
        "schema_version": result.schema_version,
        "seed": result.seed,
        "examples": result.examples,
        "threat_model": result.threat_model.model_dump(mode="json"),
        "attacks": [found.attack.model_dump(mode="json") for found in result.attacks],
        "curve": {
            "attack": result.curve.attack.model_dump(mode="json"),
            "epsilons": [point.epsilon for point in result.curve.points],
        },
    }


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


def perturbation_scale(strip: Strip, threat: ThreatModel) -> float:
    """Return the change of a pixel that is drawn at full strength.

    Epsilon bounds every pixel for Linf. For L2 it bounds the whole image, and single pixels move so much
    less that the largest change shown is taken instead.
    """
    largest = float(np.abs(strip.adversarial - strip.natural).max(initial=0.0))
    return largest if threat.norm == "L2" and largest > 0 else threat.epsilon


def encode_png(picture: Picture) -> str:
    """Return an image (c, h, w) in [0, 1], grey or RGB, as the data URI of a PNG."""
    pixels = np.rint(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "epsilon": write_epsilon,
        "attack_name": name_attack,
        "attack_settings": describe_attack,
        "share": lambda value: f"{100 * value:.2f}%",
        "number": lambda value: f"{value:.2f}",
        "short": lambda value: f"{value:.3g}",
        "count": lambda value: f"{value:,}",
    }
    return environment


def _examples(strip: Strip, names: Sequence[str], scale: float) -> Iterator[Example]:
    perturbations = 0.5 + (strip.adversarial - strip.natural) / (2 * scale)
    for index, label in enumerate(strip.labels):
        before, after = strip.natural_predictions[index], strip.adversarial_predictions[index]
        yield Example(
            true=_class_name(names, label),
            natural_prediction=_class_name(names, before),
            adversarial_prediction=_class_name(names, after),
            outcome=_outcome(right_before=bool(before == label), right_after=bool(after == label)),
            natural=encode_png(strip.natural[index]),
            adversarial=encode_png(strip.adversarial[index]),
            perturbation=encode_png(perturbations[index]),
        )


def _class_name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _outcome(*, right_before: bool, right_after: bool) -> str:
    if not right_before:
        return "wrong"
    return "held" if right_after else "broken"


def _svg_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{100 - 100 * accuracy:.2f}" for x, accuracy in points)


def _ticks(top: float) -> list[float]:
    """Return at most six round values from 0 to ``top``."""
    magnitude = 10.0 ** math.floor(math.log10(top / MAX_TICKS))
    step = next(
        factor * magnitude for factor in (1, 2, 2.5, 5, 10) if top / (factor * magnitude) <= MAX_TICKS
    )
    return [count * step for count in range(math.floor(top / step + WHOLE_NUMBER_TOLERANCE) + 1)]
