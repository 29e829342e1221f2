"""Gradients with respect to the input, and the model state that they need."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from training.errors import TrainingError

PerExampleLoss: TypeAlias = Callable[[Tensor], Tensor]
"""From logits (n, classes) to a loss for each example (n,)."""


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode; every module is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode without parameter gradients; every module and parameter is restored."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with evaluating(model):
        for parameter, _ in wanted:
            parameter.requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
        try:
            yield model
        finally:
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)


def refuse_nan(*tensors: Tensor) -> None:
    """Refuse what a model gave for perturbed images if it is not finite.

    NaN has an argmax, which may be the true class: an attack that meets it would call that robust.

    Raises:
        TrainingError: NaN or infinity.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        msg = "the model gives NaN or infinity (logits, loss or input gradient) on perturbed images; its "
        msg += "robustness cannot be told: train it again, with a lower learning rate"
        raise TrainingError(msg)


def input_gradient(model: nn.Module, x: Tensor, loss: PerExampleLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate the summed loss with respect to the images.

    Args:
        model: frozen, in eval mode.
        x: images, shape (n, c, h, w).
        loss: one value for each example.

    Returns:
        The gradient (n, c, h, w), zero where the model passes none back, the logits (n, classes) and the
        losses (n,), all detached.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        values = loss(logits)
        found = torch.autograd.grad(values.sum(), x, allow_unused=True) if values.requires_grad else (None,)
    gradient = torch.zeros_like(x) if found[0] is None else found[0]
    return gradient.detach(), logits.detach(), values.detach()
