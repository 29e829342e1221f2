"""The search: the worst case of each example, each attack on what is left, the same after a kill."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.attacks import search_copy
from training.attacks.draws import KeyedDraws
from training.attacks.gradients import frozen
from training.attacks.norms import Norm
from training.attacks.victim import Batch, Cost, Victim
from training.config import (
    ApgdCeAttack,
    ApgdTargetedAttack,
    Budget,
    Evaluation,
    EvaluationAttack,
    FabAttack,
    FabTargetedAttack,
    PgdAttack,
    SquareAttack,
    ThreatModel,
)
from training.errors import ArtefactError, TrainingError
from training.models.classifier import Classifier
from training.randomness import derive_seed
from training.robustness.counting import left_out, skipped_in_words, standing
from training.robustness.ensemble import run_attack
from training.robustness.search import Search, Searched, make_victim
from training.robustness.statistics import Estimate, Rate
from training.robustness.subject import Natural, Plan, Subject, natural_logits
from training.robustness.work import Work
from training.validation import LabelledImages

CPU = torch.device("cpu")
THREAT = ThreatModel(norm="Linf", epsilon=0.08)
PGD = PgdAttack(steps=5, restarts=2, step_size=0.3)
APGD = ApgdCeAttack(steps=12, restarts=2)
SQUARE = SquareAttack(queries=60)
THREE: tuple[EvaluationAttack, ...] = (PGD, APGD, SQUARE)
SEED = 3


class Precise(nn.Module):
    """Compute in float64 and answer in float32, so that batches do not matter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()


def subject_of(model: nn.Module, test: LabelledImages) -> Subject:
    names = tuple(f"digit {number}" for number in range(10))
    return Subject(model, "model", test, "snapshot", names, CPU)


@pytest.fixture(name="subject")
def _subject(trained: Classifier, unseen: LabelledImages) -> Subject:
    return subject_of(Precise(trained), unseen)


def plan_of(threat: ThreatModel = THREAT, **fields: Any) -> Plan:  # noqa: ANN401 - fields of the section
    defaults: dict[str, Any] = {"attacks": THREE, "mode": "exact", "batch_size": 40}
    return Plan(Evaluation(**(defaults | fields)), threat, SEED)


def natural_of(subject: Subject) -> Natural:
    with frozen(subject.model):
        return natural_logits(subject, len(subject.test), 40)


def searched(subject: Subject, plan: Plan, victim: Victim | None = None) -> Searched:
    natural = natural_of(subject)
    with frozen(subject.model):
        return Search(victim or make_victim(subject, plan)[0], subject, natural, plan).run()


def assert_same(one: Searched, other: Searched) -> None:
    for name, value in vars(one.outcomes).items():
        assert np.array_equal(value, vars(other.outcomes)[name])
    assert one.cost == other.cost
    assert one.worst.keys() == other.worst.keys()
    assert all(torch.equal(image, other.worst[position]) for position, image in one.worst.items())


def alone(subject: Subject, attack: EvaluationAttack) -> tuple[Tensor, Cost]:
    """Run one attack on every example that is right, in one batch; return who stands and the cost."""
    natural = natural_of(subject)
    at = natural.right.nonzero().squeeze(1)
    x, y = subject.test.batch(0, len(subject.test), CPU)
    victim = Victim(subject.model)
    draws = KeyedDraws(derive_seed(SEED, attack.name), at.numpy())
    with frozen(subject.model):
        _, fooled = run_attack(attack, victim, Batch(x[at], y[at], natural.logits[at]), THREAT, draws)
    stands = natural.right.clone()
    stands[at[fooled]] = False
    return stands, victim.cost


# --- the worst case -------------------------------------------------------------------------------


def test_what_stands_is_right_naturally_and_under_every_attack(subject: Subject) -> None:
    found = searched(subject, plan_of()).outcomes
    so_far = natural_of(subject).right
    counts = []
    for attack, stands in zip(THREE, found.stands, strict=True):
        so_far = so_far & alone(subject, attack)[0]
        assert np.array_equal(stands, so_far.numpy())
        counts.append(int(stands.sum()))
    assert 96 > int((found.predictions == found.labels).sum()) > counts[0] > counts[1] > 0


