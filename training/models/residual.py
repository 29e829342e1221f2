"""Pre-activation residual networks (He et al., "Identity mappings in deep residual networks", 2016)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice; the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        same_shape = stride == 1 and channels_in == channels_out
        self.shortcut = None if same_shape else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels_in, h, w) to (n, channels_out, h / stride, w / stride)."""
        active = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return out + shortcut


class ResidualNetwork(nn.Module):
    """A stem, groups of pre-activation blocks, global average pooling, logits.

    Args:
        channels: colour channels of the input.
        classes: number of logits.
        stem: (channels, stride) of the stem.
        groups: (channels, stride) of each group; its first block has the stride.
        blocks: blocks in each group.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        stem: tuple[int, int],
        groups: Sequence[tuple[int, int]],
        blocks: int,
    ) -> None:
        super().__init__()
        width, stem_stride = stem
        self.stem = nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)
        layers: list[nn.Module] = []
        for group, stride in groups:
            for block in range(blocks):
                layers.append(PreActivationBlock(width, group, 1 if block else stride))
                width = group
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (n, c, h, w) to logits (n, classes)."""
        features = F.relu(self.norm(self.blocks(self.stem(x))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
