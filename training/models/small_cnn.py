"""A small convolutional network without BatchNorm."""

from torch import Tensor, nn


class SmallCnnNetwork(nn.Module):
    """Two strided 3x3 convolutions, a hidden layer, logits.

    Args:
        channels: colour channels of the input.
        size: (height, width) of the input in pixels.
        classes: number of logits.
        width: channels of the first convolution; the second has twice as many.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        height, breadth = (-(-side // 4) for side in size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * height * breadth, hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