def test_the_order_of_the_attacks_changes_nothing_in_the_end(subject: Subject) -> None:
    there, back = (searched(subject, plan_of(attacks=order)) for order in (THREE, THREE[::-1]))
    assert np.array_equal(there.outcomes.stands[-1], back.outcomes.stands[-1])
    assert [attack.name for attack in there.attacks] == ["pgd", "apgd_ce", "square"]
    assert [attack.name for attack in back.attacks] == ["square", "apgd_ce", "pgd"]


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_batches_change_nothing(subject: Subject, batch_size: int) -> None:
    plan = plan_of(attacks=(PGD, SQUARE))
    other = replace(plan, evaluation=plan.evaluation.model_copy(update={"batch_size": batch_size}))
    one, two = (searched(subject, each, Victim(subject.model)) for each in (plan, other))
    assert np.array_equal(one.outcomes.stands, two.outcomes.stands)
    assert np.array_equal(one.outcomes.worst_predictions, two.outcomes.worst_predictions)
    assert one.cost.gradient == two.cost.gradient


@pytest.mark.parametrize("draws", ["per-example", "reference"])
def test_threads_change_nothing(subject: Subject, draws: str, tmp_path: Path) -> None:
    plan = plan_of(draws=draws)
    one = searched(subject, plan)
    torch.set_num_threads(3)
    try:
        many = searched(subject, replace(plan, work=Work(tmp_path / "work", "key")))
        again = searched(subject, replace(plan, work=Work(tmp_path / "work", "key")))
    finally:
        torch.set_num_threads(1)
    assert_same(again, many)
    assert np.array_equal(many.outcomes.stands, one.outcomes.stands)
    assert np.array_equal(many.outcomes.worst_predictions, one.outcomes.worst_predictions)
    assert many.cost.gradient == one.cost.gradient


def test_an_example_that_fell_is_not_attacked_again(subject: Subject) -> None:
    found = searched(subject, plan_of())
    right = found.outcomes.predictions == found.outcomes.labels
    for attacked, before in zip(found.outcomes.attacked, [right, *found.outcomes.stands], strict=False):
        assert np.array_equal(attacked, before)
    first = searched(subject, plan_of(attacks=(PGD,)), Victim(subject.model))
    both = searched(subject, plan_of(attacks=(PGD, APGD)), Victim(subject.model))
    assert first.cost == alone(subject, PGD)[1]
    left = subject_of(subject.model, pick(subject.test, first.outcomes.stands[0]))
    assert both.cost.gradient > first.cost.gradient
    assert searched(left, plan_of(attacks=(APGD,)), Victim(subject.model)).cost.gradient < both.cost.gradient


def pick(data: LabelledImages, mask: np.ndarray) -> LabelledImages:
    index = torch.from_numpy(mask)
    return LabelledImages(data.images[index], data.labels[index])


def test_worst_predictions_are_wrong_for_what_fell_and_right_for_what_stands(subject: Subject) -> None:
    found = searched(subject, plan_of()).outcomes
    stands, right = found.stands[-1], found.predictions == found.labels
    assert np.array_equal(found.worst_predictions[stands], found.labels[stands])
    assert np.array_equal(found.worst_predictions[~right], found.predictions[~right])
    assert (found.worst_predictions != found.labels)[~stands].all()


@pytest.mark.parametrize("wanted", [1, 5, 90])
def test_the_first_images_that_fooled_are_kept(subject: Subject, wanted: int) -> None:
    found = searched(subject, plan_of(strip_examples=wanted))
    fell = (found.outcomes.predictions == found.outcomes.labels) & ~found.outcomes.stands[-1]
    assert len(found.worst) == min(wanted, int(fell.sum()))
    natural = subject.test.images.float() / 255
    for position, image in found.worst.items():
        assert fell[position]
        assert float((image - natural[position]).abs().max()) <= 0.08 + 1e-6
        with torch.no_grad():
            predicted = int(subject.model.eval()(image[None]).argmax())
        assert predicted == found.outcomes.worst_predictions[position]


def test_progress_tells_of_every_example_once(subject: Subject) -> None:
    told: list[int] = []
    searched(subject, replace(plan_of(), progress=told.append))
    assert sum(told) == 96
    assert min(told) >= 0


def test_where_nothing_is_right_nothing_is_attacked(subject: Subject) -> None:
    wrong = LabelledImages(subject.test.images, (natural_of(subject).predictions + 1) % 10)
    found = searched(replace(subject, test=wrong), plan_of())
    assert found.outcomes.stands.shape == (3, 96)
    assert not found.outcomes.stands.any()
    assert not found.outcomes.attacked.any()
    assert found.cost == Cost()


