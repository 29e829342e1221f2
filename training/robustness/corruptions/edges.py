"""Edges of 8-bit pictures, distances to them, and equalised histograms, for whole batches.

Pictures hold whole numbers 0 to 255 as float64, shape (n, h, w). The algorithms are Canny's (1986) with
the thresholds on |dx| + |dy|, Borgefors' chamfer distance (1986) with a 5x5 mask, and the usual
equalisation; each rounds as OpenCV does.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_TAN_22_5 = 2.0**0.5 - 1
_TAN_67_5 = 2.0**0.5 + 1
_LEVELS = 256
# Of a step to a neighbour, by its squared distance.
_LENGTHS = {1: 1.0, 2: 1.4, 5: 2.1969}


def pad(pictures: Tensor, by: int, mode: str) -> Tensor:
    """Pad (n, h, w) by ``by`` < 8 pixels on each side; ``mode`` is torch's: replicate or reflect."""
    return F.pad(pictures[:, None], (by, by, by, by), mode=mode)[:, 0]


def neighbour(padded: Tensor, by: int, down: int, right: int) -> Tensor:
    """Return the pixels ``down`` and ``right`` of each one, from a picture that was padded by ``by``."""
    height, width = padded.shape[1] - 2 * by, padded.shape[2] - 2 * by
    return padded[:, by + down : by + down + height, by + right : by + right + width]


def average3(pictures: Tensor) -> Tensor:
    """Average each pixel with its eight neighbours; the border is reflected about its pixels."""
    padded = pad(pictures, 1, "reflect")
    return sum_of(padded, ((1, 1, 1), (1, 1, 1), (1, 1, 1))) * (1 / 9)


def sum_of(padded: Tensor, weights: tuple[tuple[int, ...], ...]) -> Tensor:
    """Weigh 3x3 neighbours of a picture that was padded by 1."""
    total = torch.zeros_like(neighbour(padded, 1, 0, 0))
    for down, line in enumerate(weights, start=-1):
        for right, weight in enumerate(line, start=-1):
            total += weight * neighbour(padded, 1, down, right)
    return total


def find_edges(pictures: Tensor, low: float, high: float) -> Tensor:
    """Mark the edges above ``high`` and those above ``low`` that touch them, bool, shape (n, h, w)."""
    padded = pad(pictures, 1, "replicate")
    across = sum_of(padded, ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)))
    down = sum_of(padded, ((-1, -2, -1), (0, 0, 0), (1, 2, 1)))
    strength = across.abs() + down.abs()
    ridges = _ridges(strength, across, down) & (strength > low)
    edges = ridges & (strength > high)
    while True:
        grown = ridges & (F.max_pool2d(edges[:, None].double(), 3, 1, 1)[:, 0] > 0)
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _ridges(strength: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Whether each pixel is stronger than its two neighbours along the gradient."""
    around = pad_zero(strength, 1)
    left, right = neighbour(around, 1, 0, -1), neighbour(around, 1, 0, 1)
    above, below = neighbour(around, 1, -1, 0), neighbour(around, 1, 1, 0)
    fallen = torch.maximum(neighbour(around, 1, -1, -1), neighbour(around, 1, 1, 1))
    rising = torch.maximum(neighbour(around, 1, -1, 1), neighbour(around, 1, 1, -1))
    # Signs are compared as those of two's complement numbers: zero counts as positive.
    opposite = (across < 0) != (down < 0)
    diagonal = strength > torch.where(opposite, rising, fallen)
    steep = down.abs() > _TAN_67_5 * across.abs()
    flat = down.abs() < _TAN_22_5 * across.abs()
    found = torch.where(steep, (strength > above) & (strength >= below), diagonal)
    return torch.where(flat, (strength > left) & (strength >= right), found)


def pad_zero(pictures: Tensor, by: int, value: float = 0.0) -> Tensor:
    """Pad (n, h, w) by ``by`` pixels of ``value`` on each side."""
    return F.pad(pictures, (by, by, by, by), value=value)


def distance(edges: Tensor, furthest: int) -> Tensor:
    """Chamfer distance of each pixel to the nearest edge, at most ``furthest``, in pixels, (n, h, w)."""
    cap = float(furthest)
    found = torch.where(edges, 0.0, cap).float()
    # A step covers a pixel at least.
    for _ in range(min(furthest, sum(edges.shape[1:]))):
        around = pad_zero(found, 2, cap)
        nearer = found
        for down in range(-2, 3):
            for right in range(-2, 3):
                length = _LENGTHS.get(down**2 + right**2)
                if length:
                    nearer = torch.minimum(nearer, neighbour(around, 2, down, right) + length)
        if torch.equal(nearer, found):
            break
        found = nearer
    return found.double()


def equalise(pictures: Tensor) -> Tensor:
    """Spread the levels of each picture over 0 to 255; one of a single level stays."""
    count, pixels = len(pictures), pictures[0].numel()
    levels = pictures.flatten(1).long()
    histogram = torch.zeros(count, _LEVELS, dtype=torch.float64)
    histogram.scatter_add_(1, levels, torch.ones_like(pictures).flatten(1))
    lowest = histogram.gather(1, levels.amin(dim=1, keepdim=True))
    scale = (_LEVELS - 1) / (pixels - lowest).clamp(min=1.0)
    table = torch.round(((histogram.cumsum(dim=1) - lowest) * scale).float())
    spread = table.double().gather(1, levels).view_as(pictures)
    return torch.where((lowest == pixels).view(-1, 1, 1), pictures, spread)
