"""The ensemble: AutoAttack's versions as published, and every attack of the configuration run as it says."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from training.attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from training.attacks.apgd_steps import ApgdBudget
from training.attacks.draws import KeyedDraws
from training.attacks.fab import FabBudget, fab, fab_t
from training.attacks.gradients import frozen
from training.attacks.norms import Norm, size
from training.attacks.pgd import Ascent, pgd
from training.attacks.square import SquareBudget, square
from training.attacks.victim import Batch, Victim
from training.config import (
    ApgdCeAttack,
    ApgdDlrAttack,
    ApgdTargetedAttack,
    Evaluation,
    EvaluationAttack,
    FabAttack,
    FabTargetedAttack,
    PgdAttack,
    SquareAttack,
    ThreatModel,
)
from training.models.classifier import Classifier
from training.robustness.ensemble import ascent_of, ensemble, loss_name, run_attack
from training.validation import LabelledImages

CPU = torch.device("cpu")
NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
THREAT = ThreatModel(norm="Linf", epsilon=0.1)
# One of every kind, with settings of its own so that a mix-up would show.
EACH: tuple[EvaluationAttack, ...] = (
    PgdAttack(steps=4, restarts=2, step_size=0.4),
    ApgdCeAttack(steps=5, restarts=2),
    ApgdDlrAttack(steps=6, restarts=2),
    ApgdTargetedAttack(steps=4, restarts=2, targets=2),
    FabAttack(steps=3, restarts=2),
    FabTargetedAttack(steps=3, restarts=2, targets=2),
    SquareAttack(queries=40, restarts=2),
)


def version(name: str, norm: Norm = "Linf", classes: int = 10) -> tuple[EvaluationAttack, ...]:
    evaluation = Evaluation.model_validate({"attacks": name})
    return ensemble(evaluation, ThreatModel(norm=norm, epsilon=0.1), classes)


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_standard_version_is_autoattacks(norm: Norm) -> None:
    assert version("standard", norm) == (
        ApgdCeAttack(steps=100, restarts=1),
        ApgdTargetedAttack(steps=100, restarts=1, targets=9),
        FabTargetedAttack(steps=100, restarts=1, targets=9),
        SquareAttack(queries=5000, restarts=1),
    )


def test_for_l1_the_standard_version_has_larger_epsilons_more_restarts_and_fewer_targets() -> None:
    assert version("standard", "L1") == (
        ApgdCeAttack(steps=100, restarts=5, larger_epsilons=True),
        ApgdTargetedAttack(steps=100, restarts=1, targets=5, larger_epsilons=True),
        FabTargetedAttack(steps=100, restarts=1, targets=9),
        SquareAttack(queries=5000, restarts=1),
    )


@pytest.mark.parametrize("norm", NORMS)
def test_the_plus_version_is_autoattacks(norm: Norm) -> None:
    assert version("plus", norm) == (
        ApgdCeAttack(steps=100, restarts=5),
        ApgdDlrAttack(steps=100, restarts=5),
        FabAttack(steps=100, restarts=5),
        SquareAttack(queries=5000, restarts=1),
        ApgdTargetedAttack(steps=100, restarts=1, targets=9),
        FabTargetedAttack(steps=100, restarts=1, targets=9),
    )


@pytest.mark.parametrize("norm", NORMS)
def test_the_version_for_randomised_models_averages_over_twenty_passes(norm: Norm) -> None:
    assert version("rand", norm) == (
        ApgdCeAttack(steps=100, restarts=1, passes=20),
        ApgdDlrAttack(steps=100, restarts=1, passes=20),
    )


@pytest.mark.parametrize("name", ["standard", "plus", "rand"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_versions_are_those_of_the_authors_package(name: str, norm: Norm) -> None:
    package = pytest.importorskip("pyautoattack.autoattack")
    theirs = package.AutoAttack(torch.nn.Identity(), norm=norm, eps=0.1, version=name)
    assert [settings(theirs, each) for each in theirs.attacks_to_run] == [
        attack.model_dump() for attack in version(name, norm)
    ]


def settings(theirs: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - the package carries no types
    """Say what the package does in our words."""
    if name == "square":
        return {"name": "square", "queries": theirs.square.n_queries, "restarts": theirs.square.n_restarts}
    if name == "fab":
        return {"name": "fab", "steps": theirs.fab.n_iter, "restarts": theirs.fab.n_restarts}
    if name == "fab-t":  # it sets the one restart when the attack begins
        targets = theirs.fab.n_target_classes
        return {"name": "fab_t", "steps": theirs.fab.n_iter, "restarts": 1, "targets": targets}
    attack = theirs.apgd_targeted if name == "apgd-t" else theirs.apgd
    found = {
        "name": name.replace("-", "_"),
        "steps": attack.n_iter,
        "restarts": attack.n_restarts,
        "passes": attack.eot_iter,
        "larger_epsilons": attack.use_largereps,
    }
    return found | ({"targets": attack.n_target_classes} if name == "apgd-t" else {})


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (3, 2), (9, 8), (10, 9), (100, 9)])
@pytest.mark.parametrize("name", ["standard", "plus"])
def test_there_are_no_more_targets_than_other_classes(name: str, classes: int, targets: int) -> None:
    found = {attack.name: attack for attack in version(name, classes=classes)}
    targeted, fab_targeted = found["apgd_t"], found["fab_t"]
    assert isinstance(targeted, ApgdTargetedAttack)
    assert isinstance(fab_targeted, FabTargetedAttack)
    assert (targeted.targets, fab_targeted.targets) == (targets, targets)


def test_a_list_is_run_as_it_is_but_for_targets_that_there_are_not() -> None:
    evaluation = Evaluation(attacks=EACH)
    assert ensemble(evaluation, THREAT, 10) == EACH
    cut = ensemble(evaluation, THREAT, 2)
    assert [getattr(attack, "targets", None) for attack in cut] == [None, None, None, 1, None, 1, None]
    assert [attack.name for attack in cut] == [attack.name for attack in EACH]


# --- every attack of the configuration ------------------------------------------------------------


def test_every_kind_of_attack_is_looked_at_here() -> None:
    kinds = get_args(get_args(EvaluationAttack)[0])
    assert {type(attack) for attack in EACH} == set(kinds)
    assert len(EACH) == len(kinds)


@pytest.fixture(name="batch")
def _batch(trained: Classifier, unseen: LabelledImages) -> Batch:
    x, y = unseen.batch(0, 96, CPU)
    with torch.no_grad():
        logits = trained.eval()(x.double())
    right = logits.argmax(dim=1) == y
    return Batch(x.double()[right], y[right], logits[right])


def keyed(count: int) -> KeyedDraws:
    return KeyedDraws(5, np.arange(count))


def directly(attack: EvaluationAttack, victim: Victim, batch: Batch, norm: Norm) -> tuple[Tensor, Tensor]:
    """Call what the attack's name stands for, with the numbers that its settings stand for."""
    draws, epsilon = keyed(len(batch)), 0.1
    calls = {
        "pgd": lambda: pgd(victim, batch, Ascent(norm, epsilon, 0.04, 4), draws, restarts=2),
        "apgd_ce": lambda: apgd_ce(victim, batch, ApgdBudget(norm, epsilon, 5), draws, 2),
        "apgd_dlr": lambda: apgd_dlr(victim, batch, ApgdBudget(norm, epsilon, 6), draws, 2),
        "apgd_t": lambda: apgd_t(victim, batch, ApgdBudget(norm, epsilon, 4), draws, targets=2, restarts=2),
        "fab": lambda: fab(victim, batch, FabBudget(norm, epsilon, 3), draws, 2),
        "fab_t": lambda: fab_t(victim, batch, FabBudget(norm, epsilon, 3), draws, targets=2, restarts=2),
        "square": lambda: square(victim, batch, SquareBudget(norm, epsilon, 40), draws, 2),
    }
    return calls[attack.name]()


