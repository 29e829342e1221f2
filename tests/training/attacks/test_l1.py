"""The projection onto L1 ball and box against its definition, solved by bisection, and the reference."""

import pytest
import torch
from torch import Tensor

from training.attacks import l1
from training.attacks.l1 import l1_correction, project_l1

SHAPES = [(1, 6, 6), (3, 4, 5), (1, 1, 3)]
EPSILONS = [0.05, 0.9, 6.0]
COUNT = 20


def images(trial: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Give natural images, some of them black and white alone, and others near or far; float64."""
    generator = torch.Generator().manual_seed(trial)
    natural = torch.rand((COUNT, *shape), generator=generator, dtype=torch.float64)
    natural = natural.round(decimals=trial % 3)
    delta = torch.randn(natural.shape, generator=generator, dtype=torch.float64)
    where = torch.rand(natural.shape, generator=generator) < (0.3, 1.0)[trial % 2]
    return natural + delta * where * 10.0 ** (trial % 5 / 2 - 1.5), natural


def nearest(adversarial: Tensor, natural: Tensor, epsilon: float) -> Tensor:
    """Solve the problem's dual: z(a) = box(natural + shrink(delta, a)) with the least a that fits."""
    delta = adversarial - natural

    def at(amount: Tensor) -> Tensor:
        shrunk = delta.sign() * (delta.abs() - amount.view(-1, 1, 1, 1)).clamp(min=0.0)
        return (natural + shrunk).clamp(0.0, 1.0)

    low = torch.zeros(len(delta), dtype=delta.dtype)
    high = delta.flatten(1).abs().amax(dim=1)
    fits = (at(low) - natural).flatten(1).abs().sum(dim=1) <= epsilon
    for _ in range(60):
        middle = (low + high) / 2
        over = (at(middle) - natural).flatten(1).abs().sum(dim=1) > epsilon
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return at(torch.where(fits, torch.zeros_like(high), high))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("trial", range(5))
def test_the_projection_is_the_nearest_point(shape: tuple[int, int, int], epsilon: float, trial: int) -> None:
    adversarial, natural = images(trial, shape)
    wanted = nearest(adversarial, natural, epsilon)
    found = project_l1(adversarial, natural, epsilon)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10)
    in_single = project_l1(adversarial.float(), natural.float(), epsilon)
    assert torch.allclose(in_single.double(), wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_it_lies_in_the_ball_and_in_the_box_and_no_feasible_point_is_nearer(epsilon: float) -> None:
    adversarial, natural = images(3, (3, 4, 5))
    found = project_l1(adversarial, natural, epsilon)
    assert float((found - natural).flatten(1).abs().sum(dim=1).max()) == pytest.approx(epsilon, abs=1e-9)
    assert -1e-12 < float(found.min()) <= float(found.max()) < 1 + 1e-12
    far = (adversarial - found).flatten(1).norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        # Feasible points lie between the projection and others that are feasible: the set is convex.
        noise = torch.randn(natural.shape, generator=generator, dtype=natural.dtype) * 0.1 ** (number % 3)
        inside = project_l1(found + noise, natural, epsilon)
        assert bool(((adversarial - inside).flatten(1).norm(dim=1) >= far - 1e-9).all())


def test_what_is_inside_stays_and_what_only_leaves_the_box_is_clipped() -> None:
    natural = torch.tensor([0.9, 0.5, 0.0, 0.2]).view(1, 1, 2, 2)
    delta = torch.tensor([0.05, -0.1, 0.0, 0.3]).view(1, 1, 2, 2)
    assert torch.equal(l1_correction(natural, delta, 0.5), torch.zeros_like(delta))
    beyond = torch.tensor([0.3, -0.1, -0.4, 0.0]).view(1, 1, 2, 2)
    wanted = torch.tensor([1.0, 0.4, 0.0, 0.2]).view(1, 1, 2, 2)
    assert torch.allclose(project_l1(natural + beyond, natural, 0.21), wanted)


def test_a_single_pixel_and_pixels_that_all_leave_the_box() -> None:
    one = project_l1(torch.tensor([[[[3.0]]]]), torch.tensor([[[[0.5]]]]), 0.2)
    assert one.item() == pytest.approx(0.7)
    natural = torch.tensor([0.8, 0.7, 0.6]).view(1, 1, 1, 3)
    # Clipped to the box the change is 0.2, 0.3, 0.4; each loses alpha once it passes 1.8, 0.7, 0.1.
    adversarial = natural + torch.tensor([2.0, 1.0, 0.5]).view(1, 1, 1, 3)
    wanted = natural + torch.tensor([0.2, 0.3, 0.3]).view(1, 1, 1, 3)
    assert torch.allclose(project_l1(adversarial, natural, 0.8), wanted, atol=1e-6)


def test_rows_do_not_influence_each_other() -> None:
    adversarial, natural = (tensor.float() for tensor in images(3, (3, 4, 5)))
    whole = project_l1(adversarial, natural, 0.9)
    for row in range(COUNT):
        alone = project_l1(adversarial[row : row + 1], natural[row : row + 1], 0.9)
        assert torch.equal(alone[0], whole[row])


def test_the_quick_sort_gives_the_same_as_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn((9, 40), generator=generator) * 4).clamp(min=0.0)
    values[:, 3], values[:, 25] = -0.0, 1e30
    values[:, 7] = values[:, 30]
    kinks, bends = l1._quick_kinks(values)
    assert torch.equal(kinks, values.sort(dim=1).values)
    by_hand = [sorted([(v, 1.0) for v in row[:20]] + [(v, 2.0) for v in row[20:]]) for row in values.tolist()]
    wanted = torch.tensor([[1.0 if mark == 1.0 else -1.0 for _, mark in row] for row in by_hand])
    assert torch.equal(bends, wanted)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8)])
@pytest.mark.parametrize("trial", range(6))
def test_it_is_the_reference_to_the_last_bit(shape: tuple[int, int, int], trial: int) -> None:
    reference = pytest.importorskip("pyautoattack.autopgd_base")
    adversarial, natural = (tensor.float() for tensor in images(trial, shape))
    delta = adversarial - natural
    for epsilon in (0.1, 1.0, 12.0):
        wanted = natural + delta + reference.L1_projection(natural, delta, epsilon)
        assert torch.equal(project_l1(adversarial, natural, epsilon), wanted)
