"""The training loop: phases in order, the best epoch by validation, resumable at any step.

The loop knows nothing of the method: an objective names its loss terms and what its attack maximises.
The attack runs in eval mode (BatchNorm statistics of the moment) without parameter gradients. Every
random draw is keyed by (seed, epoch, batch), so a resumed run repeats what an unbroken one does.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from training.attacks.gradients import frozen
from training.attacks.norms import Norm, random_start
from training.attacks.pgd import Ascent, ascend
from training.averaging import WeightAverage
from training.checkpoint import Checkpoint
from training.config import Optimiser, Section
from training.data.views import Views
from training.errors import TrainingError
from training.objectives.base import Batch, gaussian_start
from training.phases import Position, TrainingPhase, positions, ramp_value
from training.randomness import IntArray, derive_seed, permutation
from training.teacher_cache import TeacherCache
from training.validation import LabelledImages, natural_accuracy, pgd_accuracy
from training.weight_perturbation import perturbed_weights

Rule: TypeAlias = Literal["natural", "robust", "mean", "last"]


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and chosen by.

    ``view_count`` None means a fresh view every epoch; else epoch e sees view e modulo the count.
    """

    views: Views
    labels: Tensor
    validation: LabelledImages
    view_count: int | None = None
    cache: TeacherCache | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """How to train. ``validation_attack`` None leaves robust accuracy out (clean training)."""

    phases: tuple[TrainingPhase, ...]
    optimiser: Optimiser
    seed: int
    rule: Rule
    norm: Norm = "Linf"
    validation_attack: Ascent | None = None
    ema_decay: float | None = None
    checkpoint_minutes: float = math.inf


class EpochRecord(Section):
    """One line of the training history; accuracies are on validation, in [0, 1]."""

    epoch: int
    phase: str
    epsilon: float
    learning_rate: float
    terms: dict[str, float]
    natural: float
    robust: float | None
    score: float


@dataclass(frozen=True)
class TrainingResult:
    """The history of every epoch and the epoch whose weights the model holds now."""

    history: tuple[EpochRecord, ...]
    selected: EpochRecord