@pytest.mark.parametrize("attack", EACH, ids=lambda attack: attack.name)
def test_each_attack_is_run_with_its_own_settings(
    trained: Classifier, batch: Batch, attack: EvaluationAttack
) -> None:
    with frozen(trained):
        victim, other = Victim(trained), Victim(trained)
        found, fooled = run_attack(attack, victim, batch, THREAT, keyed(len(batch)))
        wanted, fell = directly(attack, other, batch, "Linf")
    assert torch.equal(fooled, fell)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    assert victim.cost == other.cost
    assert 0 < int(fooled.sum()) < len(batch)


@pytest.mark.parametrize("attack", EACH, ids=lambda attack: attack.name)
@pytest.mark.parametrize(("norm", "epsilon"), [("L2", 0.5), ("L1", 1.5)])
def test_each_attack_stays_in_the_ball_of_the_threat_model(
    trained: Classifier, batch: Batch, attack: EvaluationAttack, norm: Norm, epsilon: float
) -> None:
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    with frozen(trained):
        found, fooled = run_attack(attack, Victim(trained), batch, threat, keyed(len(batch)))
        assert bool((trained(found).argmax(dim=1) != batch.labels)[fooled].all())
    assert float(size(found - batch.images, norm)[fooled].max()) <= epsilon * (1 + 1e-5)
    assert int(fooled.sum()) > 0


