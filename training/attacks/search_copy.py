"""A quicker copy of a model for searching: BatchNorm folded, channels last, bfloat16 where it is native."""

import copy
import warnings
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from training.attacks.gradients import input_gradient
from training.attacks.losses import cross_entropy

# What a copy may change of a logit, as a share of the logits' spread: rounding of float32, of bfloat16.
_FLOAT32_ROUNDING = 1e-3
_BFLOAT16_ROUNDING = 0.1
_COSINE = 0.7
_NEARLY_ALL = 0.8

Precision: TypeAlias = Literal["float32", "bfloat16"]


class _InBfloat16(nn.Module):
    """Takes and gives float32; in between everything is bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.bfloat16()).float()
        return logits


def native_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies in bfloat16 by itself; emulated it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001 - torch has no public name for it


def search_copy(
    model: nn.Module, probe: Tensor, *, fold: bool = True, bfloat16: bool = False
) -> tuple[nn.Module, Precision]:
    """Copy a model for searching; a copy that does not compute the same function is not used.

    A randomised model disagrees with itself, so none is ever copied.

    Args:
        model: frozen, in eval mode; it is left as it was.
        probe: images to compare the copy on, shape (n, c, h, w).
        fold: fold BatchNorm into the convolution before it, where there is one.
        bfloat16: search in bfloat16, where the device has it.

    Returns:
        The copy, frozen and in eval mode, or the model itself; and the precision it computes in.
    """
    if not repeats(model, probe):
        return model, "float32"
    quick = _folded(model, probe) if fold else model
    lowered = _lowered(quick, probe) if bfloat16 and native_bfloat16(probe.device) else None
    return (quick, "float32") if lowered is None else (lowered, "bfloat16")


def repeats(model: nn.Module, probe: Tensor) -> bool:
    """Tell whether the model says the same twice: a randomised one does not."""
    with torch.no_grad():
        first, second = model(probe), model(probe)
    return bool(((first - second).abs().max() <= _FLOAT32_ROUNDING * first.abs().max()).item())


def _folded(model: nn.Module, probe: Tensor) -> nn.Module:
    try:
        folded = _rectified_in_place(_fused(model)).eval()
        nn.Module.to(folded, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return folded if _agrees(model, folded, probe, _FLOAT32_ROUNDING) else model
    except Exception:  # noqa: BLE001 - a network that torch.fx cannot trace is searched as it is
        return model


def _rectified_in_place(graph: nn.Module) -> nn.Module:
    """Let a ReLU overwrite what only it reads, where the layer before does not need it for its gradient."""
    if not isinstance(graph, GraphModule):
        return graph
    for node in graph.graph.nodes:
        before = node.args[0] if node.target is F.relu else None
        if isinstance(before, Node) and before.op == "call_module" and len(before.users) == 1:
            layer = graph.get_submodule(str(before.target))
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                node.kwargs = {**node.kwargs, "inplace": True}
    graph.recompile()
    return graph


def _fused(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # Importing it imports parts of torch.jit, which announce their end.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch.fx.experimental.optimization import fuse  # noqa: PLC0415 - as above
    return fuse(model)


def _lowered(model: nn.Module, probe: Tensor) -> nn.Module | None:
    try:
        lowered = _InBfloat16(copy.deepcopy(model).bfloat16()).eval()
        return lowered if _agrees(model, lowered, probe, _BFLOAT16_ROUNDING) else None
    except Exception:  # noqa: BLE001 - a network that does not run in bfloat16 is searched in float32
        return None


def _agrees(model: nn.Module, other: nn.Module, probe: Tensor, tolerance: float) -> bool:
    """Compare logits, and where their gradients point: tracing loses a backward pass of the user's own."""
    least = torch.zeros(len(probe), dtype=torch.int64, device=probe.device)
    slope, ours, _ = input_gradient(model, probe, cross_entropy(least))
    other_slope, theirs, _ = input_gradient(other, probe, cross_entropy(least))
    spread = ours.amax(dim=1) - ours.amin(dim=1)
    close = (ours - theirs).abs().amax() <= tolerance * spread.amax()
    return bool(close.item()) and _parallel(slope, other_slope)


def _parallel(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether nearly all gradients point the same way; where ours is zero so is theirs."""
    cosine = F.cosine_similarity(ours.flatten(1), theirs.flatten(1), dim=1)
    same = torch.where(
        (ours == 0).flatten(1).all(dim=1), (theirs == 0).flatten(1).all(dim=1), cosine > _COSINE
    )
    return bool((same.float().mean() >= _NEARLY_ALL).item())
