"""The training loop: it learns, it resumes bit by bit, it stops when training diverges."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.artefact import Manifest, publish, seal
from training.attacks.pgd import Ascent
from training.checkpoint import Checkpoint
from training.config import (
    Architecture,
    Augmentation,
    Factory,
    Normalisation,
    Optimiser,
    Ramp,
    SmallCnn,
    SmallResnet,
)
from training.data.views import Views, ViewScheme
from training.errors import TrainingError
from training.loop import EpochRecord, Rule, Trainer, TrainingData, TrainingPlan, TrainingResult
from training.models.classifier import Classifier, build_classifier
from training.objectives.base import Batch, Objective
from training.objectives.clean import CleanObjective
from training.objectives.guided import GuidedObjective
from training.objectives.pgd_at import PgdAtObjective
from training.objectives.trades import TradesObjective
from training.phases import Position, TrainingPhase
from training.randomness import derive_seed
from training.teacher_cache import CacheInfo, TeacherCache, open_cache, write_cache
from training.validation import LabelledImages, natural_accuracy, pgd_accuracy

CPU = torch.device("cpu")
NORMALISATION = Normalisation(mean=(0.3,), std=(0.37,))
SCHEME = ViewScheme(seed=3, augmentation=Augmentation(shift=1))
PHASE = TrainingPhase(
    name="harden",
    epochs=2,
    objective=PgdAtObjective(),
    learning_rate=Ramp(start=0.05, end=0.0),
    epsilon=Ramp(start=0.0, end=0.1),
    attack_steps=2,
    step_size=0.5,
    awp_gamma=0.0,
)
CLEAN = replace(PHASE, name="clean", objective=CleanObjective(), epsilon=Ramp(start=0.0, end=0.0))
PLAN = TrainingPlan((PHASE,), Optimiser(batch_size=32), 7, "last")
BATCHES = 4


def model_of(architecture: Architecture) -> Classifier:
    return build_classifier(architecture, shape=(8, 8, 1), classes=10, normalisation=NORMALISATION, seed=1)


def data_of(digits: LabelledImages, count: int = 32 * BATCHES + 5) -> TrainingData:
    validation = LabelledImages(digits.images[1200:1264], digits.labels[1200:1264])
    return TrainingData(Views(digits.images[:count], SCHEME), digits.labels[:count], validation)


@dataclass
class Run:
    """One way of training, begun as often as asked."""

    data: TrainingData
    plan: TrainingPlan
    architecture: Architecture
    path: Path | None = None

    def trainer(self) -> tuple[Classifier, Trainer]:
        model = model_of(self.architecture)
        checkpoint = None if self.path is None else Checkpoint(self.path, "key")
        return model, Trainer(model, self.data, self.plan, checkpoint=checkpoint)

    def finished(self) -> tuple[dict[str, Tensor], TrainingResult]:
        model, trainer = self.trainer()
        result = trainer.run()
        assert not model.training
        return model.state_dict(), result


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# --- it learns --------------------------------------------------------------------------------------


def test_the_loss_falls_and_accuracy_rises(digits: LabelledImages) -> None:
    phase = replace(
        PHASE, epochs=4, epsilon=Ramp(start=0.03, end=0.03), learning_rate=Ramp(start=0.1, end=0.0)
    )
    attack = Ascent("Linf", 0.03, 0.01, 4)
    plan = TrainingPlan((phase,), Optimiser(batch_size=32), 7, "mean", validation_attack=attack)
    state, result = Run(data_of(digits, 600), plan, SmallResnet(width=8)).finished()
    losses = [record.terms["cross_entropy"] for record in result.history]
    assert losses[-1] < 0.6 * losses[0]
    assert result.selected.natural > 0.7
    assert result.selected.robust is not None
    assert 0.3 < result.selected.robust <= result.selected.natural
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


def test_the_model_holds_the_weights_of_the_selected_epoch(digits: LabelledImages) -> None:
    attack = Ascent("Linf", 0.05, 0.02, 3)
    plan = replace(PLAN, rule="mean", validation_attack=attack, ema_decay=0.8)
    run = Run(data_of(digits), plan, SmallResnet(width=4))
    model, trainer = run.trainer()
    selected = trainer.run().selected
    assert natural_accuracy(model, run.data.validation, CPU) == selected.natural
    seed = derive_seed(plan.seed, "validation")
    assert pgd_accuracy(model, run.data.validation, attack, seed, CPU) == selected.robust


def test_training_is_repeated_by_its_seed(digits: LabelledImages) -> None:
    first, second, other = (
        Run(data_of(digits), replace(PLAN, seed=seed), SmallResnet(width=4)).finished()[0]
        for seed in (7, 7, 8)
    )
    assert_same(first, second)
    assert not torch.equal(first["network.stem.weight"], other["network.stem.weight"])


def test_a_network_that_draws_by_itself_is_keyed_too(digits: LabelledImages, networks: str) -> None:
    run = Run(data_of(digits), PLAN, Factory(name="factory", factory=f"{networks}:dropout"))
    torch.manual_seed(1)
    first, _ = run.finished()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, _ = run.finished()
    assert_same(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_unused_and_tied_weights_are_trained_around(digits: LabelledImages, networks: str) -> None:
    plan = replace(PLAN, phases=(replace(PHASE, awp_gamma=0.01),))
    architecture = Factory(name="factory", factory=f"{networks}:Frozen")
    before = model_of(architecture).state_dict()
    after, _ = Run(data_of(digits), plan, architecture).finished()
    assert torch.equal(after["network.fixed.weight"], before["network.fixed.weight"])
    assert torch.equal(after["network.unused.weight"], before["network.unused.weight"])
    assert not torch.equal(after["network.head.weight"], before["network.head.weight"])


def test_attack_leaves_batch_statistics_alone(digits: LabelledImages) -> None:
    model, trainer = Run(data_of(digits), PLAN, SmallResnet(width=4)).trainer()
    trainer.run()
    counters = {int(value) for name, value in model.state_dict().items() if name.endswith("tracked")}
    assert counters == {2 * BATCHES}  # one pass for each step


# --- rates, epsilons, views ---------------------------------------------------------------------------


def watch_steps(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Record (learning rate, epsilon) of each step."""
    seen: list[tuple[float, float]] = []
    attack = trainer._attack

    def watched(phase: TrainingPhase, batch: Batch, epsilon: float) -> Tensor:
        seen.append((trainer._optimiser.param_groups[0]["lr"], epsilon))
        found = attack(phase, batch, epsilon)
        assert float((found - batch.natural).abs().max()) <= epsilon * (1 + 1e-5) + 1e-7
        return found

    monkeypatch.setattr(trainer, "_attack", watched)
    return seen


