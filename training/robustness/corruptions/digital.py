"""Digital processing. Images and results are float64, shape (n, c, h, w)."""

from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from training.robustness.corruptions.draws import Draws
from training.robustness.corruptions.matrices import box

_LEVELS = 255


def contrast(images: Tensor, _draws: Draws, kept: float) -> Tensor:
    """Keep a share of each pixel's distance from its channel's mean."""
    means = images.mean(dim=(2, 3), keepdim=True)
    return (images - means) * kept + means


def pixelate(images: Tensor, _draws: Draws, share: float) -> Tensor:
    """Shrink to a ``share`` of the size by box averages in 8 bits, enlarge by repeating pixels."""
    height, width = images.shape[2:]
    fewer_rows, fewer_columns = int(height * share), int(width * share)
    narrow = _whole(_whole(images * _LEVELS) @ box(width, fewer_columns).T)
    small = _whole(box(height, fewer_rows) @ narrow) / _LEVELS
    return small[:, :, _nearest(height, fewer_rows)][:, :, :, _nearest(width, fewer_columns)]


def _whole(levels: Tensor) -> Tensor:
    return torch.floor(levels + 0.5)


def _nearest(size: int, fewer: int) -> Tensor:
    """Return which of ``fewer`` pixels each of ``size`` repeats; Pillow's sums decide ties."""
    steps = np.full(size, fewer / size)
    steps[0] /= 2
    return torch.from_numpy(np.floor(np.cumsum(steps)).astype(np.int64))


def jpeg_compression(images: Tensor, _draws: Draws, quality: int) -> Tensor:
    """Write as JPEG of ``quality`` (1 to 95) and read back; grey goes as colour, as in the source."""
    levels = _whole(images * _LEVELS).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    read = np.stack([_through_jpeg(image, quality) for image in levels])
    return torch.from_numpy(read).permute(0, 3, 1, 2).double() / _LEVELS


def _through_jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    grey = image.shape[2] == 1
    written = Image.fromarray(image[:, :, 0] if grey else image).convert("RGB")
    buffer = BytesIO()
    written.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        read = np.asarray(opened.convert("L") if grey else opened)
    return read[:, :, None] if grey else read


def saturate(images: Tensor, _draws: Draws, factor: float, rise: float) -> Tensor:
    """Change the saturation of hue, saturation and value to saturation * factor + rise; hue and value stay.

    A pixel without colour has hue 0, red, so ``rise`` reddens it. A grey image stays as it is: its source
    takes the red channel, which is the value.
    """
    if images.shape[1] == 1:
        return images
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    spread = value - least
    saturation = torch.where(value > 0, spread / value.clamp(min=1e-12), 0.0)
    changed = (saturation * factor + rise).clamp(0.0, 1.0)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=images.dtype).view(1, 3, 1, 1)
    distance = torch.where(spread > 0, (value - images) / spread.clamp(min=1e-12), red)
    return value * (1.0 - changed * distance)
