"""The attacked model: what a search may ask of it, and what counts as fooled."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from training.attacks.gradients import PerExampleLoss, input_gradient, refuse_nan


@dataclass(frozen=True)
class Batch:
    """Examples to attack, all classified right.

    ``images`` in [0, 1], shape (n, c, h, w); ``labels`` true classes, shape (n,); ``logits`` what the
    model gives for the images as they are, shape (n, classes): the targeted attacks choose by them.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.images)

    def select(self, index: Tensor) -> "Batch":
        """Return the examples at the positions, or under the mask, ``index``."""
        return Batch(self.images[index], self.labels[index], self.logits[index])


@dataclass
class Cost:
    """How many images were passed: ``forward`` alone, ``gradient`` forward and back to the input."""

    forward: int = 0
    gradient: int = 0


@dataclass(frozen=True)
class Victim:
    """A frozen model in eval mode, as an attack sees it.

    ``model`` decides what is fooled. ``search``, if given, is a quicker copy (BatchNorm folded, bfloat16)
    that answers while searching; what fools it counts only when it fools ``model`` too. ``hurried`` says
    that verdicts are wanted, not equality with a reference; ``precise`` is then a float32 copy for an
    attack that measures distances. ``passes`` above 1 averages gradients over that many passes
    (expectation over transformation, Athalye et al. 2018).
    """

    model: nn.Module
    search: nn.Module | None = None
    precise: nn.Module | None = None
    hurried: bool = False
    passes: int = 1
    cost: Cost = field(default_factory=Cost)

    def apart(self) -> "Victim":
        """Return a copy that shares nothing: modules that keep values between their layers are not shared."""
        return replace(
            self,
            model=copy.deepcopy(self.model),
            search=copy.deepcopy(self.search),
            precise=copy.deepcopy(self.precise),
            cost=Cost(),
        )

    def averaging(self, passes: int) -> "Victim":
        """Return the same victim with gradients averaged over ``passes``; the cost is shared."""
        return replace(self, passes=passes)

    def measuring(self) -> "Victim":
        """Return the same victim searched in float32; the cost is shared."""
        return replace(self, search=self.precise)

    def logits(self, x: Tensor) -> Tensor:
        """Return the searched model's logits in float32, shape (n, classes), without a gradient.

        Raises:
            TrainingError: NaN or infinity.
        """
        self.cost.forward += len(x)
        with torch.no_grad():
            logits: Tensor = (self.search or self.model)(x).float()
        refuse_nan(logits)
        return logits

    def gradient(self, x: Tensor, loss: PerExampleLoss) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input gradient (n, c, h, w), the logits (n, classes) and the losses (n,).

        With several passes the gradient is their mean; logits and losses are the last pass's, as in the
        reference.

        Raises:
            TrainingError: NaN or infinity.
        """
        self.cost.gradient += self.passes * len(x)
        gradient, logits, values = input_gradient(self.search or self.model, x, loss)
        for _ in range(self.passes - 1):
            more, logits, values = input_gradient(self.search or self.model, x, loss)
            gradient = gradient + more
        gradient = gradient / self.passes if self.passes > 1 else gradient
        refuse_nan(gradient, logits, values)
        return gradient, logits, values

    def fooled(self, x: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Tell which images fool the model, shape (n,); ``logits`` are what the search got for them."""
        wrong = logits.argmax(dim=1) != labels
        if self.search is None or not bool(wrong.any()):
            return wrong
        at = wrong.nonzero().squeeze(1)
        return wrong.index_put((at,), self.fools_model(x[at], labels[at]))

    def fools_model(self, x: Tensor, labels: Tensor) -> Tensor:
        """Tell which images the deciding model gets wrong, shape (n,), by a pass of their own."""
        self.cost.forward += len(x)
        with torch.no_grad():
            logits = self.model(x)
        refuse_nan(logits)
        wrong: Tensor = logits.argmax(dim=1) != labels
        return wrong


Attack = Callable[[Victim, Batch], tuple[Tensor, Tensor]]
"""From a victim and a batch to adversarial images (n, c, h, w) and whether each fooled the model (n,)."""
