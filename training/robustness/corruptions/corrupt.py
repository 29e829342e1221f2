"""Corrupted images, the same for every batch, order and device."""

from torch import Tensor

from training.errors import DataError
from training.randomness import IntArray, derive_seed
from training.robustness.corruptions.catalogue import (
    SEVERITIES,
    ParameterSet,
    find_corruption,
    parameters_for,
)
from training.robustness.corruptions.draws import Draws

_RANK = 4
_CHANNELS = (1, 3)
_LEAST_SIDE = 8


def corrupt(
    images: Tensor,
    rows: IntArray,
    kind: str,
    severity: int,
    seed: int,
    *,
    parameters: ParameterSet | None = None,
) -> Tensor:
    """Return the images corrupted: float32 in [0, 1], the shape and device of ``images``.

    An image's corruption depends on its pixels, its row, ``kind``, ``severity`` and ``seed`` alone. It is
    computed on the CPU in float64, so that neither a device nor a batch changes it; each image needs some
    tens of times its own memory meanwhile.

    Args:
        images: float, finite, in [0, 1], shape (n, c, h, w), c 1 or 3, h and w at least 8.
        rows: the examples' indices in their data set, shape (n,).
        kind: the name of one of CORRUPTIONS.
        severity: 1 to 5.
        seed: the key of every random number.
        parameters: whose parameters; by default ImageNet-C's from 64 pixels on the shorter side, else
            CIFAR-10-C's.

    Raises:
        DataError: an unknown kind or severity, or images of another shape, type or range.
    """
    corruption = find_corruption(kind)
    if severity not in SEVERITIES:
        msg = f"severity {severity} of {kind} is not one of 1, 2, 3, 4, 5"
        raise DataError(msg)
    _check(images, rows)
    if not len(images):
        return images.float()
    chosen = parameters or parameters_for(*images.shape[2:])
    draws = Draws(derive_seed(seed, "corruption", kind, severity), rows)
    exact = images.detach().cpu().double()
    found = corruption.apply(exact, draws, *corruption.settings(chosen)[severity - 1])
    return found.clamp(0.0, 1.0).float().to(images.device)


def _check(images: Tensor, rows: IntArray) -> None:
    shape = tuple(images.shape)
    if len(shape) != _RANK or shape[1] not in _CHANNELS or min(shape[2:]) < _LEAST_SIDE:
        msg = f"images of shape {shape} cannot be corrupted; give (n, 1 or 3, h, w) with h and w at least 8"
        raise DataError(msg)
    if rows.shape != shape[:1]:
        msg = f"{shape[0]} images but rows of shape {rows.shape}; give one row number for each image"
        raise DataError(msg)
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        msg = "pixels must be floating-point numbers in [0, 1]; divide 8-bit pixels by 255"
        raise DataError(msg)
