"""Views: an image depends on (seed, view, example) and on nothing else."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import Augmentation
from training.data.views import Views, ViewScheme, to_channels_first

IMAGES = torch.randint(1, 256, (40, 3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ROWS = np.arange(40)


def views(shift: int = 2, *, flip: bool = True, seed: int = 5, images: Tensor = IMAGES) -> Views:
    return Views(images, ViewScheme(seed=seed, augmentation=Augmentation(shift=shift, horizontal_flip=flip)))


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move an image by whole pixels; zeros enter."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_without_augmentation_a_view_is_the_image() -> None:
    assert torch.equal(views(0, flip=False).batch(ROWS, 3), IMAGES.float() / 255)


def test_a_view_is_the_same_each_time() -> None:
    assert torch.equal(views().batch(ROWS, 1), views().batch(ROWS, 1))


def test_a_view_does_not_depend_on_batch_order_or_number_of_images() -> None:
    whole = views().batch(ROWS, 1)
    order = np.array([17, 3, 39, 3, 0])
    assert torch.equal(views().batch(order, 1), whole[order])
    assert torch.equal(views(images=IMAGES[:20]).batch(np.arange(20), 1), whole[:20])


@pytest.mark.parametrize("other", [{"view": 2}, {"seed": 6}])
def test_another_view_number_or_seed_draws_anew(other: dict[str, int]) -> None:
    first = views().batch(ROWS, 1)
    second = views(seed=other.get("seed", 5)).batch(ROWS, other.get("view", 1))
    differing = sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert differing > 30


def test_a_shift_is_bounded_whole_and_fills_with_zeros() -> None:
    found = views(2, flip=False).batch(ROWS, 0)
    seen = set()
    for image, view in zip(IMAGES.float() / 255, found, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(shifted(image, down, right), view)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    for axis in (0, 1):
        assert {offset[axis] for offset in seen} == {-2, -1, 0, 1, 2}


def test_about_half_of_the_images_are_flipped() -> None:
    found = views(0).batch(ROWS, 0)
    natural = IMAGES.float() / 255
    flipped = [torch.equal(view, image.flip(2)) for view, image in zip(found, natural, strict=True)]
    kept = [torch.equal(view, image) for view, image in zip(found, natural, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 10 <= sum(flipped) <= 30


def test_a_shift_larger_than_the_image_leaves_it_finite_and_in_range() -> None:
    found = views(50).batch(ROWS, 0)
    assert found.shape == IMAGES.shape
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0


def test_views_have_a_length_and_float32_pixels() -> None:
    assert len(views()) == 40
    assert views().batch(ROWS[:3], 0).dtype == torch.float32


def test_channels_first_keeps_every_pixel() -> None:
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    found = to_channels_first(images)
    assert found.shape == (2, 3, 3, 4)
    assert found.is_contiguous()
    assert int(found[1, 2, 0, 3]) == int(images[1, 0, 3, 2])