class Nan(nn.Module):
    """Right on natural images, whose pixels are whole; NaN, whose argmax is class 0, on others."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x * 255
        natural = ((grey - grey.round()).abs().flatten(1).amax(dim=1) < 1e-3)[:, None]
        logits = x.flatten(1)[:, :10] * 1e-3 - torch.arange(10)
        return torch.where(natural, logits, torch.nan)


@pytest.mark.parametrize("attack", THREE)
def test_nan_is_no_robustness(unseen: LabelledImages, attack: EvaluationAttack) -> None:
    zeros = LabelledImages(unseen.images, torch.zeros_like(unseen.labels))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        searched(subject_of(Nan(), zeros), plan_of(attacks=(attack,)))


# --- a kill ---------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


class Dying(Precise):
    """Break off at a certain pass; remember how many images came before."""

    def __init__(self, inner: nn.Module, last: int) -> None:
        super().__init__(inner)
        self.left = last
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KilledError
        self.images += len(x)
        return super().forward(x)


def counted(subject: Subject, trained: Classifier, plan: Plan, last: int = 10**9) -> tuple[Searched, int]:
    """Search without a copy; return also how many images were passed."""
    model = Dying(trained, last)
    return searched(replace(subject, model=model), plan, Victim(model)), model.images


@pytest.mark.parametrize(("last", "some"), [(5, False), (40, True), (110, True), (170, True)])
def test_a_killed_search_goes_on_and_gives_the_same(
    subject: Subject, trained: Classifier, tmp_path: Path, last: int, *, some: bool
) -> None:
    whole, images = counted(subject, trained, plan_of())
    folder = tmp_path / "work"
    plan = replace(plan_of(), work=Work(folder, "key"))
    with pytest.raises(KilledError):
        counted(subject, trained, plan, last)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*")}
    assert bool(times) == some
    resumed, once_more = counted(subject, trained, plan)
    assert_same(resumed, whole)
    # What was finished is not done again; a third time there is nothing to do but to look at the images.
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert (once_more < images) == some
    third, looked = counted(subject, trained, plan)
    assert_same(third, whole)
    assert looked == 96


def test_work_of_another_run_is_refused(subject: Subject, tmp_path: Path) -> None:
    plan = plan_of(attacks=(PGD,))
    searched(subject, replace(plan, work=Work(tmp_path, "one")))
    with pytest.raises(ArtefactError, match="belongs to another run"):
        searched(subject, replace(plan, work=Work(tmp_path, "two")))


# --- a budget -------------------------------------------------------------------------------------


def test_a_budget_shows_the_later_attacks_a_sample_of_what_the_first_left(subject: Subject) -> None:
    whole = searched(subject, plan_of()).outcomes
    found = searched(subject, plan_of(budget=Budget(survivors=20)))
    seen = found.outcomes.attacked[1]
    assert np.array_equal(found.outcomes.stands[0], whole.stands[0])
    assert int(seen.sum()) == 20 < int(whole.stands[0].sum())
    assert whole.stands[0][seen].all()
    assert not (found.outcomes.attacked[2] & ~seen).any()
    # Of those that are shown each ends as without a budget.
    assert np.array_equal(found.outcomes.stands[-1][seen], whole.stands[-1][seen])
    assert found.outcomes.stands[-1][~seen & whole.stands[0]].all()
    skipped = int(whole.stands[0].sum()) - 20
    assert [int(left_out(found.outcomes, attack).sum()) for attack in range(3)] == [0, skipped, skipped]
    assert skipped_in_words(found.outcomes, found.attacks) == tuple(
        f"{name} was not run on {skipped} standing examples" for name in ("apgd_ce", "square")
    )


def test_a_budget_costs_less_and_says_how_sure_it_is(subject: Subject) -> None:
    whole, found = searched(subject, plan_of()), searched(subject, plan_of(budget=Budget(survivors=20)))
    everyone = np.ones(96, dtype=bool)
    truth, estimate = standing(whole.outcomes, 2, everyone), standing(found.outcomes, 2, everyone)
    assert isinstance(truth, Rate)
    assert isinstance(estimate, Estimate)
    assert estimate.low <= truth.value <= estimate.high
    assert estimate.high - estimate.low > truth.high - truth.low
    assert found.cost.gradient + found.cost.forward < whole.cost.gradient + whole.cost.forward


def test_a_budget_that_suffices_changes_nothing(subject: Subject) -> None:
    whole, found = searched(subject, plan_of()), searched(subject, plan_of(budget=Budget(survivors=96)))
    assert_same(found, whole)


def test_the_sample_is_drawn_by_the_seed_and_without_regard_to_order(subject: Subject) -> None:
    plan = plan_of(attacks=(PGD, SQUARE), budget=Budget(survivors=20))
    first, again, other = (
        searched(subject, replace(plan, seed=seed)).outcomes.attacked[1] for seed in (SEED, SEED, SEED + 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.nonzero()[0].max() > 60


# --- the victim -----------------------------------------------------------------------------------


def test_exact_mode_searches_a_folded_float32_copy_with_the_same_outcomes(
    trained: Classifier, unseen: LabelledImages
) -> None:
    subject = subject_of(trained.float(), unseen)
    with frozen(subject.model):
        victim, precision = make_victim(subject, plan_of())
    assert victim.model is subject.model
    assert victim.search is not None
    assert precision == "float32"
    found, plain = searched(subject, plan_of()), searched(subject, plan_of(), Victim(subject.model))
    assert np.array_equal(found.outcomes.stands, plain.outcomes.stands)


@pytest.mark.parametrize("native", [False, True])
def test_verdict_mode_searches_in_bfloat16_where_there_is_any_and_agrees_here(
    trained: Classifier, unseen: LabelledImages, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    monkeypatch.setattr(search_copy, "native_bfloat16", lambda _device: native)
    subject = subject_of(trained.float(), unseen)
    plan = plan_of(mode="verdict")
    with frozen(subject.model):
        victim, precision = make_victim(subject, plan)
    assert precision == ("bfloat16" if native else "float32")
    found, exact = searched(subject, plan, victim), searched(subject, plan_of())
    stands, wanted = found.outcomes.stands[-1], exact.outcomes.stands[-1]
    assert int((stands != wanted).sum()) <= 2
    fell = (found.outcomes.predictions == found.outcomes.labels) & ~stands
    assert (found.outcomes.worst_predictions != found.outcomes.labels)[fell].all()


class Fickle(nn.Module):
    """Turn each logit round with a certain chance, image by image, anew at every pass."""

    def __init__(self, inner: nn.Module, chance: float) -> None:
        super().__init__()
        self.inner = inner
        self.chance = chance
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.rand((len(x), 1), generator=self.generator) < self.chance
        logits: Tensor = self.inner(x)
        return torch.where(turned, -logits, logits)


def test_a_randomised_model_is_searched_as_it_is(trained: Classifier, unseen: LabelledImages) -> None:
    subject = subject_of(Fickle(trained.float(), 0.3), unseen)
    for attacks in ("rand", "standard"):
        victim, precision = make_victim(subject, plan_of(attacks=attacks))
        assert victim.search is None
        assert precision == "float32"


def test_an_image_found_counts_only_if_it_fools_in_a_pass_of_its_own(
    trained: Classifier, digits: LabelledImages
) -> None:
    # Whatever the perturbation, one pass in five is wrong: among a hundred passes one surely is.
    test = LabelledImages(digits.images[1200:1600], digits.labels[1200:1600])
    subject = subject_of(Fickle(trained.float().eval(), 0.2), test)
    natural = natural_of(subject)
    plan = plan_of(ThreatModel(epsilon=1e-6), attacks=(ApgdCeAttack(steps=10, passes=3),), batch_size=400)
    with frozen(subject.model):
        found = Search(Victim(subject.model), subject, natural, plan).run().outcomes
    right = found.predictions == found.labels
    share = found.stands[0][right].mean()
    assert share == pytest.approx(0.8, abs=0.08)
    assert (found.worst_predictions != found.labels)[right & ~found.stands[0]].all()


class Steps(nn.Module):
    """Round the pixels, so that no gradient comes back."""

    def __init__(self, inner: nn.Module, *, detached: bool) -> None:
        super().__init__()
        self.inner = inner
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((4 * x).round() / 4)
        return logits.detach() if self.detached else logits


WITHOUT_GRADIENT: tuple[EvaluationAttack, ...] = (
    ApgdCeAttack(steps=5),
    ApgdTargetedAttack(steps=5, targets=2),
    PgdAttack(steps=5),
    FabAttack(steps=5, restarts=2),
    FabTargetedAttack(steps=5, targets=2),
    SquareAttack(queries=300),
)


@pytest.mark.parametrize("detached", [False, True])
def test_a_model_that_passes_no_gradient_back_is_broken_without_one(
    trained: Classifier, unseen: LabelledImages, *, detached: bool
) -> None:
    few = LabelledImages(unseen.images[:24], unseen.labels[:24])
    subject = subject_of(Steps(trained.float(), detached=detached), few)
    plan = plan_of(ThreatModel(epsilon=0.2), attacks=WITHOUT_GRADIENT)
    found = searched(subject, plan).outcomes
    assert found.stands[-1].sum() < found.stands[-2].sum()


# --- the public AutoAttack ------------------------------------------------------------------------


def as_the_reference(
    evaluation: Evaluation, model: nn.Module, test: LabelledImages, threat: ThreatModel
) -> list[bool]:
    """Run the authors' package; return who stands."""
    package = pytest.importorskip("pyautoattack.autoattack")
    x, y = test.batch(0, len(test), CPU)
    reference = package.AutoAttack(model, norm=threat.norm, eps=threat.epsilon, seed=SEED, version="standard")
    assert isinstance(evaluation.attacks, tuple)
    shorten(reference, {attack.name: attack for attack in evaluation.attacks})
    names = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
    reference.attacks_to_run = [names[attack.name] for attack in evaluation.attacks]
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    with torch.random.fork_rng(), frozen(model):
        found, _ = reference.run_standard_evaluation(x, y, batch_size=evaluation.batch_size)
        stands: list[bool] = (model(found).argmax(dim=1) == y).tolist()
    return stands


