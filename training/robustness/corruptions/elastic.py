"""Elastic distortion. Images and results are float64, shape (n, c, h, w)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.robustness.corruptions.draws import Draws
from training.robustness.corruptions.matrices import gaussian, separable, symmetric

_REACH = 3.0


def elastic_transform(
    images: Tensor, draws: Draws, strength: float, smoothness: float, jitter: float
) -> Tensor:
    """Distort by a random affine map, then by a smooth random field; both sample bilinearly.

    All three parameters are shares of the image's side: how far the field moves before it is smoothed, the
    Gaussian that smooths it, and how far the affine map moves three points.
    """
    if jitter:
        images = _sampled(images, _affine(images, draws, jitter), "pixel centres")
    if not strength:
        return images
    height, width = images.shape[2:]
    down_map = gaussian(height, smoothness * height, symmetric, _REACH)
    across_map = gaussian(width, smoothness * width, symmetric, _REACH)
    right, down = (
        separable(2 * draws.uniform(height, width) - 1, down_map, across_map) * strength * height
        for _ in range(2)
    )
    return _sampled(images, _pixels(images) + torch.stack([right, down], dim=3), "pixel edges")


def _pixels(images: Tensor) -> Tensor:
    """Column and row of each pixel, shape (h, w, 2)."""
    height, width = images.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], dim=2).double()


def _affine(images: Tensor, draws: Draws, jitter: float) -> Tensor:
    """Where each pixel comes from when three points around the middle are moved, shape (n, h, w, 2)."""
    height, width = images.shape[2:]
    middle = torch.tensor([height // 2, width // 2], dtype=torch.float64)
    corners = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    points = middle + corners * (min(height, width) // 3)
    moved = points + (2 * draws.uniform(3, 2) - 1) * jitter * min(height, width)
    known = torch.cat([moved, torch.ones(len(moved), 3, 1, dtype=torch.float64)], dim=2)
    back: Tensor = torch.linalg.solve(known, points.expand_as(moved))
    turned: Tensor = torch.einsum("hwk,nkd->nhwd", _pixels(images), back[:, :2])
    return turned + back[:, None, 2:]


def _sampled(images: Tensor, positions: Tensor, reflect_at: str) -> Tensor:
    """Sample at ``positions`` (n, h, w, 2), columns and rows in pixels; outside, the image is reflected."""
    size = torch.tensor([images.shape[3], images.shape[2]], dtype=torch.float64)
    centres = reflect_at == "pixel centres"
    grid = 2 * positions / (size - 1) - 1 if centres else (2 * positions + 1) / size - 1
    found: Tensor = F.grid_sample(images, grid, "bilinear", "reflection", align_corners=centres)
    return found
