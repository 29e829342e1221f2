"""An exponential moving average of a model's weights and BatchNorm statistics."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay average + (1 - decay) weights, after each step.

    The decay rises as (1 + step) / (10 + step) until it reaches ``decay``, so that the random start is
    forgotten. Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.state: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step ``step``, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - decay)
            else:
                self.state[name].copy_(value)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over an average that was saved, on the model's device and in its memory layout."""
        for name, value in state.items():
            self.state[name].copy_(value)
