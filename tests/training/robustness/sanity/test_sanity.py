"""The sanity suite: for each check a model built to fail it, and honest models that pass them all.

All images of a class have the same score, so that an attack breaks every image or none.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.attacks.gradients import frozen
from training.config import PgdAttack, Sanity, SanityName, ThreatModel
from training.errors import TrainingError
from training.robustness.results import Outcomes, SanityCheck
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.outputs import probability_share
from training.robustness.sanity.suite import CHECKS, run_sanity
from training.robustness.sanity.verdict import bounded, compared
from training.validation import LabelledImages

COUNT, SIDE = 64, 6
# How much brighter one half is than the other: an Linf change of half as much turns the class.
GAP = 76 / 255
NAMES: tuple[SanityName, ...] = get_args(SanityName)
CONFIG = Sanity(
    attack=PgdAttack(steps=10, restarts=1, step_size=0.25),
    square_queries=400,
    surrogate_epochs=15,
    surrogate_examples=256,
)
SMALL, LARGE = 0.05, 0.2

Network = Callable[[Tensor], Tensor]


def images(count: int, seed: int = 0) -> LabelledImages:
    """Make grey images whose left half is brighter (class 0) or darker (class 1), with a texture."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    halves = torch.ones(SIDE, SIDE)
    halves[:, SIDE // 2 :] = -1.0
    rows = (torch.arange(SIDE) % 2 * 2 - 1).float().view(1, -1, 1)
    texture = rows * torch.randint(0, 20, (count, 1, 1), generator=generator)
    pixels = 128 + 38 * halves * (1 - 2 * labels).view(-1, 1, 1) + texture
    return LabelledImages(pixels.to(torch.uint8).unsqueeze(1), labels)


def score(x: Tensor) -> Tensor:
    """How much brighter the left half is, shape (n,)."""
    return x[..., : SIDE // 2].mean(dim=(1, 2, 3)) - x[..., SIDE // 2 :].mean(dim=(1, 2, 3))


def two_logits(value: Tensor) -> Tensor:
    return 20 * torch.stack([value, -value], dim=1)


class Toy(nn.Module):
    """A model given as a function."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def with_slope(value: Tensor, slope: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``slope``."""
    return value.detach() + (slope - slope.detach())


def honest(x: Tensor) -> Tensor:
    return two_logits(score(x))


def noisy(x: Tensor) -> Tensor:
    return honest(x) + 0.1 * torch.randn(len(x), 2)


def uphill(x: Tensor) -> Tensor:
    """Gradients lead away from where the model errs."""
    return two_logits(with_slope(score(x), -score(x)))


def ring(x: Tensor) -> Tensor:
    """Err only between 1.4 and 2.05 times SMALL away: larger steps jump over that."""
    value = score(x)
    moved = (GAP - value.abs()) / SMALL
    inside = (moved > 1.4) & (moved < 2.05)
    return two_logits(with_slope(torch.where(inside, -value, value), value))


def known_by_heart(x: Tensor) -> Tensor:
    """Gradients lead downhill at the known images alone, where a single step begins."""
    value = score(x)
    at_home = (value.abs() - GAP).abs() < 1e-5
    return two_logits(with_slope(value, torch.where(at_home, value, -value)))


def third_class(x: Tensor) -> Tensor:
    """A class that is never named gives its gradient to soft labels only."""
    value = score(x)
    sign = value.sign().detach()
    third = with_slope(torch.full_like(value, -20.0), 200 * sign * value)
    return torch.cat([uphill(x), third.unsqueeze(1)], dim=1)


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return honest(x)


def detached(x: Tensor) -> Tensor:
    return honest(x.detach())


def rounded(x: Tensor) -> Tensor:
    return honest((x * 7).round() / 7)


class _Refusing(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, *_gradients: Tensor) -> Tensor:
        msg = "no way back"
        raise NotImplementedError(msg)


def refusing(x: Tensor) -> Tensor:
    return honest(_Refusing.apply(x))  # type: ignore[no-untyped-call]


def saturated(x: Tensor) -> Tensor:
    return 1e4 * honest(x)


def flat_teacher(x: Tensor) -> Tensor:
    return 0.0 * x.flatten(1)[:, :3]


def outcomes(*, stands: bool, attacked: bool = True) -> Outcomes:
    """Make outcomes of one attack that broke everything or nothing."""
    labels = images(COUNT).labels.numpy()
    return Outcomes(
        rows=np.arange(COUNT),
        labels=labels,
        predictions=labels,
        worst_predictions=labels if stands else 1 - labels,
        stands=np.full((1, COUNT), stands),
        attacked=np.full((1, COUNT), attacked),
    )


def inspection(network: Network = honest, **changes: Any) -> Inspection:  # noqa: ANN401 - any field
    given: dict[str, Any] = {
        "model": Toy(network),
        "test": images(COUNT),
        "device": torch.device("cpu"),
        "classes": 2,
        "threat_model": ThreatModel(norm="Linf", epsilon=SMALL),
        "seed": 5,
        "config": CONFIG,
        "batch_size": 24,
    }
    return Inspection(**{**given, **changes})


def complete(network: Network = honest, **changes: Any) -> Inspection:  # noqa: ANN401 - any field
    """Return an inspection that lacks nothing."""
    given = {"teacher": Toy(honest), "train": images(256, seed=1), "outcomes": outcomes(stands=True)}
    return inspection(network, **{**given, **changes})


def check(name: SanityName, of: Inspection) -> SanityCheck:
    with frozen(of.model):
        return CHECKS[name](of)


def all_checks(of: Inspection) -> dict[SanityName, SanityCheck]:
    with frozen(of.model):
        return {found.name: found for found in run_sanity(of)}


def threat(epsilon: float) -> ThreatModel:
    return ThreatModel(norm="Linf", epsilon=epsilon)


SHORT = CONFIG.model_copy(update={"attack": PgdAttack(steps=3, restarts=1, step_size=0.25)})
STRIDES = CONFIG.model_copy(update={"attack": PgdAttack(steps=4, restarts=1, step_size=1.0)})

FAILING: dict[SanityName, Callable[[], Inspection]] = {
    "deterministic_outputs": lambda: complete(noisy),
    "logits_not_probabilities": lambda: complete(lambda x: honest(x).softmax(dim=1)),
    "gradients_not_zero": lambda: complete(saturated),
    "square_not_stronger": lambda: complete(uphill, threat_model=threat(LARGE)),
    "doubled_steps_change_nothing": lambda: complete(threat_model=threat(LARGE), config=SHORT),
    "larger_epsilon_never_helps": lambda: complete(ring, config=STRIDES),
    "large_epsilon_reaches_chance": lambda: complete(uphill),
    "teacher_transfer_not_stronger": lambda: complete(uphill, threat_model=threat(LARGE)),
    "surrogate_transfer_not_stronger": lambda: complete(uphill, threat_model=threat(LARGE)),
    "single_step_not_stronger": lambda: complete(known_by_heart, threat_model=threat(LARGE)),
    "training_target_not_stronger": lambda: complete(
        third_class, threat_model=threat(LARGE), teacher=Toy(flat_teacher), classes=3
    ),
    "pgd_gap_small": lambda: complete(outcomes=outcomes(stands=False)),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_check_fails_where_it_should(name: SanityName) -> None:
    found = check(name, FAILING[name]())
    assert found.name == name
    assert found.status == "failed"
    assert found.found is not None
    assert found.threshold is not None
    assert found.evidence


@pytest.mark.parametrize("epsilon", [SMALL, LARGE])
def test_an_honest_model_passes_every_check(epsilon: float) -> None:
    stands = epsilon == SMALL
    found = all_checks(complete(threat_model=threat(epsilon), outcomes=outcomes(stands=stands)))
    assert {name: made.status for name, made in found.items()} == dict.fromkeys(NAMES, "passed")


def test_the_honest_model_is_broken_by_the_large_epsilon_only() -> None:
    assert inspection().pgd.all()
    assert not inspection(threat_model=threat(LARGE)).pgd.any()


def test_checks_come_in_the_order_of_their_names_and_are_all_there() -> None:
    assert tuple(CHECKS) == NAMES
    assert tuple(found.name for found in run_sanity(inspection(config=Sanity(enabled=False)))) == NAMES


@pytest.mark.parametrize(
    ("failing", "others"),
    [
        ("logits_not_probabilities", set()),
        # Three steps are too few to compare others with, too.
        ("doubled_steps_change_nothing", {"square_not_stronger", "single_step_not_stronger"}),
        ("pgd_gap_small", set()),
    ],
)
def test_a_model_fails_only_what_is_wrong_with_it(failing: SanityName, others: set[SanityName]) -> None:
    found = all_checks(FAILING[failing]())
    assert {name for name, made in found.items() if made.status == "failed"} == {failing} | others


def test_an_l2_ball_reaches_chance_too() -> None:
    small = ThreatModel(norm="L2", epsilon=0.1)
    assert check("large_epsilon_reaches_chance", inspection(threat_model=small)).status == "passed"


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_masked_models_are_caught_in_other_norms(norm: Literal["L2", "L1"]) -> None:
    small = ThreatModel(norm=norm, epsilon=0.1)
    assert check("large_epsilon_reaches_chance", inspection(uphill, threat_model=small)).status == "failed"


def test_a_small_epsilon_does_not_make_the_large_one_too_small() -> None:
    found = check("large_epsilon_reaches_chance", inspection(threat_model=threat(0.001)))
    assert (found.status, found.found) == ("passed", 0.0)


def test_the_evidence_says_in_words_what_was_seen() -> None:
    found = check("square_not_stronger", FAILING["square_not_stronger"]())
    assert found.found is not None
    assert f"broke {round(found.found * COUNT)} of {COUNT} images" in found.evidence
    assert found.threshold == CONFIG.points


def test_a_slow_pgd_is_excused_where_the_ensemble_has_converged() -> None:
    slow = FAILING["doubled_steps_change_nothing"]()
    converged = replace(slow, outcomes=outcomes(stands=False), gradient_attacks=1)
    assert check("doubled_steps_change_nothing", converged).status == "passed"


@pytest.mark.parametrize("network", [without_grad, detached, rounded, refusing])
def test_a_model_without_gradients_fails_checks_and_crashes_none(network: Network) -> None:
    found = all_checks(complete(network, threat_model=threat(LARGE)))
    zero = found["gradients_not_zero"]
    assert (zero.status, zero.found) == ("failed", 1.0)
    failed = {name for name, made in found.items() if made.status == "failed"}
    assert {"square_not_stronger", "large_epsilon_reaches_chance", "teacher_transfer_not_stronger"} <= failed


def test_a_model_that_refuses_to_be_differentiated_is_told_as_such() -> None:
    found = check("gradients_not_zero", inspection(refusing))
    assert "cannot be differentiated (NotImplementedError: no way back)" in found.evidence


def test_saturation_is_told_from_a_model_without_gradients() -> None:
    assert "that of the margin for 0" in check("gradients_not_zero", inspection(saturated)).evidence
    assert f"that of the margin for {COUNT}" in check("gradients_not_zero", inspection(rounded)).evidence


def test_what_was_not_given_is_not_run_and_says_why() -> None:
    found = {name: made for name, made in all_checks(inspection()).items() if made.status == "not run"}
    assert {name: made.evidence for name, made in found.items()} == {
        "teacher_transfer_not_stronger": "no clean teacher was given",
        "surrogate_transfer_not_stronger": "no training images were given for a surrogate to learn from",
        "training_target_not_stronger": (
            "no clean teacher was given, so what the student was taught is not known"
        ),
        "pgd_gap_small": "no ensemble was run to compare with",
    }
    assert all(made.found is None and made.threshold is None for made in found.values())


def test_an_empty_training_side_is_as_good_as_none() -> None:
    assert check("surrogate_transfer_not_stronger", inspection(train=images(0))).status == "not run"


def test_an_ensemble_that_a_budget_kept_from_every_image_is_not_compared() -> None:
    found = check("pgd_gap_small", inspection(outcomes=outcomes(stands=True, attacked=False)))
    assert (found.status, found.evidence) == ("not run", "the budget kept the ensemble from every image")


def test_checks_that_are_switched_off_are_not_run() -> None:
    found = run_sanity(complete(config=CONFIG.model_copy(update={"enabled": False})))
    assert {made.status for made in found} == {"not run"}
    assert {made.evidence for made in found} == {"switched off by evaluation.sanity.enabled"}


def test_nothing_is_checked_on_a_model_that_is_always_wrong() -> None:
    found = all_checks(complete(lambda x: -honest(x)))
    assert {made.status for made in found.values()} == {"not run"}
    assert {made.evidence for made in found.values()} == {"the model classifies no image right"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(value: float) -> None:
    with pytest.raises(TrainingError, match="NaN or infinity"):
        all_checks(complete(lambda x: honest(x) + value))


def test_nan_that_shows_only_on_perturbed_images_is_refused() -> None:
    def far_off(x: Tensor) -> Tensor:
        away = (score(x).abs() - GAP).abs() > SMALL / 2
        return two_logits(torch.where(away, torch.nan, score(x)))

    with pytest.raises(TrainingError, match="NaN or infinity"):
        all_checks(complete(far_off))


@pytest.mark.parametrize("network", [honest, noisy])
def test_the_same_seed_finds_the_same_and_leaves_the_global_generator_alone(network: Network) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = all_checks(complete(network))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all_checks(complete(network)) == first


def test_another_seed_draws_anew() -> None:
    first, second = (all_checks(inspection(noisy, seed=seed)) for seed in (1, 2))
    assert first["deterministic_outputs"].found != second["deterministic_outputs"].found


@pytest.mark.parametrize("size", [7, 1000])
def test_the_batch_size_changes_nothing(size: int) -> None:
    def statuses(batch_size: int) -> list[tuple[str, str]]:
        found = all_checks(complete(uphill, threat_model=threat(LARGE), batch_size=batch_size))
        return [(made.status, made.evidence) for made in found.values() if "surrogate" not in made.name]

    assert statuses(size) == statuses(24)


def test_a_model_that_looks_at_its_company_is_not_deterministic() -> None:
    found = check("deterministic_outputs", inspection(lambda x: honest(x) + 0.1 * len(x)))
    assert found.status == "failed"
    assert "0 of 64 images changed their class" in found.evidence


def test_the_ensembles_gradient_attacks_count_as_white_box() -> None:
    masked = complete(uphill, threat_model=threat(LARGE), outcomes=outcomes(stands=False))
    assert check("square_not_stronger", masked).status == "failed"
    assert check("square_not_stronger", replace(masked, gradient_attacks=1)).status == "passed"


def test_fewer_examples_than_asked_for_are_all_used() -> None:
    assert inspection().count == COUNT
    assert inspection(config=CONFIG.model_copy(update={"examples": 10})).count == 10


def test_probabilities_are_told_from_logits() -> None:
    rows = torch.tensor([[0.2, 0.8], [3.0, -2.0], [0.5, 0.7]])
    assert probability_share(rows) == pytest.approx(1 / 3)
    assert probability_share(rows[[0, 2]]) == 1.0
    assert probability_share(rows[1:2]) == 0.0


@pytest.mark.parametrize(("gained", "status"), [(7, "passed"), (8, "failed")])
def test_a_comparison_fails_beyond_chance_only(gained: int, status: str) -> None:
    stronger = np.ones(300, dtype=bool)
    weaker = np.arange(300) >= gained
    found = compared("square_not_stronger", weaker, stronger, Sanity(), ("one", "the other"))
    assert found.status == status
    assert found.found == pytest.approx(gained / 300)


@pytest.mark.parametrize(("value", "status"), [(0.05, "passed"), (0.051, "failed"), (float("nan"), "failed")])
def test_a_bound_is_kept_up_to_itself_and_nan_keeps_none(value: float, status: str) -> None:
    assert bounded("pgd_gap_small", value, 0.05, "seen").status == status


def test_the_inspected_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with frozen(model):
        run_sanity(complete(model=model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_ensemble_weaker_than_pgd_is_caught() -> None:
    found = check("pgd_gap_small", inspection(outcomes=outcomes(stands=True), threat_model=threat(0.5)))
    assert found.status == "failed", found
