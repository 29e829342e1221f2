"""The shortest ways from points in the box [0, 1]^d to a hyperplane that do not leave the box.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (2020),
section 2, the projection onto a hyperplane with box constraints. For Linf and L2 the answer follows from
one number, the level: coordinate i moves a constant times min(level, cap_i), and how far that leads
towards the hyperplane is concave and piecewise linear in the level. So Newton's method from 0 climbs to
the exact level in a few passes over the coordinates, where the paper sorts the caps. For L1 the
coordinates are used up in the order of the normal's size.
"""

import math

import torch
from torch import Tensor

from training.attacks.norms import Norm

# The reference leaves a coordinate where it is when the normal is this small there (L2 and L1).
_FLAT = 1e-8


def towards_hyperplane(points: Tensor, normals: Tensor, offsets: Tensor, norm: Norm) -> Tensor:
    """Return the displacements, shortest in ``norm``, that bring points onto hyperplanes inside the box.

    Args:
        points: in [0, 1], shape (k, n, d): k points for each hyperplane.
        normals: w of the hyperplanes w x = b, shape (n, d).
        offsets: b, shape (n,).
        norm: what is shortest.

    Returns:
        Displacements (k, n, d). Where the box does not meet the hyperplane they lead to a corner of the
        box that is nearest to it, except that coordinates which the normal does not use stay.
    """
    gap = (normals * points).sum(dim=-1) - offsets
    direction = (1 - 2 * (gap >= 0).to(points)).unsqueeze(-1) * normals.sign()
    room = (direction.clamp(min=0) - points).abs_()
    need, slopes = gap.abs(), normals.abs()
    if norm == "Linf":
        return direction * _level_moves(slopes, room, need)
    divisors = slopes.masked_fill(slopes <= _FLAT, math.inf)
    if norm == "L2":
        return direction * slopes * _level_moves(slopes.square(), room / divisors, need)
    return direction * _greedy_moves(slopes, divisors, room, need)


def _level_moves(weights: Tensor, caps: Tensor, need: Tensor) -> Tensor:
    """Return min(level, caps) whose sum by weights is ``need``; all of the caps where they do not suffice."""
    level, gains = torch.zeros_like(need), weights * caps
    while True:
        # In place, so that the mask is of floats: with booleans each pass takes eight times as long.
        full = (caps - level.unsqueeze(-1)).le_(0)
        spent = torch.linalg.vecdot(gains, full)
        slope = torch.linalg.vecdot(weights, full.neg_().add_(1))
        higher = torch.where(slope > 0, (need - spent) / slope, level)
        if not bool((higher > level).any()):
            return torch.minimum(caps, level.unsqueeze(-1))
        level = torch.maximum(level, higher)


def _greedy_moves(slopes: Tensor, divisors: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Return moves within ``room`` whose sum by slopes is ``need``, the steepest coordinates first."""
    order = slopes.argsort(dim=-1, descending=True)
    steep, wide = slopes.gather(-1, order), order.expand_as(room)
    free = room.gather(-1, wide)
    left = torch.cat([need.unsqueeze(-1), -steep * free], dim=-1).cumsum(dim=-1)[..., :-1]
    moves = (left / divisors.gather(-1, order)).clamp_(min=0.0).minimum(free)
    return torch.empty_like(room).scatter_(-1, wide, moves)
