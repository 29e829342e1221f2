"""The corruptions as a whole: shape, range, keys, severity, refusals."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from training.data.digits import read_digits
from training.errors import DataError
from training.randomness import IntArray
from training.robustness.corruptions import (
    COMMON,
    CORRUPTIONS,
    PARAMETER_SOURCES,
    SEVERITIES,
    Corruption,
    ParameterSet,
    corrupt,
    find_corruption,
    parameters_for,
)

SEED = 5
ROWS = np.array([3, 11])

DRAWN = {
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
    "speckle_noise",
    "spatter",
}
"""Kinds that draw random numbers."""

PHOTOGRAPHS = load_sample_images().images  # type: ignore[no-untyped-call]

NOT_MONOTONE: set[tuple[str, ParameterSet]] = {
    ("saturate", "imagenet"),  # first less colour, then more
    ("saturate", "cifar"),
    ("spatter", "imagenet"),  # first water, then mud
    ("spatter", "cifar"),
    ("glass_blur", "imagenet"),  # one pass after two
    ("glass_blur", "cifar"),
    ("elastic_transform", "cifar"),  # less and less affine
    ("frost", "imagenet"),  # less of the image, hardly more frost
    ("frost", "cifar"),
}
"""Where the published parameters do not rise in what they change."""


def photographs(side: int, *, grey: bool) -> Tensor:
    """Both of scikit-learn's photographs, shape (2, c, side, side)."""
    resized = [Image.fromarray(image).resize((side, side)) for image in PHOTOGRAPHS]
    pixels = np.stack([np.atleast_3d(np.asarray(image.convert("L") if grey else image)) for image in resized])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0


def digits() -> Tensor:
    return torch.from_numpy(read_digits().train.images[:2]).permute(0, 3, 1, 2).float() / 255.0


IMAGES = {
    "8x8 grey": digits(),
    "28x28 grey": photographs(28, grey=True),
    "32x32 colour": photographs(32, grey=False),
    "64x64 colour": photographs(64, grey=False),
}

every_kind = pytest.mark.parametrize("kind", CORRUPTIONS, ids=lambda kind: kind.name)
every_size = pytest.mark.parametrize("size", IMAGES)


def all_severities(
    images: Tensor, kind: Corruption, rows: IntArray = ROWS, parameters: ParameterSet | None = None
) -> list[Tensor]:
    return [
        corrupt(images, rows, kind.name, severity, SEED, parameters=parameters) for severity in SEVERITIES
    ]


def changes(kind: Corruption, size: str, severity: int) -> bool:
    if kind.name == "saturate":
        return "colour" in size
    # Eight pixels enlarged by 5 % are eight pixels.
    return not (kind.name == "zoom_blur" and size == "8x8 grey" and severity == 1)


@every_kind
@every_size
def test_shape_type_and_range_are_kept_and_pixels_change(kind: Corruption, size: str) -> None:
    images = IMAGES[size]
    before = images.clone()
    for severity, found in zip(SEVERITIES, all_severities(images, kind), strict=True):
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert float(found.min()) >= 0.0
        assert float(found.max()) <= 1.0
        assert torch.equal(images, before)
        difference = float((found - images).abs().max())
        assert difference > 0.003 if changes(kind, size, severity) else difference < 1e-6


@every_kind
@every_size
def test_a_corruption_does_not_depend_on_its_batch(kind: Corruption, size: str) -> None:
    images = IMAGES[size]
    for severity, together in zip(SEVERITIES, all_severities(images, kind), strict=True):
        alone = [corrupt(images[at : at + 1], ROWS[at : at + 1], kind.name, severity, SEED) for at in (1, 0)]
        assert torch.equal(together.flip(0), torch.cat(alone))


@every_kind
def test_seed_and_row_key_the_drawn_kinds_alone(kind: Corruption) -> None:
    images = IMAGES["32x32 colour"]
    found = corrupt(images, ROWS, kind.name, 3, SEED)
    assert torch.equal(found, corrupt(images, ROWS, kind.name, 3, SEED))
    for other in (
        corrupt(images, ROWS, kind.name, 3, SEED + 1),
        corrupt(images, ROWS + 1, kind.name, 3, SEED),
    ):
        same = [torch.equal(one, two) for one, two in zip(found, other, strict=True)]
        assert not any(same) if kind.name in DRAWN else all(same)


