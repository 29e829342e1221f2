"""Adversarial weight perturbation (Wu, Xia and Wang, "Adversarial weight perturbation", 2020)."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

_TINY = 1e-20


@contextlib.contextmanager
def perturbed_weights(model: nn.Module, loss: Callable[[], Tensor], gamma: float) -> Iterator[None]:
    """Move every weight tensor up the loss by ``gamma`` times its norm, and back afterwards.

    One step of equation 9 for each layer: v = gamma |w| g / |g|. Vectors (biases, BatchNorm) stay, as in
    the authors' code. Buffers are not touched by the extra pass.

    Args:
        model: in training mode.
        loss: computes the scalar to ascend with the model's present weights.
        gamma: relative size; 0 does nothing.
    """
    if gamma == 0:
        yield
        return
    weights = [weight for weight in model.parameters() if weight.dim() > 1 and weight.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    originals = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(gradient * (gamma * weight.norm() / (gradient.norm() + _TINY)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)