def shorten(reference: Any, attacks: dict[str, Any]) -> None:  # noqa: ANN401 - the package carries no types
    """Give the package's attacks our numbers of steps: it knows but its own."""
    apgd, targeted, fab, square = (attacks[name] for name in ("apgd_ce", "apgd_t", "fab_t", "square"))
    for theirs, ours in ((reference.apgd, apgd), (reference.apgd_targeted, targeted)):
        theirs.n_iter = theirs.n_iter_orig = ours.steps
        theirs.n_iter_2 = max(int(0.22 * ours.steps), 1)
        theirs.n_iter_min = max(int(0.06 * ours.steps), 1)
        theirs.size_decr = max(int(0.03 * ours.steps), 1)
        theirs.n_restarts = ours.restarts
    reference.apgd_targeted.n_target_classes = targeted.targets
    reference.fab.n_iter, reference.fab.n_target_classes = fab.steps, fab.targets
    reference.square.n_queries = square.queries


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.06), ("L2", 0.35), ("L1", 1.2)])
@pytest.mark.parametrize("order", [1, -1])
def test_with_the_references_draws_the_verdicts_are_autoattacks(
    trained: Classifier, unseen: LabelledImages, norm: Norm, epsilon: float, order: int
) -> None:
    model, threat = trained.float(), ThreatModel(norm=norm, epsilon=epsilon)
    larger = norm == "L1"
    attacks = (
        ApgdCeAttack(steps=2, larger_epsilons=larger),
        ApgdTargetedAttack(steps=6, targets=3, larger_epsilons=larger),
        FabTargetedAttack(steps=10),
        SquareAttack(queries=150),
    )[::order]
    plan = plan_of(threat, attacks=attacks, draws="reference", batch_size=36)
    found = searched(subject_of(model, unseen), plan).outcomes
    assert found.stands[-1].tolist() == as_the_reference(plan.evaluation, model, unseen, threat)
    counts = [int(stands.sum()) for stands in found.stands]
    assert 96 > counts[0] > counts[1] >= counts[2] >= counts[3] > 0


class Remembering(nn.Module):
    """Keep what the first layer gave, as hooks and losses of their own do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 0:  # torch.fx cannot trace this: the model is searched as it is
            return x
        self.kept = x * 1.0
        torch.zeros(200, 200) @ torch.zeros(200, 200)  # time for another thread
        logits: Tensor = self.inner(self.kept)
        return logits


def test_threads_do_not_share_a_module_that_keeps_values(trained: Classifier, unseen: LabelledImages) -> None:
    plan = plan_of(ThreatModel(epsilon=0.08), attacks=(PgdAttack(steps=5),))
    subject = subject_of(Remembering(trained.float()), unseen)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = searched(subject, plan).outcomes
        torch.set_num_threads(3)
        beside = searched(subject, plan).outcomes
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(alone.stands, beside.stands)
