"""Threat models that were not trained for: the epsilons that go together, and honest counts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.attacks.gradients import frozen
from training.attacks.norms import Norm
from training.attacks.victim import Victim
from training.config import ApgdCeAttack, Evaluation, Shift, Spatial, ThreatModel
from training.errors import TrainingError
from training.models.classifier import Classifier
from training.robustness.results import ThreatResult
from training.robustness.spatial import even_grid, spatial_views
from training.robustness.statistics import Rate
from training.robustness.subject import Natural, Plan, Subject, natural_logits
from training.robustness.threats import unseen_threats, usual_threats
from training.validation import LabelledImages

CPU = torch.device("cpu")
TOGETHER: dict[Norm, float] = {"Linf": 8 / 255, "L2": 0.5, "L1": 12.0}
CIFAR = 3 * 32 * 32


# --- the epsilons that go together ----------------------------------------------------------------


@pytest.mark.parametrize("norm", TOGETHER)
def test_on_cifar_10_the_usual_three_belong_to_each_other(norm: Norm) -> None:
    found = usual_threats(ThreatModel(norm=norm, epsilon=TOGETHER[norm]), CIFAR)
    assert [threat.norm for threat in found] == [other for other in TOGETHER if other != norm]
    for threat in found:
        assert threat.epsilon == pytest.approx(TOGETHER[threat.norm])


@pytest.mark.parametrize("norm", TOGETHER)
def test_half_the_epsilon_halves_the_others(norm: Norm) -> None:
    for threat in usual_threats(ThreatModel(norm=norm, epsilon=TOGETHER[norm] / 2), CIFAR):
        assert threat.epsilon == pytest.approx(TOGETHER[threat.norm] / 2)


def test_with_four_times_the_pixels_l2_doubles_and_l1_is_four_times_as_large() -> None:
    found = usual_threats(ThreatModel(norm="Linf", epsilon=8 / 255), 4 * CIFAR)
    assert [threat.epsilon for threat in found] == pytest.approx([1.0, 48.0])


@pytest.mark.parametrize("pixels", [64, 784, CIFAR])
def test_there_and_back_is_the_same_threat(pixels: int) -> None:
    first = ThreatModel(norm="Linf", epsilon=0.03)
    for other in usual_threats(first, pixels):
        back = usual_threats(other, pixels)[0]
        assert back.norm == "Linf"
        assert back.epsilon == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("norm", "epsilon", "pixels"),
    [("Linf", 8 / 255, 3 * 224 * 224), ("Linf", 1.0, CIFAR), ("L2", 64.0, CIFAR), ("L1", 12.0, 64)],
)
def test_large_images_and_large_epsilons_have_usual_threats_too(
    norm: Norm, epsilon: float, pixels: int
) -> None:
    # The bounds of the section are there for a user's 0-255 units; a derived epsilon has none.
    found = usual_threats(ThreatModel(norm=norm, epsilon=epsilon), pixels)
    assert len(found) == 2
    strengths = {threat.norm: threat.epsilon / TOGETHER[threat.norm] for threat in found}
    sizes = {"Linf": 1.0, "L2": (pixels / CIFAR) ** 0.5, "L1": pixels / CIFAR}
    own = epsilon / TOGETHER[norm] / sizes[norm]
    assert all(strength == pytest.approx(own * sizes[name]) for name, strength in strengths.items())


# --- accuracy under them --------------------------------------------------------------------------


class Precise(nn.Module):
    """Compute in float64 and answer in float32, so that batches do not matter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()


@pytest.fixture(name="subject")
def _subject(trained: Classifier, unseen: LabelledImages) -> Subject:
    names = tuple(f"digit {number}" for number in range(10))
    return Subject(Precise(trained), "model", unseen, "snapshot", names, CPU)


def shift_of(**fields: Any) -> Shift:  # noqa: ANN401 - fields of the section
    defaults: dict[str, Any] = {
        "corruptions": "none",
        "examples": 60,
        "attack": ApgdCeAttack(steps=8),
        "spatial": Spatial(degrees=0, pixels=0),
    }
    return Shift(**(defaults | fields))


