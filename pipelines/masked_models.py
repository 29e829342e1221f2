"""Models that only seem robust: clean networks behind what misleads an attack that follows gradients.

Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (2018), section 3, tell
the kinds apart: shattered, stochastic and vanishing gradients.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.gradients import PerExampleLoss, frozen
from training.attacks.losses import cross_entropy
from training.config import Augmentation, Optimiser, Ramp
from training.data.views import Views, ViewScheme
from training.loop import Trainer, TrainingData, TrainingPlan
from training.objectives.base import AttackStart, Batch, Objective, TeacherNeed
from training.objectives.clean import CleanObjective
from training.phases import TrainingPhase
from training.randomness import derive_seed
from training.validation import LabelledImages

TEMPERATURE = 100.0
LEVELS = 5
FACTOR = 1e3
LARGEST, CANVAS = 10, 11
NOISE = 30.0

_EPOCHS = 15
_LEARNING_RATE = 0.1
# A loss at temperature T has gradients 1 / T as large.
_HOT_LEARNING_RATE = _LEARNING_RATE * TEMPERATURE


@dataclass(frozen=True)
class Ingredients:
    """What masked models are made of: a clean and a robust network in eval mode, the data, a seed."""

    clean: nn.Module
    robust: nn.Module
    train: LabelledImages
    validation: LabelledImages
    seed: int


class Scaled(nn.Module):
    """Multiply a network's logits by a constant: the classes stay, float32's softmax saturates."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.network(x)
        return self.factor * logits


class Quantised(nn.Module):
    """Round pixels to a few levels in front of a network: the gradient is zero nearly everywhere."""

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network = network
        self.steps = levels - 1

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.network(torch.round(x * self.steps) / self.steps)
        return logits


class ResizedAndPadded(nn.Module):
    """Resize each batch to a random size and pad it at random.

    Xie et al., "Mitigating adversarial effects through randomization" (2018); the network takes any size.
    """

    def __init__(self, network: nn.Module, largest: int, canvas: int) -> None:
        super().__init__()
        self.network = network
        self.largest = largest
        self.canvas = canvas

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (n, c, h, w) to logits (n, classes)."""
        side = int(torch.randint(x.shape[-1], self.largest + 1, ()))
        room = self.canvas - side
        left, top = (int(torch.randint(0, room + 1, ())) for _ in range(2))
        resized = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        logits: Tensor = self.network(F.pad(resized, (left, room - left, top, room - top)))
        return logits


class _NoisyGradient(torch.autograd.Function):
    """Give images on as they are; drown the gradient that comes back in noise."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        (gradient,) = gradients
        size = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        return gradient + NOISE * size * torch.randn_like(gradient)


class NoisyBackwards(nn.Module):
    """Outputs of the network, gradients drowned in noise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.network(_NoisyGradient.apply(x))  # type: ignore[no-untyped-call]
        return logits


@dataclass(frozen=True)
class HotObjective:
    """CE(f(x) / T, target): the label, or softmax(source(x) / T) where there is a source."""

    teacher: ClassVar[TeacherNeed] = "none"
    start: ClassVar[AttackStart] = "none"
    temperature: float
    source: nn.Module | None = None

    def attack_loss(self, _frozen_model: nn.Module, batch: Batch) -> PerExampleLoss:
        """CE to y; no attack is run."""
        return cross_entropy(batch.labels)

    def terms(self, model: nn.Module, batch: Batch, _adversarial: Tensor) -> dict[str, Tensor]:
        """One term: cross_entropy."""
        target = batch.labels
        if self.source is not None:
            with torch.no_grad():
                target = F.softmax(self.source(batch.natural) / self.temperature, dim=1)
        return {"cross_entropy": F.cross_entropy(model(batch.natural) / self.temperature, target)}


def distilled(parts: Ingredients) -> nn.Module:
    """Defensive distillation at T = 100, used at T = 1: logits so large that the softmax saturates.

    Papernot et al., "Distillation as a defense to adversarial perturbations" (2016), section IV: a first
    network is trained at T, a second at T on the first one's probabilities.
    """
    first = _trained(_redrawn(parts, "first"), HotObjective(TEMPERATURE), _HOT_LEARNING_RATE, parts)
    with frozen(first):
        hot = HotObjective(TEMPERATURE, first)
        return _trained(_redrawn(parts, "second"), hot, _HOT_LEARNING_RATE, parts)


def resized_and_padded(parts: Ingredients) -> nn.Module:
    """Train a network behind random sizes and places, as it would not know them otherwise."""
    model = ResizedAndPadded(_redrawn(parts, "resized"), LARGEST, CANVAS)
    return _trained(model, CleanObjective(), _LEARNING_RATE, parts)


def _redrawn(parts: Ingredients, name: str) -> nn.Module:
    """Copy the clean network with new weights."""
    made = copy.deepcopy(parts.clean)
    torch.manual_seed(derive_seed(parts.seed, name))
    for module in made.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return made


def _trained(model: nn.Module, objective: Objective, rate: float, parts: Ingredients) -> nn.Module:
    phase = TrainingPhase(
        name="clean",
        epochs=_EPOCHS,
        objective=objective,
        learning_rate=Ramp(start=rate, end=0.0),
        epsilon=Ramp(start=0.0, end=0.0),
        attack_steps=0,
        step_size=0.0,
        awp_gamma=0.0,
    )
    views = Views(parts.train.images, ViewScheme(seed=parts.seed, augmentation=Augmentation()))
    data = TrainingData(views, parts.train.labels, parts.validation)
    # Weight decay would keep the logits of a hot softmax from growing.
    optimiser = Optimiser(weight_decay=0.0)
    plan = TrainingPlan((phase,), optimiser, parts.seed, "last", checkpoint_minutes=math.inf)
    Trainer(model, data, plan).run()
    return model


MASKED: dict[str, Callable[[Ingredients], nn.Module]] = {
    "distilled": distilled,
    "quantised": lambda parts: Quantised(parts.clean, LEVELS),
    "resized_and_padded": resized_and_padded,
    "saturated": lambda parts: Scaled(parts.clean, FACTOR),
    "saturated_robust": lambda parts: Scaled(parts.robust, FACTOR),
    "noisy_gradient": lambda parts: NoisyBackwards(parts.clean),
}
"""Every masked model by name, and how it is made; ``saturated_robust`` is robust, but less than it seems."""


def make_masked(name: str, parts: Ingredients) -> nn.Module:
    """Make a masked model, in eval mode; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(parts.seed, name))
        return MASKED[name](parts).eval()