@pytest.mark.parametrize("kind", [ApgdCeAttack, ApgdDlrAttack, ApgdTargetedAttack])
def test_passes_are_averaged_and_larger_epsilons_come_first(
    trained: Classifier, batch: Batch, kind: type[ApgdCeAttack | ApgdDlrAttack | ApgdTargetedAttack]
) -> None:
    few = batch.select(torch.arange(4))
    threat = ThreatModel(norm="L1", epsilon=1e-3)
    costs = []
    with frozen(trained):
        for fields in ({}, {"passes": 3}, {"larger_epsilons": True}):
            victim = Victim(trained)
            attack: EvaluationAttack = kind.model_validate({"name": kind().name, "steps": 10} | fields)
            run_attack(attack, victim, few, threat, keyed(4))
            costs.append(victim.cost.gradient)
    # Each of the three stages looks at its start.
    assert costs[1:] == [3 * costs[0], costs[0] * 13 // 11]


@pytest.mark.parametrize("attack", [FabAttack(steps=25, restarts=1), FabTargetedAttack(steps=25, targets=3)])
def test_in_a_hurry_fab_gives_up_what_is_far_and_measures_with_the_precise_copy(
    trained: Classifier, batch: Batch, attack: EvaluationAttack
) -> None:
    threat = ThreatModel(norm="Linf", epsilon=0.02)
    with frozen(trained):
        wrong = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
        hurried = Victim(trained, search=wrong, hurried=True)
        exact = Victim(trained)
        _, fell = run_attack(attack, hurried, batch, threat, keyed(len(batch)))
        _, fooled = run_attack(attack, exact, batch, threat, keyed(len(batch)))
    assert torch.equal(fell, fooled)
    assert hurried.cost.gradient < exact.cost.gradient


def test_a_step_of_pgd_is_in_multiples_of_epsilon() -> None:
    assert ascent_of(PgdAttack(steps=7, step_size=0.1), "L2", 0.5) == Ascent("L2", 0.5, 0.05, 7)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_every_attack_says_what_it_maximises(classes: int) -> None:
    names = {attack.name: loss_name(attack, classes) for attack in EACH}
    assert all(names.values())
    assert names["pgd"] == names["apgd_ce"] == "cross-entropy"
    assert names["apgd_dlr"] == ("margin" if classes == 2 else "DLR")
    assert names["apgd_t"] == ("targeted DLR" if classes == 10 else "targeted margin")
    assert names["fab"] != names["fab_t"]
