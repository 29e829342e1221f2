"""Every objective against its formula, written down once more in float64 numpy."""

import itertools
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from training import config
from training.objectives.base import Batch, Objective, gaussian_start, kl_divergence
from training.objectives.build import build_objective
from training.objectives.ckt import CktObjective
from training.objectives.clean import CleanObjective
from training.objectives.guided import GuidedObjective
from training.objectives.pgd_at import PgdAtObjective
from training.objectives.trades import TradesObjective

Array = npt.NDArray[np.float64]
COUNT, PIXELS, CLASSES = 6, 12, 4
GENERATOR = torch.Generator().manual_seed(11)


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR, dtype=torch.float64)


class Linear(nn.Module):
    """Logits are pixels times a weight that is no parameter, so that gradcheck can vary it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


WEIGHT = 2 * random(PIXELS, CLASSES) - 1
NATURAL, ADVERSARIAL = random(COUNT, 3, 2, 2), random(COUNT, 3, 2, 2)
LABELS = torch.tensor([0, 1, 2, 3, 1, 1])
TEACHER = 6 * random(COUNT, CLASSES) - 3
BATCH = Batch(NATURAL, LABELS, TEACHER)
MODEL = Linear(WEIGHT)

F_NATURAL = (NATURAL.flatten(1) @ WEIGHT).numpy()
F_ADVERSARIAL = (ADVERSARIAL.flatten(1) @ WEIGHT).numpy()
ONEHOT = np.eye(CLASSES)[LABELS.numpy()]


def log_softmax(logits: Array) -> Array:
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def softmax(logits: Array) -> Array:
    return np.exp(log_softmax(logits))


def ce(label: Array, logits: Array) -> Array:
    return np.asarray(-(label * log_softmax(logits)).sum(axis=1))


def kl(target: Array, logits: Array) -> Array:
    return np.asarray((softmax(target) * (log_softmax(target) - log_softmax(logits))).sum(axis=1))


def terms_of(objective: Objective) -> dict[str, float]:
    return {name: float(value) for name, value in objective.terms(MODEL, BATCH, ADVERSARIAL).items()}


def attacked(objective: Objective) -> Array:
    logits = torch.from_numpy(F_ADVERSARIAL)
    with torch.no_grad():
        return np.asarray(objective.attack_loss(MODEL, BATCH)(logits).numpy())


def test_clean_is_cross_entropy_on_natural_images_with_smoothed_labels() -> None:
    for smoothing in (0.0, 0.1, 0.5):
        label = (1 - smoothing) * ONEHOT + smoothing / CLASSES
        assert terms_of(CleanObjective(smoothing)) == pytest.approx(
            {"cross_entropy": ce(label, F_NATURAL).mean()}
        )


def test_pgd_at_is_cross_entropy_on_adversarial_images() -> None:
    assert terms_of(PgdAtObjective()) == pytest.approx({"cross_entropy": ce(ONEHOT, F_ADVERSARIAL).mean()})


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades_adds_the_kl_from_natural_to_adversarial(beta: float) -> None:
    assert terms_of(TradesObjective(beta)) == pytest.approx(
        {"cross_entropy": ce(ONEHOT, F_NATURAL).mean(), "kl": beta * kl(F_NATURAL, F_ADVERSARIAL).mean()}
    )


@pytest.mark.parametrize(("weight", "beta"), list(itertools.product([0.0, 0.3, 1.0], [0.0, 2.5])))
def test_guided_mixes_teacher_mse_cross_entropy_and_kl(weight: float, beta: float) -> None:
    wanted = {
        "teacher_mse": weight * ((F_ADVERSARIAL - TEACHER.numpy()) ** 2).mean(),
        "cross_entropy": (1 - weight) * ce(ONEHOT, F_ADVERSARIAL).mean(),
        "kl": beta * kl(F_NATURAL, F_ADVERSARIAL).mean(),
    }
    present = {name: value for name, value in wanted.items() if value != 0}
    assert terms_of(GuidedObjective(weight, beta, "ce")) == pytest.approx(present)


def ckt_wanted(form: str, temperature: float, on: str, mixing: float, beta: float) -> float:
    logits = F_ADVERSARIAL if form == "A" else F_NATURAL
    q = softmax(TEACHER.numpy() / temperature)
    if on == "teacher":
        loss = ce(mixing * q + (1 - mixing) * ONEHOT, logits).mean()
    else:
        loss = mixing * temperature**2 * ce(q, logits / temperature).mean()
        loss += (1 - mixing) * ce(ONEHOT, logits).mean()
    return float(loss + (beta * kl(F_NATURAL, F_ADVERSARIAL).mean() if form == "B" else 0))


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("on", ["teacher", "both"])
@pytest.mark.parametrize("mixing", [0.0, 0.4, 1.0])
def test_ckt_is_the_form_of_the_page_of_methods(
    form: Literal["A", "B"], on: Literal["teacher", "both"], mixing: float
) -> None:
    for temperature, beta in itertools.product([1.0, 4.0], [0.0, 3.0]):
        terms = terms_of(CktObjective(form, temperature, on, mixing, beta, "ce"))
        wanted = ckt_wanted(form, temperature, on, mixing, beta)
        assert sum(terms.values()) == pytest.approx(wanted)
        labels = {"label"} if on == "teacher" else {"label_teacher", "label_true"}
        assert set(terms) == labels | ({"kl"} if form == "B" and beta > 0 else set())


def test_a_ckt_label_is_a_probability() -> None:
    label = CktObjective("A", 2.0, "teacher", 0.7, 0.0, "label").label(BATCH)
    assert torch.allclose(label.sum(dim=1), torch.ones(COUNT, dtype=torch.float64))
    assert float(label.min()) >= 0
    assert np.allclose(label.numpy(), 0.7 * softmax(TEACHER.numpy() / 2) + 0.3 * ONEHOT)


TO_CLASS = ce(ONEHOT, F_ADVERSARIAL)
TO_KL = kl(F_NATURAL, F_ADVERSARIAL)
TO_LABEL = ce(0.7 * softmax(TEACHER.numpy() / 2) + 0.3 * ONEHOT, F_ADVERSARIAL)
CKT_ATTACKS: list[tuple[Literal["ce", "label", "kl"], Array, str]] = [
    ("ce", TO_CLASS, "uniform"),
    ("label", TO_LABEL, "uniform"),
    ("kl", TO_KL, "gaussian"),
]


@pytest.mark.parametrize(
    ("objective", "wanted", "start"),
    [
        (CleanObjective(), TO_CLASS, "none"),
        (PgdAtObjective(), TO_CLASS, "uniform"),
        (TradesObjective(6.0), TO_KL, "gaussian"),
        (GuidedObjective(0.5, 1.0, "ce"), TO_CLASS, "uniform"),
        (GuidedObjective(0.5, 1.0, "kl"), TO_KL, "gaussian"),
        *(
            (CktObjective(form, 2.0, on, 0.7, 1.0, attack), wanted, start)
            for form in ("A", "B")
            for on in ("teacher", "both")
            for attack, wanted, start in CKT_ATTACKS
        ),
    ],
)
def test_what_the_attack_maximises_is_for_each_example(
    objective: Objective, wanted: Array, start: str
) -> None:
    assert attacked(objective).shape == (COUNT,)
    assert np.allclose(attacked(objective), wanted)
    assert objective.start == start


OBJECTIVES: list[Objective] = [
    CleanObjective(0.1),
    PgdAtObjective(),
    TradesObjective(6.0),
    GuidedObjective(0.4, 2.0, "ce"),
    GuidedObjective(1.0, 0.0, "ce"),
    CktObjective("A", 3.0, "teacher", 0.6, 0.0, "ce"),
    CktObjective("B", 3.0, "both", 0.6, 2.0, "kl"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_gradients_are_those_of_the_formula(objective: Objective) -> None:
    def loss(weight: Tensor) -> Tensor:
        return torch.stack(list(objective.terms(Linear(weight), BATCH, ADVERSARIAL).values())).sum()

    assert torch.autograd.gradcheck(loss, WEIGHT.clone().requires_grad_())


def test_the_gradient_of_the_kl_reaches_both_sides() -> None:
    sides = [torch.from_numpy(F_NATURAL).clone(), torch.from_numpy(F_ADVERSARIAL).clone()]
    for side in sides:
        side.requires_grad_()
    assert torch.autograd.gradcheck(kl_divergence, sides)
    torch.autograd.backward(kl_divergence(*sides))
    assert all(side.grad is not None and float(side.grad.abs().max()) > 1e-3 for side in sides)


def test_the_kl_does_not_divide_by_classes() -> None:
    value = kl_divergence(torch.from_numpy(F_NATURAL), torch.from_numpy(F_ADVERSARIAL))
    assert float(value) == pytest.approx(TO_KL.mean())


@pytest.mark.parametrize("objective", OBJECTIVES[3:], ids=lambda objective: type(objective).__name__)
def test_the_teacher_is_cached_and_gets_no_gradient(objective: Objective) -> None:
    assert objective.teacher == "cached"
    teacher = TEACHER.clone().requires_grad_()
    weight = WEIGHT.clone().requires_grad_()
    batch = Batch(NATURAL, LABELS, teacher.detach())
    terms = objective.terms(Linear(weight), batch, ADVERSARIAL)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    assert weight.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("objective", OBJECTIVES[:3], ids=lambda objective: type(objective).__name__)
def test_other_objectives_need_no_teacher(objective: Objective) -> None:
    assert objective.teacher == "none"
    assert objective.terms(MODEL, Batch(NATURAL, LABELS), ADVERSARIAL)


def test_an_objective_without_its_teacher_logits_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="teacher logits"):
        OBJECTIVES[3].terms(MODEL, Batch(NATURAL, LABELS), ADVERSARIAL)


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"name": "pgd_at"}, PgdAtObjective()),
        ({"name": "trades", "beta": 3}, TradesObjective(3.0)),
        ({"name": "guided", "weight": 0.25, "beta": 2, "attack": "kl"}, GuidedObjective(0.25, 2.0, "kl")),
        (
            {
                "name": "ckt",
                "form": "B",
                "temperature": 5,
                "temperature_on": "both",
                "mixing": 0.25,
                "beta": 2,
                "attack": "label",
            },
            CktObjective("B", 5.0, "both", 0.25, 2.0, "label"),
        ),
    ],
)
def test_every_section_builds_its_objective(section: dict[str, object], wanted: Objective) -> None:
    adapter: TypeAdapter[config.Objective] = TypeAdapter(config.Objective)
    assert build_objective(adapter.validate_python(section)) == wanted


def test_the_gaussian_start_is_near_and_in_the_pixel_range() -> None:
    natural = torch.rand((200, 1, 4, 4), generator=torch.Generator().manual_seed(0)).round(decimals=1)
    start = gaussian_start(natural, torch.Generator().manual_seed(1))
    assert 0.0 <= float(start.min()) <= float(start.max()) <= 1.0
    inner = (natural > 0.05) & (natural < 0.95)
    assert float((start - natural)[inner].std()) == pytest.approx(0.001, rel=0.05)
