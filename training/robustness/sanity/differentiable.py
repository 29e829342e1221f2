"""Models that cannot be differentiated: the reason in words, and a stand-in that gives no gradient."""

import torch
from torch import Tensor, nn

from training.attacks.gradients import input_gradient


class WithoutGradient(nn.Module):
    """The same outputs, cut off from the input: its input gradient is zero."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, c, h, w) to the model's logits (n, classes)."""
        with torch.no_grad():
            logits: Tensor = self.model(x.detach())
        return logits


def refusal(model: nn.Module, x: Tensor) -> str | None:
    """Try to differentiate a model that answers for ``x``, shape (n, c, h, w); say what it raised."""
    try:
        input_gradient(model, x, lambda logits: logits.sum(dim=1))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's network may raise anything
        return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
    return None