def test_ramps_go_from_start_to_end_over_each_phase(
    digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = replace(
        PHASE,
        name="second",
        epochs=1,
        learning_rate=Ramp(start=0.2, end=0.2),
        epsilon=Ramp(start=0.1, end=0.1),
    )
    plan = replace(PLAN, phases=(PHASE, second))
    _, trainer = Run(data_of(digits), plan, SmallCnn(name="small_cnn", width=4)).trainer()
    seen = watch_steps(trainer, monkeypatch)
    result = trainer.run()
    done = np.linspace(0, 1, 2 * BATCHES)
    assert [rate for rate, _ in seen] == pytest.approx([*(0.05 * (1 - done)), *[0.2] * BATCHES])
    assert [epsilon for _, epsilon in seen] == pytest.approx([*(0.1 * done), *[0.1] * BATCHES])
    told = [(record.epoch, record.phase, record.learning_rate, record.epsilon) for record in result.history]
    assert told == [
        (0, "harden", 0.025, 0.05),
        (1, "harden", 0.0, 0.1),
        (2, "second", 0.2, 0.1),
    ]


def test_trades_starts_its_attack_away_from_the_image(digits: LabelledImages) -> None:
    phase = replace(PHASE, objective=TradesObjective(6.0), epsilon=Ramp(start=0.1, end=0.1))
    _, trainer = Run(data_of(digits), replace(PLAN, phases=(phase,)), SmallResnet(width=4)).trainer()
    batch = trainer._load(np.arange(8), 0)
    adversarial = trainer._attack(phase, batch, 0.1)
    assert float((adversarial - batch.natural).abs().max()) == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(trainer._attack(phase, batch, 0.0), batch.natural)


@pytest.mark.parametrize(("count", "wanted"), [(None, [0, 1, 2]), (2, [0, 1, 0]), (1, [0, 0, 0])])
def test_an_epoch_sees_its_view(
    digits: LabelledImages, count: int | None, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(data_of(digits), view_count=count)
    plan = replace(PLAN, phases=(replace(CLEAN, epochs=3),))
    _, trainer = Run(data, plan, SmallCnn(name="small_cnn", width=2)).trainer()
    seen: list[tuple[int, list[int]]] = []
    batch = data.views.batch

    def watched(rows: np.ndarray, view: int) -> Tensor:
        seen.append((view, rows.tolist()))
        return batch(rows, view)

    monkeypatch.setattr(data.views, "batch", watched)
    trainer.run()
    assert [view for view, _ in seen] == [view for view in wanted for _ in range(BATCHES)]
    for epoch in range(3):
        rows = list(itertools.chain(*(rows for _, rows in seen[epoch * BATCHES : (epoch + 1) * BATCHES])))
        assert len(set(rows)) == len(rows) == 32 * BATCHES
    assert seen[0][1] != seen[BATCHES][1]


# --- it resumes ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill signal is to the process."""


def kill_at_step(trainer: Trainer, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step, done = trainer._step, itertools.count()

    def watched(position: Position, batch: Batch) -> dict[str, Tensor]:
        if next(done) == last:
            raise Killed
        return step(position, batch)

    monkeypatch.setattr(trainer, "_step", watched)


WAYS: dict[str, Callable[[TrainingPlan], TrainingPlan]] = {
    "plain": lambda plan: replace(plan, optimiser=Optimiser(batch_size=32, momentum=0.0)),
    "momentum": lambda plan: plan,
    "ema": lambda plan: replace(plan, ema_decay=0.9),
    "awp": lambda plan: replace(plan, phases=(replace(PHASE, awp_gamma=0.01), replace(PHASE, name="more"))),
    "selection": lambda plan: replace(plan, rule="mean", validation_attack=Ascent("Linf", 0.1, 0.05, 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_in_mid_epoch_goes_on_bit_by_bit(
    way: str, digits: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = WAYS[way](PLAN)
    wanted, told = Run(data_of(digits), plan, SmallResnet(width=5)).finished()
    broken = Run(
        data_of(digits), replace(plan, checkpoint_minutes=1e-9), SmallResnet(width=5), tmp_path / "run"
    )
    for steps in (1, 2, 3):  # killed after steps 1, 3 and 6 of 8 or more
        _, trainer = broken.trainer()
        kill_at_step(trainer, steps, monkeypatch)
        with pytest.raises(Killed):
            trainer.run()
    found, result = broken.finished()
    assert_same(found, wanted)
    assert result == told


def test_a_run_killed_between_checkpoints_does_the_lost_steps_again(
    digits: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, phases=(replace(PHASE, epochs=1), replace(PHASE, name="more")), ema_decay=0.9)
    wanted, _ = Run(data_of(digits), plan, SmallResnet(width=5)).finished()
    broken = Run(data_of(digits), plan, SmallResnet(width=5), tmp_path / "run")
    for _ in range(3):  # each time killed three steps after the checkpoint at the end of the first phase
        _, trainer = broken.trainer()
        kill_at_step(trainer, BATCHES + 3 if not (tmp_path / "run").exists() else 3, monkeypatch)
        with pytest.raises(Killed):
            trainer.run()
    assert_same(broken.finished()[0], wanted)


@pytest.mark.parametrize("after", [0, 1])
def test_a_run_broken_off_by_its_listener_goes_on_bit_by_bit(
    digits: LabelledImages, tmp_path: Path, after: int
) -> None:
    wanted, told = Run(data_of(digits), PLAN, SmallResnet(width=4)).finished()
    broken = Run(
        data_of(digits), replace(PLAN, checkpoint_minutes=1e-9), SmallResnet(width=4), tmp_path / "run"
    )

    def listener(record: EpochRecord) -> None:
        if record.epoch == after:
            raise Killed

    _, trainer = broken.trainer()
    with pytest.raises(Killed):
        trainer.run(listener)
    found, result = broken.finished()
    assert_same(found, wanted)
    assert result == told


def test_a_finished_run_is_not_trained_again(
    digits: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(data_of(digits), PLAN, SmallResnet(width=4), tmp_path / "run")
    wanted, told = run.finished()
    model, trainer = run.trainer()
    kill_at_step(trainer, 0, monkeypatch)
    assert trainer.run() == told
    assert_same(model.state_dict(), wanted)


def test_a_network_with_tied_weights_or_dropout_resumes(
    digits: LabelledImages, tmp_path: Path, networks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, ema_decay=0.9, checkpoint_minutes=1e-9)
    for name in ("Tied", "dropout"):
        architecture = Factory(name="factory", factory=f"{networks}:{name}")
        wanted, _ = Run(data_of(digits), plan, architecture).finished()
        broken = Run(data_of(digits), plan, architecture, tmp_path / name)
        _, trainer = broken.trainer()
        kill_at_step(trainer, 5, monkeypatch)
        with pytest.raises(Killed):
            trainer.run()
        assert_same(broken.finished()[0], wanted)


def test_going_on_leaves_the_checkpoint_file_alone(
    digits: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, ema_decay=0.9, checkpoint_minutes=1e-9)
    _, trainer = Run(data_of(digits), plan, SmallResnet(width=4), tmp_path / "run").trainer()
    kill_at_step(trainer, 3, monkeypatch)
    with pytest.raises(Killed):
        trainer.run()
    before = (tmp_path / "run").read_bytes()
    rare = replace(plan, checkpoint_minutes=math.inf)
    _, trainer = Run(data_of(digits), rare, SmallResnet(width=4), tmp_path / "run").trainer()
    kill_at_step(trainer, 3, monkeypatch)
    with pytest.raises(Killed):
        trainer.run()
    assert (tmp_path / "run").read_bytes() == before


# --- it stops -----------------------------------------------------------------------------------------


class Exploding:
    """A loss that is NaN at one step."""

    teacher = "none"
    start = "none"

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def attack_loss(self, _frozen_model: nn.Module, _batch: Batch) -> Callable[[Tensor], Tensor]:
        raise AssertionError

    def terms(self, model: nn.Module, batch: Batch, _adversarial: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        loss = model(batch.natural).square().mean()
        if self.calls == self.at:
            loss = loss * math.nan
        return {"square": loss}


def exploding(at: int) -> TrainingPlan:
    objective: Objective = Exploding(at)  # type: ignore[assignment]
    return replace(PLAN, phases=(CLEAN, replace(CLEAN, name="wild", objective=objective)))


def test_a_loss_that_is_not_finite_stops_training_and_says_where(digits: LabelledImages) -> None:
    run = Run(data_of(digits), exploding(3), SmallCnn(name="small_cnn", width=4))
    _, trainer = run.trainer()
    with pytest.raises(TrainingError, match=r"diverged in phase wild, epoch 2, step 2: square is nan \(no "):
        trainer.run()


def test_the_last_good_checkpoint_is_named_and_kept(digits: LabelledImages, tmp_path: Path) -> None:
    run = Run(data_of(digits), exploding(3), SmallCnn(name="small_cnn", width=4), tmp_path / "run")
    _, trainer = run.trainer()
    with pytest.raises(TrainingError, match=f"last good checkpoint is {tmp_path / 'run'}"):
        trainer.run()
    loaded = Checkpoint(tmp_path / "run", "key").load()
    assert loaded is not None
    assert loaded[1]["epoch"] == 2


@pytest.mark.parametrize("minutes", [math.inf, 1e-9])
def test_weights_broken_by_the_very_last_step_are_never_kept(
    digits: LabelledImages, tmp_path: Path, minutes: float
) -> None:
    phase = replace(CLEAN, epochs=1, learning_rate=Ramp(start=1e30, end=1e30))
    data = data_of(digits, 32)
    plan = replace(PLAN, phases=(phase,), checkpoint_minutes=minutes)
    _, trainer = Run(data, plan, SmallCnn(name="small_cnn", width=4), tmp_path / "run").trainer()
    with torch.no_grad():
        for parameter in trainer._model.parameters():
            parameter.mul_(1e9)
    with pytest.raises(TrainingError, match="holds NaN or infinity"):
        trainer.run()
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_training_side_is_refused(digits: LabelledImages) -> None:
    with pytest.raises(TrainingError, match="batch_size 32 is larger than the training side"):
        Run(data_of(digits, 31), PLAN, SmallCnn(name="small_cnn", width=4)).trainer()


# --- selection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "wanted"), [("natural", 1), ("robust", 3), ("mean", 2), ("last", 4)])
def test_the_epoch_that_is_kept_follows_the_rule(
    rule: Rule, wanted: int, digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = [(0.5, 0.1), (0.9, 0.2), (0.8, 0.5), (0.5, 0.6), (0.4, 0.3)]
    plan = replace(PLAN, rule=rule, phases=(replace(CLEAN, epochs=5),))
    model, trainer = Run(data_of(digits), plan, SmallCnn(name="small_cnn", width=2)).trainer()
    given, states = iter(accuracies), []

    def validate() -> tuple[float, float]:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(given)

    monkeypatch.setattr(trainer, "_validate", validate)
    result = trainer.run()
    assert result.selected.epoch == wanted
    assert result.selected == result.history[wanted]
    assert_same(model.state_dict(), states[wanted])


def test_of_equal_epochs_the_later_is_kept(digits: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, rule="natural", phases=(replace(CLEAN, epochs=3),))
    _, trainer = Run(data_of(digits), plan, SmallCnn(name="small_cnn", width=2)).trainer()
    given = iter([0.5, 0.5, 0.4])
    monkeypatch.setattr(trainer, "_validate", lambda: (next(given), None))
    assert trainer.run().selected.epoch == 1


# --- the teacher's cache --------------------------------------------------------------------------------


def manifest(out: Path) -> Manifest:
    with publish(out) as folder:
        (folder / "content").write_text(out.name)
        return seal(folder, "snapshot", inputs={}, config={}, threads=1)


@pytest.fixture(name="cache")
def _cache(tmp_path: Path, trained: Classifier, digits: LabelledImages) -> TeacherCache:
    """Give two views of 133 examples."""
    views = data_of(digits).views
    inputs = {name: manifest(tmp_path / name) for name in ("dataset", "clean_teacher")}
    info = CacheInfo(views=2, examples=len(views), classes=10, dtype="float32", scheme=SCHEME)
    with publish(tmp_path / "cache") as folder:
        write_cache(folder, trained, views, info)
        seal(folder, "cache", inputs=inputs, config={}, threads=1)
    return open_cache(
        tmp_path / "cache",
        dataset=inputs["dataset"],
        clean_teacher=inputs["clean_teacher"],
        scheme=SCHEME,
    )


GUIDED = replace(PLAN, phases=(replace(PHASE, epochs=3, objective=GuidedObjective(0.5, 0.0, "ce")),))


def test_the_student_sees_the_teachers_logits_of_the_very_view(
    digits: LabelledImages, cache: TeacherCache, trained: Classifier
) -> None:
    data = replace(data_of(digits), view_count=2, cache=cache)
    _, trainer = Run(data, GUIDED, SmallResnet(width=4)).trainer()
    for epoch in range(3):
        batch = trainer._load(np.array([5, 99, 0]), epoch)
        with torch.no_grad():
            live = trained(batch.natural.double()).float()
        assert batch.teacher_logits is not None
        assert torch.allclose(batch.teacher_logits, live, rtol=1e-5, atol=1e-5)
    assert set(trainer.run().history[0].terms) == {"cross_entropy", "teacher_mse"}


def test_an_objective_without_its_cache_is_refused_by_phase(digits: LabelledImages) -> None:
    with pytest.raises(TrainingError, match="phase harden: its objective needs the teacher cache"):
        Run(data_of(digits), GUIDED, SmallResnet(width=4)).trainer()


@pytest.mark.parametrize(("count", "views"), [(133, 3), (133, 1), (133, None), (132, 2)])
def test_a_cache_of_another_size_is_refused(
    digits: LabelledImages, cache: TeacherCache, count: int, views: int | None
) -> None:
    data = replace(data_of(digits, count), view_count=views, cache=cache)
    with pytest.raises(TrainingError, match="the teacher cache holds 2 views of 133 examples"):
        Run(data, GUIDED, SmallResnet(width=4)).trainer()
