"""Restarts and targets: attempts one after another, each on the examples that still stand."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from training.attacks.victim import Batch

Attempt: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From positions that still stand, shape (k,), to images (k, c, h, w) and whether each fooled (k,)."""


def in_turn(batch: Batch, attempts: Iterable[Attempt]) -> tuple[Tensor, Tensor]:
    """Make the attempts until none stands.

    Returns:
        For each example the image that fooled the model, or the last one tried, shape (n, c, h, w);
        and whether it was fooled, shape (n,).
    """
    found = batch.images.clone()
    fooled = torch.zeros(len(batch), dtype=torch.bool, device=batch.labels.device)
    for attempt in attempts:
        left = (~fooled).nonzero().squeeze(1)
        if not len(left):
            break
        found[left], fooled[left] = attempt(left)
    return found, fooled


def likeliest_targets(batch: Batch, count: int) -> Tensor:
    """Return the classes of the highest logits beside the true one, shape (n, targets), highest first.

    ``count`` is cut to classes - 1. The order is the reference's, but that the true class is never a
    target where another one ties with it.
    """
    others = batch.logits.scatter(1, batch.labels.unsqueeze(1), torch.inf)
    return others.argsort(dim=1).flip(1)[:, 1 : count + 1]
