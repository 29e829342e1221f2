"""The geometry: everything stays in the ball and in the pixel range, and batches do not matter."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.attacks.norms import Norm, flat_norm, keyed_noise, project, random_start, steepest, unit

NORMS: tuple[Norm, ...] = ("Linf", "L2")
ROUNDING = 1e-5


def size(delta: Tensor, norm: Norm) -> Tensor:
    flat = delta.flatten(1)
    return flat.abs().amax(dim=1) if norm == "Linf" else flat.pow(2).sum(dim=1).sqrt()


def assert_inside(x: Tensor, natural: Tensor, epsilon: float, norm: Norm) -> None:
    assert float(size(x - natural, norm).max()) <= epsilon * (1 + ROUNDING) + 1e-7
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
    assert torch.allclose(again, x, atol=1e-6)


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
def test_no_step_of_the_same_length_climbs_more_than_the_steepest(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn((1, 2, 3, 3), generator=generator)
    best = steepest(gradient, norm)
    assert float(size(best, norm)) == pytest.approx(1.0, abs=1e-6)
    for _ in range(50):
        other = torch.randn(gradient.shape, generator=generator)
        other = other / size(other, norm)
        assert float((gradient * best).sum()) >= float((gradient * other).sum())


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
    radii = size(x - natural, norm) / 0.2
    assert float(radii.max()) > 0.95
    assert float(radii.min()) < (0.05 if norm == "L2" else 0.75)


@pytest.mark.parametrize("norm", NORMS)
def test_keyed_noise_depends_on_seed_and_row_alone(norm: Norm) -> None:
    natural = torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    rows = np.array([3, 900, 17, 4, 5, 6])
    whole = keyed_noise(natural, rows, norm, 7)
    pick = np.array([4, 0, 2])
    assert torch.equal(keyed_noise(natural[pick] * 0, rows[pick], norm, 7), whole[pick])
    assert not torch.equal(keyed_noise(natural, rows, norm, 8), whole)
    assert len({float(row.sum()) for row in whole}) == len(rows)


def test_keyed_noise_has_the_moments_of_its_law() -> None:
    natural, rows = torch.zeros(500, 1, 8, 8), np.arange(500)
    flat = keyed_noise(natural, rows, "Linf", 0)
    assert float(flat.abs().max()) <= 1.0
    assert float(flat.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(flat.std()) == pytest.approx(3**-0.5, abs=0.01)
    bell = keyed_noise(natural, rows, "L2", 0)
    assert float(bell.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(bell.std()) == pytest.approx(1.0, abs=0.02)


def test_flat_norm_is_the_l2_norm_of_each_example() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    assert flat_norm(delta).flatten().tolist() == [5.0, 2.0]
    assert flat_norm(delta).shape == (2, 1, 1, 1)
