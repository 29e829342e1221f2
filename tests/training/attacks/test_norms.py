"""The geometry: everything stays in the ball and in the pixel range, and batches do not matter."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.attacks.draws import KeyedDraws
from training.attacks.norms import (
    Norm,
    flat_norm,
    keyed_start,
    project,
    random_start,
    size,
    steepest,
    unit,
)

NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
ROUNDING = 1e-5


def size_by_hand(delta: Tensor, norm: Norm) -> Tensor:
    flat = delta.flatten(1).abs()
    if norm == "Linf":
        return flat.amax(dim=1)
    return flat.sum(dim=1) if norm == "L1" else flat.pow(2).sum(dim=1).sqrt()


def assert_inside(x: Tensor, natural: Tensor, epsilon: float, norm: Norm) -> None:
    # A sum of many pixels is rounded more than the greatest of them.
    assert float(size_by_hand(x - natural, norm).max()) <= epsilon * (1 + ROUNDING) + 2e-6
    assert float(x.min()) >= 0.0
    assert float(x.max()) <= 1.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("trial", range(20))
def test_projection_ends_in_the_ball_and_in_the_pixel_range(norm: Norm, trial: int) -> None:
    generator = torch.Generator().manual_seed(trial)
    natural = torch.rand((5, 3, 4, 4), generator=generator).round(decimals=trial % 3)
    epsilon = 10.0 ** (trial / 6 - 3)
    away = natural + 3 * epsilon * torch.randn(natural.shape, generator=generator)
    x = project(away, natural, epsilon, norm)
    assert_inside(x, natural, epsilon, norm)
    again = project(x, natural, epsilon, norm)
    # An L1 projection sums over pixels, and so does its rounding.
    assert torch.allclose(again, x, atol=1e-5 if norm == "L1" else 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_leaves_what_is_inside(norm: Norm) -> None:
    natural = torch.full((2, 1, 3, 3), 0.5)
    near = natural + 0.01
    assert torch.allclose(project(near, natural, 0.2, norm), near, atol=1e-7)


def test_projection_onto_the_l2_ball_keeps_the_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    natural = torch.full((4, 1, 3, 3), 0.5)
    delta = torch.randn(natural.shape, generator=generator)
    wanted = natural + 0.1 * delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(project(natural + delta, natural, 0.1, "L2"), wanted, atol=1e-6)


def test_projection_onto_the_linf_ball_clips_each_pixel() -> None:
    natural = torch.tensor([0.05, 0.5, 0.95, 0.5]).view(1, 1, 2, 2)
    away = natural + torch.tensor([-1.0, 0.02, 1.0, 1.0]).view(1, 1, 2, 2)
    wanted = torch.tensor([0.0, 0.52, 1.0, 0.6]).view(1, 1, 2, 2)
    assert torch.allclose(project(away, natural, 0.1, "Linf"), wanted)


@pytest.mark.parametrize("norm", NORMS)
def test_sizes_and_units_are_those_of_the_norm(norm: Norm) -> None:
    delta = torch.randn((6, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(size(delta, norm), size_by_hand(delta, norm))
    assert torch.allclose(size_by_hand(unit(delta, norm), norm), torch.ones(6))
    assert torch.allclose(unit(delta, norm) * size(delta, norm).view(-1, 1, 1, 1), delta, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_step_of_the_same_length_climbs_more_than_the_steepest(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn((1, 2, 3, 3), generator=generator)
    best = steepest(gradient, norm)
    assert float(size_by_hand(best, norm)) == pytest.approx(1.0, abs=1e-6)
    for _ in range(50):
        other = torch.randn(gradient.shape, generator=generator)
        other = other / size_by_hand(other, norm)
        assert float((gradient * best).sum()) >= float((gradient * other).sum())


def test_an_l1_step_moves_the_pixels_of_the_largest_gradient_alike() -> None:
    gradient = torch.randn((4, 3, 5, 8), generator=torch.Generator().manual_seed(0))
    step = steepest(gradient, "L1")
    assert torch.allclose(size_by_hand(step, "L1"), torch.ones(4))
    for row, slope in zip(step.flatten(1), gradient.flatten(1), strict=True):
        moved = row != 0
        assert int(moved.sum()) == 6  # 5 % of 120
        assert torch.equal(row[moved].sign(), slope[moved].sign())
        assert float(row[moved].abs().max()) == float(row[moved].abs().min())
        assert float(slope[moved].abs().min()) > float(slope[~moved].abs().max())


def test_an_l1_step_moves_one_pixel_at_least() -> None:
    gradient = torch.tensor([0.1, -0.4, 0.2]).view(1, 1, 1, 3)
    assert steepest(gradient, "L1").flatten().tolist() == [0.0, -1.0, 0.0]


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_zero_moves_nothing(norm: Norm) -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert torch.equal(steepest(zero, norm), zero)
    assert torch.equal(unit(zero, norm), zero)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball(norm: Norm) -> None:
    natural = torch.full((400, 1, 3, 3), 0.5)
    x = random_start(natural, 0.2, norm, torch.Generator().manual_seed(0))
    assert_inside(x, natural, 0.2, norm)
    radii = size_by_hand(x - natural, norm) / 0.2
    assert float(radii.max()) > 0.95
    assert float(radii.min()) < (0.75 if norm == "Linf" else 0.05)


def keyed_noise(count: int, side: int, norm: Norm) -> Tensor:
    """Return starts around grey in a ball so small that the pixel range does not matter, over epsilon."""
    natural = torch.full((count, 1, side, side), 0.5, dtype=torch.float64)
    draws = KeyedDraws(0, np.arange(count))
    return (keyed_start(natural, torch.arange(count), 1e-3, norm, draws) - natural) / 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_keyed_starts_depend_on_seed_and_row_alone(norm: Norm) -> None:
    natural = torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    rows, everyone = np.array([3, 900, 17, 4, 5, 6]), torch.arange(6)
    whole = keyed_start(natural, everyone, 0.1, norm, KeyedDraws(7, rows))
    pick = torch.tensor([4, 0, 2])
    assert torch.equal(keyed_start(natural[pick], pick, 0.1, norm, KeyedDraws(7, rows)), whole[pick])
    part = KeyedDraws(7, rows[pick.numpy()])
    assert torch.equal(keyed_start(natural[pick], torch.arange(3), 0.1, norm, part), whole[pick])
    assert not torch.equal(keyed_start(natural, everyone, 0.1, norm, KeyedDraws(8, rows)), whole)
    assert len({float(row.sum()) for row in keyed_noise(6, 4, norm)}) == 6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.02, 0.3, 4.0])
def test_keyed_starts_are_in_the_ball_and_in_the_pixel_range(norm: Norm, epsilon: float) -> None:
    natural = torch.rand((50, 3, 4, 4), generator=torch.Generator().manual_seed(0)).round(decimals=1)
    start = keyed_start(natural, torch.arange(50), epsilon, norm, KeyedDraws(0, np.arange(50)))
    assert_inside(start, natural, epsilon, norm)
    assert not torch.equal(start, natural)


def test_keyed_starts_have_the_moments_of_their_law() -> None:
    flat = keyed_noise(500, 8, "Linf")
    assert float(flat.abs().max()) <= 1.0
    assert float(flat.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(flat.std()) == pytest.approx(3**-0.5, abs=0.01)
    for norm in ("L2", "L1"):
        sphere = keyed_noise(500, 8, norm)
        assert torch.allclose(size_by_hand(sphere, norm), torch.ones(500, dtype=torch.float64))
        # Each coordinate in units of its standard deviation is nearly normal, as a direction of 64 is.
        bell = sphere / sphere.std()
        assert float(bell.mean()) == pytest.approx(0.0, abs=0.02)
        assert float(bell.pow(4).mean()) == pytest.approx(3.0, abs=0.15)


def test_flat_norm_is_the_l2_norm_of_each_example() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    assert flat_norm(delta).flatten().tolist() == [5.0, 2.0]
    assert flat_norm(delta).shape == (2, 1, 1, 1)
