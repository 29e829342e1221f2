"""Accuracy on the validation side, for every choice made while training."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.attacks.draws import KeyedDraws
from training.attacks.gradients import frozen
from training.attacks.pgd import Ascent, pgd
from training.attacks.victim import Batch, Victim

_BATCH = 256


@dataclass(frozen=True)
class LabelledImages:
    """Pixels 0-255, uint8, shape (n, c, h, w), and their classes, int64, shape (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.images)

    def batch(self, start: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return up to ``size`` examples from ``start``: float32 in [0, 1] and labels, on ``device``."""
        part = slice(start, start + size)
        return (self.images[part].float() / 255.0).to(device), self.labels[part].to(device)


def natural_accuracy(model: nn.Module, data: LabelledImages, device: torch.device) -> float:
    """Share of natural examples classified right, in [0, 1]."""
    right = 0
    with frozen(model), torch.no_grad():
        for start in range(0, len(data), _BATCH):
            x, y = data.batch(start, _BATCH, device)
            right += int((model(x).argmax(dim=1) == y).sum())
    return right / len(data)


def pgd_accuracy(
    model: nn.Module, data: LabelledImages, ascent: Ascent, seed: int, device: torch.device
) -> float:
    """Share of examples that stay right under PGD, in [0, 1]."""
    stands = 0
    with frozen(model):
        for start in range(0, len(data), _BATCH):
            x, y = data.batch(start, _BATCH, device)
            with torch.no_grad():
                batch = Batch(x, y, model(x))
            draws = KeyedDraws(seed, np.arange(start, start + len(x)))
            _, fooled = pgd(Victim(model), batch, ascent, draws)
            stands += int((~fooled).sum())
    return stands / len(data)