def under(
    subject: Subject, shift: Shift, *, epsilon: float = 0.08, batch_size: int = 40
) -> tuple[tuple[ThreatResult, ...], Natural]:
    plan = Plan(Evaluation(shift=shift, batch_size=batch_size), ThreatModel(epsilon=epsilon), 3)
    with frozen(subject.model):
        natural = natural_logits(subject, len(subject.test), 40)
        return unseen_threats(Victim(subject.model), subject, natural, plan), natural


def test_the_other_two_norms_are_tried_on_the_first_examples(subject: Subject) -> None:
    found, natural = under(subject, shift_of())
    right = int(natural.right[:60].sum())
    assert [threat.name for threat in found] == ["L2", "L1"]
    for threat, usual in zip(found, usual_threats(ThreatModel(epsilon=0.08), 64), strict=True):
        assert threat.epsilon == usual.epsilon
        assert threat.accuracy.n == 60
        assert 0 < threat.accuracy.count < right
        assert threat.description.startswith("APGD-CE, 8 steps, 1 ")


def test_more_examples_than_there_are_means_all(subject: Subject) -> None:
    found, _ = under(subject, shift_of(examples=1000))
    assert [threat.accuracy.n for threat in found] == [96, 96]


def test_a_users_own_threats_take_the_place_of_the_usual_ones(subject: Subject) -> None:
    threats = (ThreatModel(norm="L1", epsilon=0.5), ThreatModel(norm="Linf", epsilon=0.2))
    found, _ = under(subject, shift_of(threats=threats))
    assert [(threat.name, threat.epsilon) for threat in found] == [("L1", 0.5), ("Linf", 0.2)]
    assert under(subject, shift_of(threats=()))[0] == ()


def test_a_larger_epsilon_never_helps(subject: Subject) -> None:
    counts = []
    for epsilon in (1e-6, 0.2, 0.6, 3.0):
        threats = (ThreatModel(norm="L2", epsilon=epsilon),)
        found, natural = under(subject, shift_of(threats=threats))
        counts.append(found[0].accuracy.count)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == int(natural.right[:60].sum())
    assert counts[-1] < 0.1 * counts[0]


def test_batches_do_not_matter(subject: Subject) -> None:
    shift = shift_of(spatial=Spatial(degrees=10, pixels=1, grid=3))
    assert under(subject, shift)[0] == under(subject, shift, batch_size=7)[0]


# --- rotations and shifts -------------------------------------------------------------------------


def test_the_spatial_threat_is_the_worst_view_of_the_grid_and_the_image_itself(subject: Subject) -> None:
    spatial = Spatial(degrees=5, pixels=0.2, grid=2)
    found, natural = under(subject, shift_of(threats=(), spatial=spatial))
    x, y = subject.test.batch(0, 60, CPU)
    stands = natural.right[:60].clone()
    views = list(spatial_views(x, even_grid(5, 2), even_grid(0.2, 2)))
    with frozen(subject.model):
        for view in views:
            stands &= subject.model(view).argmax(dim=1) == y
    assert len(views) == 8
    assert found[0].accuracy == Rate(count=int(stands.sum()), n=60)
    assert 0 < int(stands.sum()) < int(natural.right[:60].sum())
    assert (found[0].name, found[0].epsilon) == ("spatial", None)
    wanted = "rotations to 5 degrees and shifts to 0.2 pixels, worst of 8 views"
    assert found[0].description == wanted


def test_without_moves_there_is_no_spatial_threat(subject: Subject) -> None:
    found, natural = under(subject, shift_of(threats=(), spatial=Spatial(degrees=5, pixels=0, grid=1)))
    assert found[0].accuracy.count == int(natural.right[:60].sum())
    assert under(subject, shift_of(threats=()))[0] == ()


class NanWhenMoved(nn.Module):
    """Right on natural images; NaN, whose argmax is class 0, on those that are moved between pixels."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x * 255
        natural = ((grey - grey.round()).abs().flatten(1).amax(dim=1) < 1e-3)[:, None]
        logits = x.flatten(1)[:, :10] * 1e-3 - torch.arange(10)
        return torch.where(natural, logits, torch.nan)


@pytest.mark.parametrize("shift", [shift_of(), shift_of(threats=(), spatial=Spatial(degrees=15, pixels=0.5))])
def test_nan_is_no_robustness(subject: Subject, shift: Shift) -> None:
    zeros = LabelledImages(subject.test.images, torch.zeros_like(subject.test.labels))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        under(replace(subject, model=NanWhenMoved(), test=zeros), shift)
