"""What is evaluated, how, and what the model says of the images as they are."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from training.config import Evaluation, ThreatModel
from training.errors import TrainingError
from training.randomness import IntArray
from training.robustness.work import Work
from training.validation import LabelledImages


@dataclass(frozen=True)
class Subject:
    """A model in eval mode on ``device``, its digest, the test side, its digest and the class names.

    ``teacher`` is the clean model on the same device and ``train`` the training side: the checks that
    need them are not run without. ``repeats`` is false for a model that draws random numbers,
    ``copyable`` for one that cannot be copied.
    """

    model: nn.Module
    model_digest: str
    test: LabelledImages
    snapshot_digest: str
    class_names: tuple[str, ...]
    device: torch.device
    teacher: nn.Module | None = None
    train: LabelledImages | None = None
    repeats: bool = True
    copyable: bool = True

    @property
    def parallel(self) -> bool:
        """Whether parts may be worked on beside each other, each with a copy of the model."""
        return self.repeats and self.copyable


@dataclass(frozen=True)
class Plan:
    """How to evaluate: ``seed`` keys every draw, ``work`` keeps what is finished.

    ``progress`` is told the number of examples finished with, now and then.
    """

    evaluation: Evaluation
    threat: ThreatModel
    seed: int
    work: Work = field(default_factory=Work)
    progress: Callable[[int], None] = lambda _: None


@dataclass(frozen=True)
class Natural:
    """What the model says of the images as they are: float32 logits (n, classes) and labels (n,), on CPU."""

    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    @property
    def predictions(self) -> Tensor:
        """The predicted classes, shape (n,)."""
        return self.logits.argmax(dim=1)

    @property
    def right(self) -> Tensor:
        """Whether each image is classified right, shape (n,)."""
        return self.predictions == self.labels


def natural_logits(subject: Subject, count: int, batch_size: int) -> Natural:
    """Classify the first ``count`` images as they are; the model must be frozen.

    Raises:
        TrainingError: no images, or logits that hold NaN or infinity.
    """
    if count == 0:
        msg = "the test side is empty: nothing can be said of robustness; give test examples"
        raise TrainingError(msg)
    parts = []
    with torch.no_grad():
        for start in range(0, count, batch_size):
            x, _ = subject.test.batch(start, min(batch_size, count - start), subject.device)
            parts.append(subject.model(x).float().cpu())
    logits = torch.cat(parts)
    if not bool(torch.isfinite(logits).all()):
        msg = "the model's logits hold NaN or infinity on natural test images; it cannot be evaluated"
        raise TrainingError(msg)
    return Natural(logits, subject.test.labels[:count])


def images_at(data: LabelledImages, at: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the examples at positions ``at``: float32 in [0, 1] and labels, on ``device``."""
    return (data.images[at].float() / 255.0).to(device), data.labels[at].to(device)


def batches(at: Tensor, size: int) -> list[Tensor]:
    """Cut positions, shape (n,), into parts of at most ``size``."""
    return [at[start : start + size] for start in range(0, len(at), size)]


def as_rows(at: Tensor) -> IntArray:
    """Return positions as the rows that key draws."""
    return at.cpu().numpy().astype(np.int64)
