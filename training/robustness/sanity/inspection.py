"""What the checks look at, and the attacks that several of them share."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.attacks.draws import KeyedDraws
from training.attacks.gradients import refuse_nan
from training.attacks.losses import LossAt, cross_entropy
from training.attacks.norms import keyed_start
from training.attacks.pgd import Ascent, ascend, pgd
from training.attacks.square import SquareBudget, square
from training.attacks.victim import Batch, Victim
from training.config import Sanity, ThreatModel
from training.randomness import derive_seed
from training.robustness.results import Outcomes
from training.robustness.sanity.differentiable import WithoutGradient, refusal
from training.robustness.subject import as_rows, batches, images_at
from training.validation import LabelledImages

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Inspection:
    """A frozen model in eval mode and what is known about it; only the first examples are used.

    ``teacher`` is the clean model, ``train`` the training side for a surrogate. ``outcomes`` are those of
    the ensemble on the test side from its first row, and ``gradient_attacks`` how many of its attacks,
    from the first, follow gradients. Attacks run on the examples that are right as they are, in batches
    of ``batch_size``; their draws depend on ``seed`` and the example alone.
    """

    model: nn.Module
    test: LabelledImages
    device: torch.device
    classes: int
    threat_model: ThreatModel
    seed: int
    config: Sanity
    batch_size: int
    teacher: nn.Module | None = None
    train: LabelledImages | None = None
    outcomes: Outcomes | None = None
    gradient_attacks: int = 0

    @cached_property
    def count(self) -> int:
        """How many examples the checks use."""
        evaluated = len(self.test) if self.outcomes is None else len(self.outcomes.rows)
        return min(self.config.examples, len(self.test), evaluated)

    @cached_property
    def batch(self) -> Batch:
        """The examples, with the model's logits for them."""
        x, labels = images_at(self.test, torch.arange(self.count), self.device)
        return Batch(x, labels, self.logits(self.model, x))

    @cached_property
    def right(self) -> BoolArray:
        """Whether each example is classified right as it is, shape (n,)."""
        hits: BoolArray = (self.batch.logits.argmax(dim=1) == self.batch.labels).cpu().numpy()
        return hits

    @cached_property
    def refusal(self) -> str | None:
        """Why the model cannot be differentiated, or None where it can."""
        return refusal(self.model, self.batch.images[:1])

    @cached_property
    def climbed(self) -> nn.Module:
        """The model as attacks climb it: where it cannot be differentiated, without a gradient."""
        return self.model if self.refusal is None else WithoutGradient(self.model)

    def parts(self) -> list[Tensor]:
        """Cut the positions of the examples that are right into batches."""
        return batches(torch.from_numpy(np.flatnonzero(self.right)).to(self.device), self.batch_size)

    def logits(self, model: nn.Module, x: Tensor, size: int | None = None) -> Tensor:
        """Return a model's logits, in batches of ``size``, shape (n, classes).

        Raises:
            TrainingError: NaN or infinity.
        """
        with torch.no_grad():
            at = batches(torch.arange(len(x), device=x.device), size or self.batch_size)
            found = torch.cat([model(x[part]).float() for part in at])
        refuse_nan(found)
        return found

    def stands(self, x: Tensor) -> BoolArray:
        """Tell which examples are right as they are and as the images ``x``, shape (n,)."""
        hits: BoolArray = (self.logits(self.model, x).argmax(dim=1) == self.batch.labels).cpu().numpy()
        return hits & self.right

    def ascent(self, *, epsilon: float = 1.0, steps: float = 1.0) -> Ascent:
        """Return the configured attack at multiples of epsilon and steps."""
        return self._ascent(epsilon * self.threat_model.epsilon, steps)

    def far_ascent(self) -> Ascent:
        """Return the configured attack in a ball that holds uniform grey, whatever the image.

        There no classifier can stand above the share of one class. ``large_epsilon`` times a small
        epsilon may be less than a network was hardened for, so the ball is never smaller than that.
        """
        norm, pixels = self.threat_model.norm, self.batch.images[0].numel()
        to_grey = {"Linf": 0.5, "L2": 0.5 * math.sqrt(pixels), "L1": 0.5 * pixels}[norm]
        return self._ascent(max(self.config.large_epsilon * self.threat_model.epsilon, to_grey))

    def _ascent(self, radius: float, steps: float = 1.0) -> Ascent:
        attack = self.config.attack
        return Ascent(self.threat_model.norm, radius, attack.step_size * radius, round(steps * attack.steps))

    def attacked(self, ascent: Ascent, loss_at: LossAt | None = None) -> BoolArray:
        """Tell which examples stand under PGD, every iterate counted, shape (n,).

        Args:
            ascent: the ball and the steps.
            loss_at: what is maximised, by position among all examples; by default CE to the labels.
        """
        stands = self.right.copy()
        for at in self.parts():
            _, fooled = pgd(
                Victim(self.climbed),
                self.batch.select(at),
                ascent,
                self._draws("attack", at),
                None if loss_at is None else _shifted(loss_at, at),
                restarts=self.config.attack.restarts,
            )
            stands[at.cpu().numpy()] = ~fooled.cpu().numpy()
        return stands

    def pushed(self, source: nn.Module, ascent: Ascent, *, random_start: bool = True) -> BoolArray:
        """Tell which examples stand as the last images of a climb on ``source``, shape (n,).

        Every step is taken: an image that only just fools another model need not fool this one.
        """
        images = self.batch.images.clone()
        for at in self.parts():
            start = self.near(at) if random_start else images[at]
            images[at] = ascend(source, images[at], start, cross_entropy(self.batch.labels[at]), ascent)
        return self.stands(images)

    def near(self, at: Tensor) -> Tensor:
        """Return random images in the ball around the examples at ``at``, shape (k, c, h, w)."""
        rows = torch.arange(len(at), device=self.device)
        draws, threat = self._draws("start", at), self.threat_model
        return keyed_start(self.batch.images[at], rows, threat.epsilon, threat.norm, draws)

    def _draws(self, purpose: str, at: Tensor) -> KeyedDraws:
        return KeyedDraws(derive_seed(self.seed, purpose), as_rows(at))

    @cached_property
    def pgd(self) -> BoolArray:
        """Which examples stand under the configured attack, shape (n,)."""
        return self.attacked(self.ascent())

    @cached_property
    def white_box(self) -> BoolArray:
        """Which examples stand under every attack that followed gradients, shape (n,)."""
        if self.outcomes is None or not self.gradient_attacks:
            return self.pgd
        stands: BoolArray = self.pgd & self.outcomes.stands[self.gradient_attacks - 1][: self.count]
        return stands

    @cached_property
    def square(self) -> BoolArray:
        """Which examples stand under the Square attack by itself, shape (n,)."""
        threat = self.threat_model
        budget = SquareBudget(threat.norm, threat.epsilon, self.config.square_queries)
        stands = self.right.copy()
        for at in self.parts():
            batch, draws = self.batch.select(at), self._draws("square", at)
            stands[at.cpu().numpy()] = ~square(Victim(self.model), batch, budget, draws, 1)[1].cpu().numpy()
        return stands


def _shifted(loss_at: LossAt, at: Tensor) -> LossAt:
    return lambda rows: loss_at(at[rows])
