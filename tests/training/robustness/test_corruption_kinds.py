"""Each corruption against other code or a brute-force loop: scipy, Pillow, colorsys."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from torch import Tensor

from training.robustness.corruptions.blur import (
    _disc,
    _sources,
    defocus_blur,
    gaussian_blur,
    motion_blur,
    zoom_blur,
)
from training.robustness.corruptions.digital import contrast, jpeg_compression, pixelate, saturate
from training.robustness.corruptions.draws import Draws
from training.robustness.corruptions.edges import distance, equalise, find_edges
from training.robustness.corruptions.elastic import _affine, _pixels, _sampled, elastic_transform
from training.robustness.corruptions.matrices import Fold, edge, gaussian, mirror, symmetric, zoom
from training.robustness.corruptions.motion import smear
from training.robustness.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from training.robustness.corruptions.plasma import plasma
from training.robustness.corruptions.spatter import spatter
from training.robustness.corruptions.weather import brightness, fog, snow

SEED = 2


def draws(count: int) -> Draws:
    return Draws(SEED, np.arange(count))


@pytest.fixture(name="images")
def _images() -> Tensor:
    pixels = np.random.default_rng(SEED).integers(0, 256, (4, 3, 16, 20))
    return torch.from_numpy(pixels).double() / 255.0


def flat(level: float, count: int = 1) -> Tensor:
    return torch.full((count, 3, 32, 32), level, dtype=torch.float64)


def test_normal_noise_has_its_deviation() -> None:
    grey = flat(0.5, 20)
    assert float((gaussian_noise(grey, draws(20), 0.1) - grey).std()) == pytest.approx(0.1, rel=0.02)
    assert float((speckle_noise(grey, draws(20), 0.2) - grey).std()) == pytest.approx(0.1, rel=0.02)


def test_shot_noise_has_the_mean_and_variance_of_counts() -> None:
    for photons in (3.0, 500.0):
        found = shot_noise(flat(0.4, 20), draws(20), photons)
        assert float(found.mean()) == pytest.approx(0.4, rel=0.02)
        assert float(found.var()) == pytest.approx(0.4 / photons, rel=0.05)
        assert torch.allclose(found * photons, (found * photons).round())


def test_impulse_noise_hits_its_share_with_as_much_salt_as_pepper(images: Tensor) -> None:
    grey = flat(0.5, 20)
    found = impulse_noise(grey, draws(20), 0.1)
    assert set(found.flatten().tolist()) == {0.0, 0.5, 1.0}
    assert float((found == 0).double().mean()) == pytest.approx(0.05, rel=0.1)
    assert float((found == 1).double().mean()) == pytest.approx(0.05, rel=0.1)
    assert torch.equal(impulse_noise(images, draws(4), 0.0), images)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 6.0])
def test_gaussian_blur_is_scipys(images: Tensor, sigma: float) -> None:
    expected = scipy.ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")
    assert np.abs(gaussian_blur(images, draws(4), sigma).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize(("fold", "mode"), [(edge, "nearest"), (mirror, "mirror"), (symmetric, "reflect")])
def test_edge_rules_are_scipys_even_beyond_the_image(fold: Fold, mode: str) -> None:
    line = np.random.default_rng(SEED).random(8)
    expected = scipy.ndimage.gaussian_filter1d(line, 5.0, mode=mode)
    assert np.abs(gaussian(8, 5.0, fold).numpy() @ line - expected).max() < 1e-12


@pytest.mark.parametrize("radius", [0.3, 1, 1.5, 3, 8, 10])
def test_defocus_blur_averages_over_a_disc(images: Tensor, radius: float) -> None:
    kernel = _disc(radius, 0.3)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-3)
    expected = scipy.ndimage.correlate(images.numpy(), kernel[None, None], mode="mirror")
    assert np.abs(defocus_blur(images, draws(4), radius, 0.3).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("factor", [1.0, 1.1, 2.25, 4.5])
def test_zoom_is_scipys_of_the_middle(images: Tensor, factor: float) -> None:
    inner = int(np.ceil(20 / factor))
    start = (20 - inner) // 2
    expected = scipy.ndimage.zoom(images.numpy()[..., start : start + inner], (1, 1, 1, factor), order=1)
    assert np.abs((images @ zoom(20, factor).T).numpy() - expected).max() < 1e-12


def test_zoom_blur_leaves_the_middle_sharper_than_the_rim() -> None:
    rows, columns = np.indices((64, 64))
    board = torch.from_numpy((rows // 2 + columns // 2) % 2).double().view(1, 1, 64, 64)
    change = (zoom_blur(board, draws(1), 1.11, 0.01) - board).abs()[0, 0]
    assert float(change[24:40, 24:40].mean()) < 0.8 * float(change.mean())


def test_a_smear_moves_along_its_line() -> None:
    spot = torch.zeros(2, 1, 21, 21, dtype=torch.float64)
    spot[:, :, 10, 10] = 1.0
    found = smear(spot, torch.tensor([0.0, -90.0], dtype=torch.float64), 3, 2.0)[:, 0]
    weights = np.exp(-0.5 * (np.arange(7) / 2.0) ** 2)
    assert np.allclose(found[0, 10, 4:11].flip(0), weights / weights.sum())
    assert np.allclose(found[1, 10:17, 10], weights / weights.sum())
    assert found.sum().item() == pytest.approx(2.0)


def test_a_smear_keeps_a_flat_image_that_it_fits_in() -> None:
    assert torch.allclose(motion_blur(flat(0.7, 5), draws(5), 9, 2.5), flat(0.7, 5))


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_glass_blur_moves_pixels_as_the_loop_does(reach: int) -> None:
    height, width = 12, 15
    values = np.arange(height * width).reshape(height, width)
    moves = torch.floor(draws(1).uniform(height - 2 * reach, width - 2 * reach, 2) * 2 * reach) - reach
    for step, (right, down) in enumerate(moves.view(-1, 2).long().tolist()):
        row, column = divmod(step, width - 2 * reach)
        row, column = height - reach - row, width - reach - column
        values[row, column] = values[row + down, column + right]
    found = _sources(draws(1), height, width, reach)
    assert np.array_equal(found[0].numpy(), values.reshape(-1))


@pytest.mark.parametrize("rise", [0.0, 0.1, 0.5])
def test_brightness_raises_the_value_as_colorsys_does(images: Tensor, rise: float) -> None:
    def expected(red: float, green: float, blue: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        return colorsys.hsv_to_rgb(hue, saturation, min(value + rise, 1.0))

    assert_by_pixel(brightness(images, draws(4), rise), images, expected)


@pytest.mark.parametrize(("factor", "rise"), [(0.1, 0.0), (2.0, 0.0), (5.0, 0.1)])
def test_saturate_is_colorsys(images: Tensor, factor: float, rise: float) -> None:
    def expected(red: float, green: float, blue: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        return colorsys.hsv_to_rgb(hue, min(saturation * factor + rise, 1.0), value)

    images[0, :, :2] = 0.0
    images[0, :, 2:4] = 0.6
    assert_by_pixel(saturate(images, draws(4), factor, rise), images, expected)


def assert_by_pixel(found: Tensor, images: Tensor, expected: object) -> None:
    assert callable(expected)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    wanted = np.array([expected(*pixel) for pixel in pixels])
    assert np.abs(found.permute(0, 2, 3, 1).reshape(-1, 3).numpy() - wanted).max() < 1e-9


def test_contrast_keeps_each_channels_mean(images: Tensor) -> None:
    found = contrast(images, draws(4), 0.3)
    assert torch.allclose(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    assert torch.allclose(found.std(dim=(2, 3)), 0.3 * images.std(dim=(2, 3)))


@pytest.mark.parametrize("share", [0.95, 0.6, 0.5, 0.3, 0.25])
def test_pixelate_is_pillows(images: Tensor, share: float) -> None:
    found = pixelate(images, draws(4), share)
    for image, mine in zip(images, found, strict=True):
        levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        small = Image.fromarray(levels).resize((int(20 * share), int(16 * share)), Image.Resampling.BOX)
        theirs = np.asarray(small.resize((20, 16), Image.Resampling.NEAREST))
        assert np.array_equal((mine * 255).round().byte().permute(1, 2, 0).numpy(), theirs)


def test_jpeg_is_pillows(images: Tensor) -> None:
    found = jpeg_compression(images, draws(4), 25)
    levels = (images[1] * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=25)
    theirs = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).double() / 255
    assert torch.allclose(found[1], theirs)


@pytest.mark.parametrize(("reflect_at", "mode"), [("pixel centres", "mirror"), ("pixel edges", "reflect")])
def test_sampling_is_scipys(images: Tensor, reflect_at: str, mode: str) -> None:
    moves = torch.from_numpy(np.random.default_rng(SEED).normal(scale=4, size=(4, 16, 20, 2)))
    positions = _pixels(images) + moves
    found = _sampled(images, positions, reflect_at)
    at = positions[2].permute(2, 0, 1).flip(0).numpy()
    expected = scipy.ndimage.map_coordinates(images[2, 1].numpy(), at, order=1, mode=mode)
    assert np.abs(found[2, 1].numpy() - expected).max() < 1e-9


def test_the_affine_part_takes_moved_points_back_to_where_they_were(images: Tensor) -> None:
    positions = _affine(images, draws(4), 0.08)
    middle = np.array([8.0, 10.0])
    points = middle + 5 * np.array([[1, 1], [1, -1], [-1, -1]])
    moves = (2 * draws(4).uniform(3, 2).numpy() - 1) * 0.08 * 16
    for mine, moved in zip(positions.numpy(), points + moves, strict=True):
        across, down, corner = mine[0, 1] - mine[0, 0], mine[1, 0] - mine[0, 0], mine[0, 0]
        back = corner + moved[:, :1] * across + moved[:, 1:] * down
        assert np.abs(back - points).max() < 1e-9


def test_elastic_transform_moves_by_what_it_says() -> None:
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(8, 1, 64, 64).clone()
    moved = (elastic_transform(ramp, draws(8), 0.1, 0.04, 0.0) - ramp).abs() * 63
    assert 0.2 < float(moved.mean()) < float(moved.max()) < 0.1 * 64
    assert torch.equal(elastic_transform(ramp, draws(8), 0.0, 0.0, 0.0), ramp)


def test_plasma_fills_the_unit_interval_and_decay_smooths_it() -> None:
    fields = [plasma(draws(6), (30, 20), decay) for decay in (1.4, 3.0)]
    assert all(field.shape == (6, 30, 20) for field in fields)
    full = plasma(draws(6), (32, 32), 2.0)
    assert torch.allclose(full.amin(dim=(1, 2)), torch.zeros(6, dtype=torch.float64))
    assert torch.allclose(full.amax(dim=(1, 2)), torch.ones(6, dtype=torch.float64))
    steps = [float(field.diff(dim=2).abs().mean() / field.std()) for field in fields]
    assert steps[1] < 0.6 * steps[0]


def test_fog_keeps_the_brightest_pixel_within_range_and_black_black(images: Tensor) -> None:
    found = fog(images, draws(4), 1.0, 2.0)
    brightest = images.amax(dim=(1, 2, 3))
    assert bool((found.amax(dim=(1, 2, 3)) <= brightest + 1e-12).all())
    assert torch.equal(fog(torch.zeros_like(images), draws(4), 1.0, 2.0), torch.zeros_like(images))


def test_snow_is_symmetric_but_for_the_image() -> None:
    added = snow(flat(0.0, 3), draws(3), 0.1, 0.3, 2, 0.5, 12, 4, 1.0)
    assert torch.allclose(added, added.flip(2, 3))
    assert 0.0 < float(added.mean()) < 0.5


def test_mud_covers_and_water_adds() -> None:
    grey = flat(0.5, 6)
    water = spatter(grey, draws(6), 0.65, 0.3, 2, 0.68, 0.5, 0)
    mud = spatter(grey, draws(6), 0.65, 0.3, 1, 0.65, 1.5, 1)
    assert bool((water >= grey).all())
    assert float((water - grey).max()) == pytest.approx(0.5 * 238 / 255)
    assert bool((mud <= grey).all())
    assert float((mud < grey).double().mean()) > 0.05


def test_edges_of_a_square_are_thin_and_weak_ones_need_strong_neighbours() -> None:
    picture = torch.zeros(2, 20, 20, dtype=torch.float64)
    picture[0, 5:15, 5:15] = 200.0
    picture[1, 5:15, 5:15] = 20.0
    edges = find_edges(picture, 50.0, 150.0)
    assert 32 <= int(edges[0].sum()) <= 44
    assert not bool(edges[0, 7:13, 7:13].any())
    assert not bool(edges[1].any())


def test_distances_are_nearly_euclidean_and_capped() -> None:
    edges = torch.from_numpy(np.random.default_rng(SEED).random((3, 40, 40)) < 0.003)
    edges[2] = False
    found = distance(edges, 10)
    exact = np.stack([scipy.ndimage.distance_transform_edt(~picture) for picture in edges[:2].numpy()])
    assert np.abs(found[:2].numpy() - exact)[exact < 9].max() < 0.2
    assert bool((found[2] == 10).all())
    assert float(found.max()) == 10.0


def test_equalised_levels_spread_and_a_single_level_stays() -> None:
    ramp = torch.arange(100, 164, dtype=torch.float64).view(1, 8, 8)
    found = equalise(torch.cat([ramp, torch.full_like(ramp, 7.0)]))
    assert torch.equal(found[0].flatten(), torch.round(torch.arange(64) * 255 / 63).double())
    assert torch.equal(found[1], torch.full((8, 8), 7.0, dtype=torch.float64))
