"""The corruptions: what each is, where it comes from, its parameters at every severity.

The kinds and the two sets of parameters are Hendrycks and Dietterich's (2019, "Benchmarking neural network
robustness to common corruptions and perturbations"). ``python -m pipelines.corruption_check`` compares
every kind with an independent implementation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from training.errors import DataError
from training.robustness.corruptions.blur import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from training.robustness.corruptions.digital import contrast, jpeg_compression, pixelate, saturate
from training.robustness.corruptions.elastic import elastic_transform
from training.robustness.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from training.robustness.corruptions.spatter import spatter
from training.robustness.corruptions.weather import brightness, fog, frost, snow

Group: TypeAlias = Literal["noise", "blur", "weather", "digital", "extra"]
ParameterSet: TypeAlias = Literal["imagenet", "cifar"]
Compared: TypeAlias = Literal["numbers", "distribution"]
Settings: TypeAlias = tuple[tuple[float, ...], ...]

SEVERITIES = (1, 2, 3, 4, 5)

PARAMETER_SOURCES: dict[ParameterSet, str] = {
    "imagenet": "ImageNet-C for any image size: imagecorruptions 1.1.2 (Michaelis et al. 2019)",
    "cifar": "CIFAR-10-C: hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py at ca36008",
}

# Images with a shorter side get the parameters of CIFAR-10-C.
_IMAGENET_SIDE = 64

_PAPER = "Hendrycks and Dietterich 2019"
_MICHAELIS = "Hendrycks and Dietterich 2019; for any size by Michaelis et al. 2019"

_ROUNDING = 1e-6
_LEVEL = 1 / 255


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        name: as in the benchmark.
        group: the benchmark's four groups; "extra" are its four for validation.
        source: who described it.
        apply: from images (n, c, h, w), c 1 or 3, float64 in [0, 1], random fields and the parameters of one
            severity to images of that shape, not yet clipped.
        imagenet: parameters of ImageNet-C for severities 1 to 5, in the order of ``apply``.
        cifar: the same of CIFAR-10-C.
        agrees: whether it is the reference's algorithm; if not, ``note`` says what differs.
        compared: "numbers" if the reference can be given the same random numbers (or draws none), else
            "distribution".
        tolerance: in pixel units of [0, 1], the largest difference of a pixel from the reference's; for a
            distribution, the largest gap between means or deviations.
        note: what differs, or why a tolerance is above rounding; may be empty.
    """

    name: str
    group: Group
    source: str
    apply: Callable[..., Tensor]
    imagenet: Settings
    cifar: Settings
    agrees: bool = True
    compared: Compared = "numbers"
    tolerance: float = _ROUNDING
    note: str = ""

    def settings(self, parameters: ParameterSet) -> Settings:
        """Return the parameters of severities 1 to 5, in the order of ``apply``."""
        return self.imagenet if parameters == "imagenet" else self.cifar


def parameters_for(height: int, width: int) -> ParameterSet:
    """Return the set for images of this size: ImageNet-C's from 64 pixels on the shorter side."""
    return "imagenet" if min(height, width) >= _IMAGENET_SIDE else "cifar"


def _each(*values: float) -> Settings:
    return tuple((value,) for value in values)


CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption(
        name="gaussian_noise",
        group="noise",
        source=_PAPER,
        apply=gaussian_noise,
        imagenet=_each(0.08, 0.12, 0.18, 0.26, 0.38),
        cifar=_each(0.04, 0.06, 0.08, 0.09, 0.10),
    ),
    Corruption(
        name="shot_noise",
        group="noise",
        source=_PAPER,
        apply=shot_noise,
        imagenet=_each(60, 25, 12, 5, 3),
        cifar=_each(500, 250, 100, 75, 50),
        compared="distribution",
        tolerance=0.005,
        note="counts come from a generator for each example, so single draws cannot be compared",
    ),
    Corruption(
        name="impulse_noise",
        group="noise",
        source=_PAPER,
        apply=impulse_noise,
        imagenet=_each(0.03, 0.06, 0.09, 0.17, 0.27),
        cifar=_each(0.01, 0.02, 0.03, 0.05, 0.07),
    ),
    Corruption(
        name="defocus_blur",
        group="blur",
        source=_PAPER,
        apply=defocus_blur,
        imagenet=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    Corruption(
        name="glass_blur",
        group="blur",
        source=_PAPER,
        apply=glass_blur,
        imagenet=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        tolerance=_LEVEL + _ROUNDING,
        note="a level that is whole but for rounding may be cut to the one below",
    ),
    Corruption(
        name="motion_blur",
        group="blur",
        source=_MICHAELIS,
        apply=motion_blur,
        imagenet=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        cifar=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    Corruption(
        name="zoom_blur",
        group="blur",
        source=_PAPER,
        apply=zoom_blur,
        imagenet=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        cifar=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    Corruption(
        name="snow",
        group="weather",
        source=_MICHAELIS,
        apply=snow,
        imagenet=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        cifar=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    Corruption(
        name="frost",
        group="weather",
        source=_PAPER,
        apply=frost,
        imagenet=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        cifar=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        agrees=False,
        compared="distribution",
        tolerance=0.03,
        note="procedural: a fractal with the tones of the published pictures of frost, not crops of them",
    ),
    Corruption(
        name="fog",
        group="weather",
        source=_MICHAELIS,
        apply=fog,
        imagenet=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        cifar=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    Corruption(
        name="brightness",
        group="weather",
        source=_PAPER,
        apply=brightness,
        imagenet=_each(0.1, 0.2, 0.3, 0.4, 0.5),
        cifar=_each(0.05, 0.1, 0.15, 0.2, 0.3),
    ),
    Corruption(
        name="contrast",
        group="digital",
        source=_PAPER,
        apply=contrast,
        imagenet=_each(0.4, 0.3, 0.2, 0.1, 0.05),
        cifar=_each(0.75, 0.5, 0.4, 0.3, 0.15),
    ),
    Corruption(
        name="elastic_transform",
        group="digital",
        source=_MICHAELIS,
        apply=elastic_transform,
        imagenet=(
            (250 * 0.05 * 0.005, 0.01, 0),
            (250 * 0.065 * 0.005, 0.01, 0),
            (250 * 0.085 * 0.005, 0.01, 0),
            (250 * 0.1 * 0.005, 0.01, 0),
            (250 * 0.12 * 0.005, 0.01, 0),
        ),
        cifar=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        note="for CIFAR-10-C an affine map comes first, which the reference lacks: compared for ImageNet-C",
    ),
    Corruption(
        name="pixelate",
        group="digital",
        source=_PAPER,
        apply=pixelate,
        imagenet=_each(0.6, 0.5, 0.4, 0.3, 0.25),
        cifar=_each(0.95, 0.9, 0.85, 0.75, 0.65),
    ),
    Corruption(
        name="jpeg_compression",
        group="digital",
        source=_PAPER,
        apply=jpeg_compression,
        imagenet=_each(25, 18, 15, 10, 7),
        cifar=_each(80, 65, 58, 50, 40),
    ),
    Corruption(
        name="speckle_noise",
        group="extra",
        source=_PAPER,
        apply=speckle_noise,
        imagenet=_each(0.15, 0.2, 0.35, 0.45, 0.6),
        cifar=_each(0.06, 0.1, 0.12, 0.16, 0.2),
    ),
    Corruption(
        name="gaussian_blur",
        group="extra",
        source=_PAPER,
        apply=gaussian_blur,
        imagenet=_each(1, 2, 3, 4, 6),
        cifar=_each(0.4, 0.6, 0.7, 0.8, 1),
    ),
    Corruption(
        name="spatter",
        group="extra",
        source=_PAPER,
        apply=spatter,
        imagenet=(
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        cifar=(
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        tolerance=1e-4,
        note="grey drops have the weights of BT.601 in three digits, not four; without IPP OpenCV measures "
        "distances in whole 2^-16 pixels, which may move single pixels further",
    ),
    Corruption(
        name="saturate",
        group="extra",
        source=_PAPER,
        apply=saturate,
        imagenet=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        cifar=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ),
)

COMMON: tuple[Corruption, ...] = tuple(kind for kind in CORRUPTIONS if kind.group != "extra")
"""The benchmark's fifteen."""

_BY_NAME = {kind.name: kind for kind in CORRUPTIONS}


def find_corruption(name: str) -> Corruption:
    """Return the corruption of this name.

    Raises:
        DataError: no such corruption.
    """
    if name not in _BY_NAME:
        msg = f"{name!r} is no corruption; choose one of {', '.join(_BY_NAME)}"
        raise DataError(msg)
    return _BY_NAME[name]
