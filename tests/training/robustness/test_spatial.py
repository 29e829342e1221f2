"""Turned and moved views against known turns and moves."""

import itertools

import pytest
import torch
from torch import Tensor

from training.errors import DataError
from training.robustness.spatial import even_grid, spatial_views


@pytest.fixture(name="images", params=[(1, 8, 8), (3, 28, 28), (3, 15, 21)], ids=str)
def _images(request: pytest.FixtureRequest) -> Tensor:
    return torch.rand(2, *request.param, generator=torch.Generator().manual_seed(0))


def view(images: Tensor, degrees: float = 0.0, shift: float | None = None) -> Tensor:
    (found,) = spatial_views(images, [degrees], [shift or 0.0])
    return found


def test_standing_still_changes_nothing(images: Tensor) -> None:
    assert torch.allclose(view(images), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
@pytest.mark.parametrize("side", [8, 15, 28])
def test_quarter_turns_are_counter_clockwise(side: int, quarters: int) -> None:
    images = torch.rand(2, 3, side, side)
    expected = torch.rot90(images, quarters, (2, 3))
    assert torch.allclose(view(images, 90.0 * quarters), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [1, -2, 3])
def test_whole_shifts_move_pixels_and_let_zeros_in(images: Tensor, shift: int) -> None:
    height, width = images.shape[2:]
    expected = torch.zeros_like(images)
    to_rows = slice(max(shift, 0), height + min(shift, 0))
    to_columns = slice(max(shift, 0), width + min(shift, 0))
    from_rows = slice(max(-shift, 0), height + min(-shift, 0))
    from_columns = slice(max(-shift, 0), width + min(-shift, 0))
    expected[:, :, to_rows, to_columns] = images[:, :, from_rows, from_columns]
    assert torch.allclose(view(images, shift=shift), expected, rtol=0, atol=1e-12)


def test_half_a_pixel_averages_neighbours(images: Tensor) -> None:
    found = view(images, shift=-0.5)[:, :, :-1, :-1]
    corners = [
        images[:, :, down:, right:][:, :, : found.shape[2], : found.shape[3]]
        for down, right in itertools.product((0, 1), repeat=2)
    ]
    assert torch.allclose(found, sum(corners, torch.zeros_like(found)) / 4, atol=1e-6)


def test_views_come_in_the_order_that_is_told() -> None:
    spot = torch.zeros(1, 1, 9, 9)
    spot[0, 0, 4, 4] = 1.0
    found = list(spatial_views(spot, [0.0, 180.0], [-1.0, 0.0, 2.0]))
    places = [divmod(int(image.argmax()), 9) for image in found]
    one_angle = [(4 + down, 4 + right) for down, right in itertools.product((-1, 0, 2), repeat=2)]
    assert places == one_angle * 2


def test_a_small_turn_changes_the_rim_more_than_the_middle() -> None:
    rows, columns = torch.meshgrid(torch.arange(29.0), torch.arange(29.0), indexing="ij")
    stripes = (torch.sin(rows) * 0.5 + 0.5 + 0 * columns).view(1, 1, 29, 29)
    change = (view(stripes, 10.0) - stripes).abs()[0, 0]
    assert float(change[12:17, 12:17].mean()) < 0.5 * float(change.mean())
    back = view(view(stripes, 10.0), -10.0)
    assert float((back - stripes)[0, 0, 8:21, 8:21].abs().mean()) < 0.1


def test_type_and_range_are_kept(images: Tensor) -> None:
    for found in spatial_views(images.half(), [-30.0, 17.0], [0.3]):
        assert found.dtype == torch.float16
        assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0


def test_grids_are_even_and_one_point_is_zero() -> None:
    assert even_grid(15.0, 3) == (-15.0, 0.0, 15.0)
    assert even_grid(1.0, 5) == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert even_grid(30.0, 1) == (0.0,)
    assert even_grid(0.0, 7) == (0.0,)


def test_unusable_input_is_refused() -> None:
    images = torch.zeros(1, 1, 8, 8)
    with pytest.raises(DataError, match=r"torch.uint8 of shape \(1, 1, 8, 8\) cannot be turned"):
        spatial_views(images.byte(), [0.0], [0.0])
    with pytest.raises(DataError, match="give floats"):
        spatial_views(images[0], [0.0], [0.0])
    with pytest.raises(DataError, match="must be finite"):
        spatial_views(images, [float("nan")], [0.0])
