"""Ways to a hyperplane inside the box, against linear and quadratic programs and against the reference."""

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from training.attacks.hyperplane import towards_hyperplane
from training.attacks.norms import Norm
from training.randomness import FloatArray

NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
ORDER = {"Linf": np.inf, "L2": 2, "L1": 1}


def some_point(seed: int, size: int) -> tuple[Tensor, Tensor, float]:
    """Draw a point, often with pixels at the edge of the box, a normal, often with zeros, and an offset."""
    random = np.random.default_rng(seed)
    point = (random.uniform(-0.5, 1.5, size) if seed % 2 else random.uniform(0.0, 1.0, size)).clip(0, 1)
    normal = random.normal(size=size) * random.uniform(size=size) ** 3
    normal[random.uniform(size=size) < 0.2 * (seed % 3)] = 0.0
    normal[0] = normal[0] or 1.0
    goal = random.uniform(0.0, 1.0, size)
    return torch.from_numpy(point), torch.from_numpy(normal), float(normal @ goal)


def move(point: Tensor, normal: Tensor, offset: float, norm: Norm) -> FloatArray:
    offsets = torch.tensor([offset], dtype=point.dtype)
    found = towards_hyperplane(point.view(1, 1, -1), normal.view(1, -1), offsets, norm)
    return np.asarray(found[0, 0].numpy())


def shortest(point: FloatArray, normal: FloatArray, offset: float, norm: Norm) -> float:
    """Solve the program that the projection stands for, for one point."""
    gap, low, high, size = offset - normal @ point, -point, 1 - point, len(point)
    if norm == "L2":
        solved = optimize.minimize(
            lambda d: d @ d,
            np.zeros(size),
            jac=lambda d: 2 * d,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda d: normal @ d - gap, "jac": lambda _: normal},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        return float(np.sqrt(solved.fun))
    if norm == "L1":
        equal, costs = np.concatenate([normal, -normal]), np.ones(2 * size)
        bounds = [(0, top) for top in high] + [(0, -bottom) for bottom in low]
        return float(optimize.linprog(costs, A_eq=equal[None], b_eq=[gap], bounds=bounds).fun)
    eye, ones = np.eye(size), np.ones((size, 1))
    beside = np.block([[eye, -ones], [-eye, -ones]])
    bounds = [*zip(low, high, strict=True), (0, None)]
    costs = np.append(np.zeros(size), 1.0)
    equal = np.append(normal, 0.0)[None]
    solved = optimize.linprog(
        costs, A_ub=beside, b_ub=np.zeros(2 * size), A_eq=equal, b_eq=[gap], bounds=bounds
    )
    return float(solved.fun)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_the_way_is_as_short_as_the_solved_program_says(norm: Norm, size: int) -> None:
    for seed in range(12):
        point, normal, offset = some_point(seed, size)
        found = move(point, normal, offset, norm)
        there = point.numpy() + found
        assert normal.numpy() @ there == pytest.approx(offset, abs=1e-9)
        assert there.min() >= -1e-12
        assert there.max() <= 1 + 1e-12
        wanted = shortest(point.numpy(), normal.numpy(), offset, norm)
        assert np.linalg.norm(found, ORDER[norm]) == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_where_the_box_does_not_meet_the_hyperplane_the_way_ends_in_its_nearest_corner(
    norm: Norm, side: float
) -> None:
    point, normal = torch.tensor([0.2, 0.0, 0.7, 0.4]), torch.tensor([2.0, -1.0, 0.0, -0.5])
    there = point.numpy() + move(point, normal, side * 10.0, norm)
    corner = [1.0, 0.0, 0.7, 0.0] if side > 0 else [0.0, 1.0, 0.7, 1.0]
    assert there == pytest.approx(np.array(corner), abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_known_ways(norm: Norm) -> None:
    """The first pixel may go up by 0.1 only; 2 x + y is 2 and has to be 2.15, then 2.5."""
    point, normal = torch.tensor([0.9, 0.2]), torch.tensor([2.0, 1.0])
    near = {"Linf": [0.05, 0.05], "L2": [0.06, 0.03], "L1": [0.075, 0.0]}[norm]
    assert move(point, normal, 2.15, norm) == pytest.approx(np.array(near), abs=1e-6)
    assert move(point, normal, 2.5, norm) == pytest.approx(np.array([0.1, 0.3]), abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("offset", [-0.5, 0.0, 0.5])
def test_a_normal_of_zero_moves_nothing(norm: Norm, offset: float) -> None:
    assert move(torch.tensor([0.0, 0.3, 1.0]), torch.zeros(3), offset, norm).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_on_the_hyperplane_stays(norm: Norm) -> None:
    assert not move(torch.tensor([0.25, 0.5, 1.0]), torch.tensor([2.0, -1.0, 0.0]), 0.0, norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_tiny_normal_gives_finite_ways(norm: Norm) -> None:
    found = move(torch.tensor([0.25, 0.0, 1.0]), torch.tensor([1e-30, -1e-12, 1e-38]), 0.1, norm)
    assert np.isfinite(found).all()


def test_caps_of_very_different_sizes_are_met_one_after_another() -> None:
    """L2: each coordinate is used up in turn, the last takes the rest."""
    normal = torch.tensor([10.0**power for power in range(6)], dtype=torch.float64)
    point = 1 - normal.pow(2) * 1e-12
    there = point + torch.from_numpy(move(point, normal, float(normal.sum()) - 0.5, "L2"))
    assert there[:-1].tolist() == pytest.approx([1.0] * 5, abs=1e-15)
    assert float(1 - there[-1]) == pytest.approx(0.5e-5, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_points_and_hyperplanes_do_not_influence_each_other(norm: Norm) -> None:
    cases = [some_point(seed, 7) for seed in range(6)]
    normals = torch.stack([normal for _, normal, _ in cases[:3]])
    offsets = torch.tensor([offset for _, _, offset in cases[:3]], dtype=torch.float64)
    points = torch.stack([point for point, _, _ in cases]).view(2, 3, 7)
    together = towards_hyperplane(points, normals, offsets, norm)
    for i in range(6):
        alone = move(points[i // 3, i % 3], normals[i % 3], float(offsets[i % 3]), norm)
        assert together[i // 3, i % 3].numpy() == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [49, 784])
def test_ways_are_those_of_the_reference(norm: Norm, size: int) -> None:
    reference = pytest.importorskip("pyautoattack.fab_projections")
    project = {"Linf": "projection_linf", "L2": "projection_l2", "L1": "projection_l1"}[norm]
    random = torch.Generator().manual_seed(size)
    points = (torch.rand((2, 40, size), generator=random) * 1.6 - 0.3).clamp(0.0, 1.0)
    normals = torch.randn((40, size), generator=random) * torch.rand((40, size), generator=random) ** 3
    normals[::3, ::5] = 0.0
    offsets = (normals * points[0]).sum(dim=1) + 0.2 * size**0.5 * torch.randn(40, generator=random)
    twice = torch.cat([normals, normals]), torch.cat([offsets, offsets])
    wanted = getattr(reference, project)(points.flatten(0, 1), *twice)
    found = towards_hyperplane(points, normals, offsets, norm).flatten(0, 1)
    assert torch.allclose(found, wanted, rtol=0.0, atol=3e-6)