@every_kind
@pytest.mark.parametrize("parameters", PARAMETER_SOURCES)
def test_a_higher_severity_changes_more(kind: Corruption, parameters: ParameterSet) -> None:
    images = IMAGES["64x64 colour" if parameters == "imagenet" else "32x32 colour"].repeat(4, 1, 1, 1)
    found = all_severities(images, kind, np.arange(len(images)), parameters)
    amounts = [float((image - images).abs().mean()) for image in found]
    rises = all(low < 1.03 * high for low, high in itertools.pairwise(amounts))
    assert rises or (kind.name, parameters) in NOT_MONOTONE, amounts


def test_the_catalogue_is_that_of_the_benchmark() -> None:
    groups = [kind.group for kind in CORRUPTIONS]
    assert {group: groups.count(group) for group in groups} == {
        "noise": 3,
        "blur": 4,
        "weather": 4,
        "digital": 4,
        "extra": 4,
    }
    assert len({kind.name for kind in CORRUPTIONS}) == 19
    assert CORRUPTIONS[:15] == COMMON
    assert all(find_corruption(kind.name) is kind for kind in CORRUPTIONS)


@every_kind
def test_every_severity_has_its_parameters(kind: Corruption) -> None:
    names = list(inspect.signature(kind.apply).parameters)[2:]
    for parameters in PARAMETER_SOURCES:
        settings = kind.settings(parameters)
        assert [len(values) for values in settings] == [len(names)] * len(SEVERITIES)
        assert len(set(settings)) == len(SEVERITIES)
    assert kind.apply.__name__ == kind.name
    assert kind.source


def test_what_differs_from_the_reference_is_told() -> None:
    assert [kind.name for kind in CORRUPTIONS if not kind.agrees] == ["frost"]
    assert all(kind.note for kind in CORRUPTIONS if not kind.agrees or kind.tolerance > 1e-6)
    assert all(kind.note for kind in CORRUPTIONS if kind.compared == "distribution")


@pytest.mark.parametrize(
    ("size", "parameters"), [((8, 8), "cifar"), ((63, 200), "cifar"), ((64, 64), "imagenet")]
)
def test_the_image_size_chooses_the_parameters(size: tuple[int, int], parameters: ParameterSet) -> None:
    assert parameters_for(*size) == parameters
    images = torch.linspace(0.1, 0.9, size[0] * size[1]).view(1, 1, *size)
    found = corrupt(images, ROWS[:1], "contrast", 5, SEED)
    assert torch.equal(found, corrupt(images, ROWS[:1], "contrast", 5, SEED, parameters=parameters))


@every_kind
@pytest.mark.parametrize("shape", [(8, 8), (9, 17), (70, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_flat_and_oblong_images_stay_finite(kind: Corruption, shape: tuple[int, int], channels: int) -> None:
    flat = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, channels, *shape)
    for severity in (1, 5):
        found = corrupt(flat, ROWS, kind.name, severity, SEED)
        assert found.shape == flat.shape
        assert bool(((found >= 0) & (found <= 1)).all())


@every_kind
def test_no_images_give_no_images(kind: Corruption) -> None:
    assert corrupt(torch.zeros(0, 3, 32, 32), ROWS[:0], kind.name, 1, SEED).shape == (0, 3, 32, 32)


def test_unusable_input_is_refused_in_one_line() -> None:
    images = torch.zeros(2, 1, 8, 8)
    refused = [
        (images, ROWS, "rain", 1, "'rain' is no corruption; choose one of gaussian_noise, "),
        (images, ROWS, "fog", 0, "severity 0 of fog is not one of 1, 2, 3, 4, 5"),
        (images, ROWS, "fog", 6, "severity 6 of fog"),
        (images[0], ROWS, "fog", 1, r"shape \(1, 8, 8\) cannot be corrupted"),
        (torch.zeros(2, 2, 8, 8), ROWS, "fog", 1, "give .n, 1 or 3, h, w."),
        (torch.zeros(2, 3, 8, 7), ROWS, "fog", 1, "h and w at least 8"),
        (images, ROWS[:1], "fog", 1, "2 images but rows of shape"),
        (images.byte(), ROWS, "fog", 1, "divide 8-bit pixels by 255"),
        (images + 1.01, ROWS, "fog", 1, "in .0, 1."),
        (images * torch.nan, ROWS, "fog", 1, "in .0, 1."),
    ]
    for given, rows, kind, severity, message in refused:
        with pytest.raises(DataError, match=message) as raised:
            corrupt(given, rows, kind, severity, SEED)
        assert "\n" not in str(raised.value)
