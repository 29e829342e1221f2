"""Pictures inside the page: PNG data URIs, and the strip of examples."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.config import ThreatModel
from training.robustness.reporting.classes import name_label
from training.robustness.results import Strip

SHOWN_PIXELS = 96

Picture: TypeAlias = npt.NDArray[np.float32]


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


@dataclass(frozen=True)
class Examples:
    """The strip as shown; ``scale`` is the change of a pixel that is drawn at full strength."""

    shown: tuple[Example, ...]
    scale: float
    smooth: bool


def show_examples(strip: Strip, threat: ThreatModel, names: Sequence[str]) -> Examples:
    """Prepare the strip for the page."""
    scale = perturbation_scale(strip, threat)
    smooth = max(strip.natural.shape[2:], default=0) > SHOWN_PIXELS
    return Examples(tuple(_examples(strip, names, scale)), scale, smooth)


def perturbation_scale(strip: Strip, threat: ThreatModel) -> float:
    """Return the change of a pixel that is drawn at full strength.

    Epsilon bounds every pixel for Linf. For L2 and L1 it bounds the whole image, and single pixels move so
    differently from it that the largest change shown is taken instead.
    """
    largest = float(np.abs(strip.adversarial - strip.natural).max(initial=0.0))
    return largest if threat.norm != "Linf" and largest > 0 else threat.epsilon


def encode_png(picture: Picture) -> str:
    """Return an image (c, h, w) in [0, 1], grey, RGB or RGBA, as the data URI of a PNG."""
    pixels = np.rint(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _examples(strip: Strip, names: Sequence[str], scale: float) -> Iterator[Example]:
    perturbations = 0.5 + (strip.adversarial - strip.natural) / (2 * scale)
    for index, label in enumerate(strip.labels):
        before, after = strip.natural_predictions[index], strip.adversarial_predictions[index]
        yield Example(
            true=name_label(names, label),
            natural_prediction=name_label(names, before),
            adversarial_prediction=name_label(names, after),
            outcome=_outcome(right_before=bool(before == label), right_after=bool(after == label)),
            natural=encode_png(strip.natural[index]),
            adversarial=encode_png(strip.adversarial[index]),
            perturbation=encode_png(perturbations[index]),
        )


def _outcome(*, right_before: bool, right_after: bool) -> str:
    if not right_before:
        return "wrong"
    return "held" if right_after else "broken"