@dataclass
class _Progress:
    """Where the run is; everything here and in ``tensors`` goes into a checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] | None = None
    best_epoch: int = -1
    history: tuple[EpochRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        plain = {**vars(self)}
        plain["history"] = [record.model_dump(mode="json") for record in self.history]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "_Progress":
        history = tuple(EpochRecord.model_validate(record) for record in plain["history"])
        return cls(**{**plain, "history": history})


class Trainer:
    """Train one model.

    Args:
        model: trained in place; it holds the selected weights afterwards.
        data: training views, validation, and the teacher cache where an objective wants it.
        plan: the phases and choices.
        checkpoint: where state is kept, or None.
        device: where to compute.

    Raises:
        TrainingError: a batch larger than the training side, or an objective without its cache.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        plan: TrainingPlan,
        *,
        checkpoint: Checkpoint | None = None,
        device: torch.device | None = None,
    ) -> None:
        _check(data, plan)
        self._device = device or torch.device("cpu")
        self._model = model.to(self._device)
        self._data = data
        self._plan = plan
        self._checkpoint = checkpoint
        self._optimiser = torch.optim.SGD(
            model.parameters(),
            lr=0.0,
            momentum=plan.optimiser.momentum,
            weight_decay=plan.optimiser.weight_decay,
            nesterov=plan.optimiser.momentum > 0,
        )
        self._average = None if plan.ema_decay is None else WeightAverage(model, plan.ema_decay)
        self._best: dict[str, Tensor] = {}
        self._progress = _Progress()
        self._batches = len(data.views) // plan.optimiser.batch_size
        self._saved_at = time.monotonic()

    def run(self, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> TrainingResult:
        """Train to the end, from the checkpoint where there is one.

        Args:
            on_epoch: told of each epoch that ends now.

        Raises:
            TrainingError: a loss that is not finite; nothing is saved of it.
        """
        self._restore()
        for position in positions(self._plan.phases):
            if position.epoch < self._progress.epoch:
                continue
            self._train_epoch(position)
            on_epoch(self._finish_epoch(position))
        self._model.load_state_dict(self._best)
        self._model.eval()
        return TrainingResult(self._progress.history, self._progress.history[self._progress.best_epoch])

    def _train_epoch(self, position: Position) -> None:
        self._model.train()
        order = permutation(derive_seed(self._plan.seed, "order", position.epoch), len(self._data.views))
        size = self._plan.optimiser.batch_size
        progress = self._progress
        progress.sums = progress.sums or {}
        while progress.batch < self._batches:
            rows = order[progress.batch * size : (progress.batch + 1) * size]
            terms = self._step(position, self._load(rows, position.epoch))
            self._accumulate(terms, position)
            progress.batch += 1
            progress.step += 1
            if time.monotonic() - self._saved_at > 60.0 * self._plan.checkpoint_minutes:
                self._refuse_broken_weights(position)
                self._save()

    def _load(self, rows: IntArray, epoch: int) -> Batch:
        data = self._data
        view = epoch if data.view_count is None else epoch % data.view_count
        logits = None if data.cache is None else data.cache.logits(rows, view).to(self._device)
        return Batch(
            natural=data.views.batch(rows, view).to(self._device),
            labels=data.labels[torch.from_numpy(rows)].to(self._device),
            teacher_logits=logits,
        )

    def _step(self, position: Position, batch: Batch) -> dict[str, Tensor]:
        phase = position.phase
        done = self._share_done(position)
        for group in self._optimiser.param_groups:
            group["lr"] = ramp_value(phase.learning_rate, done)
        adversarial = self._attack(phase, batch, ramp_value(phase.epsilon, done))
        with (
            self._keyed_draws(),
            perturbed_weights(
                self._model,
                lambda: _total(phase.objective.terms(self._model, batch, adversarial)),
                phase.awp_gamma,
            ),
        ):
            terms = phase.objective.terms(self._model, batch, adversarial)
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(_total(terms))
        self._optimiser.step()
        if self._average is not None:
            self._average.update(self._model, self._progress.step)
        return terms

    @contextlib.contextmanager
    def _keyed_draws(self) -> Iterator[None]:
        """Key what a network draws by itself, such as dropout; torch's generators are restored."""
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(
                derive_seed(self._plan.seed, "network", self._progress.epoch, self._progress.batch)
            )
            yield

    def _attack(self, phase: TrainingPhase, batch: Batch, epsilon: float) -> Tensor:
        start = phase.objective.start
        if start == "none" or epsilon == 0.0:
            return batch.natural
        norm = self._plan.norm
        seed = derive_seed(self._plan.seed, "attack", self._progress.epoch, self._progress.batch)
        generator = torch.Generator().manual_seed(seed)
        if start == "gaussian":
            first = gaussian_start(batch.natural, generator)
        else:
            first = random_start(batch.natural, epsilon, norm, generator)
        ascent = Ascent(norm, epsilon, phase.step_size * epsilon, phase.attack_steps)
        with frozen(self._model), torch.no_grad():
            loss = phase.objective.attack_loss(self._model, batch)
            return ascend(self._model, batch.natural, first, loss, ascent)

    def _share_done(self, position: Position) -> float:
        steps = position.phase.epochs * self._batches
        step = position.epoch_in_phase * self._batches + self._progress.batch
        return step / max(steps - 1, 1)

    def _accumulate(self, terms: dict[str, Tensor], position: Position) -> None:
        sums = self._progress.sums
        assert sums is not None  # noqa: S101 - set when the epoch began
        for name, value in terms.items():
            number = float(value.detach())
            if not math.isfinite(number):
                raise TrainingError(self._diverged(f"{name} is {number}", position))
            sums[name] = sums.get(name, 0.0) + number

    def _refuse_broken_weights(self, position: Position) -> None:
        """The loss tells of a step's weights only one step later; the last step has none after it."""
        for name, parameter in self._model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingError(self._diverged(f"{name} holds NaN or infinity", position))

    def _diverged(self, what: str, position: Position) -> str:
        where = f"phase {position.phase.name}, epoch {position.epoch}, step {self._progress.batch}"
        saved = self._checkpoint is not None and self._checkpoint.path.is_file()
        kept = (
            f"the last good checkpoint is {self._checkpoint.path}"
            if saved and self._checkpoint
            else "no checkpoint"
        )
        return (
            f"training diverged in {where}: {what} ({kept}); lower the learning rate, or ramp "
            "epsilon up in a first phase"
        )

    def _finish_epoch(self, position: Position) -> EpochRecord:
        progress, phase = self._progress, position.phase
        done = (position.epoch_in_phase + 1) / phase.epochs
        self._refuse_broken_weights(position)
        natural, robust = self._validate()
        record = EpochRecord(
            epoch=position.epoch,
            phase=phase.name,
            epsilon=ramp_value(phase.epsilon, done),
            learning_rate=ramp_value(phase.learning_rate, done),
            terms={name: value / self._batches for name, value in sorted((progress.sums or {}).items())},
            natural=natural,
            robust=robust,
            score=self._score(position, natural, robust),
        )
        best = progress.history[progress.best_epoch].score if progress.history else -math.inf
        if record.score >= best:
            progress.best_epoch = position.epoch
            self._best = {name: value.clone() for name, value in self._present().items()}
        progress.history = (*progress.history, record)
        progress.epoch, progress.batch, progress.sums = position.epoch + 1, 0, None
        if position.epoch_in_phase == phase.epochs - 1:
            self._save()
        return record

    def _present(self) -> dict[str, Tensor]:
        return self._model.state_dict() if self._average is None else self._average.state

    def _validate(self) -> tuple[float, float | None]:
        raw = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self._present())
        try:
            natural = natural_accuracy(self._model, self._data.validation, self._device)
            attack = self._plan.validation_attack
            if attack is None:
                return natural, None
            seed = derive_seed(self._plan.seed, "validation")
            return natural, pgd_accuracy(self._model, self._data.validation, attack, seed, self._device)
        finally:
            self._model.load_state_dict(raw)

    def _score(self, position: Position, natural: float, robust: float | None) -> float:
        match self._plan.rule:
            case "natural":
                return natural
            case "robust":
                return robust or 0.0
            case "mean":
                return (natural + (robust or 0.0)) / 2.0
            case "last":
                return float(position.epoch)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._checkpoint is None:
            return
        groups = {"model": self._model.state_dict(), "best": self._best, "momentum": self._momentum()}
        if self._average is not None:
            groups["average"] = self._average.state
        tensors = {
            f"{group}/{name}": value for group, state in groups.items() for name, value in state.items()
        }
        self._checkpoint.save(tensors, self._progress.to_json())

    def _momentum(self) -> dict[str, Tensor]:
        state = self._optimiser.state
        buffers = {
            name: state[value].get("momentum_buffer") for name, value in self._model.named_parameters()
        }
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def _restore(self) -> None:
        saved = self._checkpoint.load() if self._checkpoint else None
        if saved is None:
            return
        tensors, progress = saved
        self._progress = _Progress.from_json(progress)
        self._model.load_state_dict(_group(tensors, "model"))
        self._best = _group(tensors, "best")
        if self._average is not None:
            self._average.restore(_group(tensors, "average"))
        momentum = _group(tensors, "momentum")
        for name, parameter in self._model.named_parameters():
            if name in momentum:
                # On the parameter's device and in its memory layout, as the optimiser makes it.
                buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
                self._optimiser.state[parameter]["momentum_buffer"] = buffer


def _group(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _check(data: TrainingData, plan: TrainingPlan) -> None:
    if plan.optimiser.batch_size > len(data.views):
        msg = f"batch_size {plan.optimiser.batch_size} is larger than the training side ({len(data.views)} "
        msg += "examples); lower optimiser.batch_size"
        raise TrainingError(msg)
    for phase in plan.phases:
        if phase.objective.teacher == "cached" and data.cache is None:
            msg = f"phase {phase.name}: its objective needs the teacher cache, and there is none"
            raise TrainingError(msg)
    if data.cache is not None:
        held, wanted = data.cache.info, (data.view_count, len(data.views))
        if (held.views, held.examples) != wanted:
            msg = f"the teacher cache holds {held.views} views of {held.examples} examples, but training "
            msg += f"sees {wanted[0]} of {wanted[1]}; run step teacher_cache again"
            raise TrainingError(msg)
