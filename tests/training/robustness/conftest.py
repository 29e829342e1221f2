"""Shared by the tests of what an evaluation is told as: realistic results without an evaluation."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import pytest

from training.config import (
    ApgdCeAttack,
    ApgdTargetedAttack,
    FabTargetedAttack,
    PgdAttack,
    SanityName,
    SquareAttack,
    ThreatModel,
)
from training.robustness.results import (
    AttackResult,
    ClassResult,
    CorruptionResult,
    CurvePoint,
    CurveResult,
    EvaluationResult,
    Method,
    SanityCheck,
    ShiftedSetResult,
    ShiftResult,
    Strip,
    ThreatResult,
)
from training.robustness.statistics import Rate, two_phase

PER_CLASS = 40
KINDS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
METHOD = Method(
    version="standard",
    mode="exact",
    draws="per-example",
    precision="float32",
    folded=True,
    forward=123456,
    gradient=98765,
)

MakeResult: TypeAlias = Callable[..., EvaluationResult]
MakeStrip: TypeAlias = Callable[..., Strip]


def rate(count: int, n: int) -> Rate:
    return Rate(count=count, n=n)


def confusion(classes: int, right: int, seed: int) -> np.ndarray:
    """Return counts of which ``right`` or up to four fewer of each class's images are on the diagonal."""
    generator = np.random.default_rng(seed)
    table = np.zeros((classes, classes), np.int64)
    for label in range(classes):
        held = right - int(generator.integers(0, 5))
        wrong = (label + generator.integers(1, min(classes, 4), PER_CLASS - held)) % classes
        table[label] += np.bincount(wrong, minlength=classes)
        table[label, label] = held
    return table


def class_results(names: Sequence[str], natural: np.ndarray, worst: np.ndarray) -> tuple[ClassResult, ...]:
    return tuple(
        ClassResult(
            name=name,
            natural=rate(natural[i, i], PER_CLASS),
            robust=rate(min(worst[i, i], natural[i, i]), PER_CLASS),
        )
        for i, name in enumerate(names)
    )


def attack_results(stand: int, robust: int, n: int) -> tuple[AttackResult, ...]:
    """Return standard AutoAttack, whose first attack breaks nearly all that is broken."""
    left = [stand, robust + 4, robust + 1, robust, robust]
    attacks = (ApgdCeAttack(), ApgdTargetedAttack(targets=1), FabTargetedAttack(targets=1), SquareAttack())
    losses = ("cross-entropy", "targeted DLR", "distance to the boundary", "margin")
    return tuple(
        AttackResult(attack=attack, loss=loss, attacked=before, broken=before - after, robust=rate(after, n))
        for attack, loss, before, after in zip(attacks, losses, left, left[1:], strict=False)
    )


def curve_result(*multiples: float, epsilon: float = 0.15) -> CurveResult:
    points = tuple(
        CurvePoint(epsilon=multiple * epsilon, accuracy=rate(round(400 / (1 + multiple)), 447))
        for multiple in multiples
    )
    return CurveResult(attack=PgdAttack(restarts=1), points=points)


def checks(failed: Sequence[str] = (), absent: Sequence[str] = ()) -> tuple[SanityCheck, ...]:
    return tuple(
        SanityCheck(
            name=name,
            status="failed" if name in failed else "not run" if name in absent else "passed",
            found=None if name in absent else 0.0123,
            threshold=None if name in absent else 0.005,
            evidence=f"What was seen for {name}.",
        )
        for name in get_args(SanityName)
    )


def corruption_results(*, teacher: bool) -> tuple[CorruptionResult, ...]:
    return tuple(
        CorruptionResult(
            kind=kind,
            group=group,
            severity=severity,
            accuracy=rate(95 - 3 * place - 9 * (severity - 1), 100),
            teacher=rate(98 - 12 * (severity - 1) - 5 * place, 100) if teacher else None,
        )
        for group, kinds in KINDS.items()
        for place, kind in enumerate(kinds)
        for severity in range(1, 6)
    )


def shift_result(*, teacher: bool = True) -> ShiftResult:
    return ShiftResult(
        corruptions=corruption_results(teacher=teacher),
        natural=rate(97, 100),
        threats=(
            ThreatResult(name="L2", epsilon=1.1, description="APGD-CE, 100 steps", accuracy=rate(70, 100)),
            ThreatResult(name="L1", epsilon=5.5, description="APGD-CE, 100 steps", accuracy=rate(52, 100)),
            ThreatResult(
                name="spatial", epsilon=None, description="turned and moved", accuracy=rate(81, 100)
            ),
        ),
        shifted=ShiftedSetResult(
            digest="ef" * 32, natural=rate(160, 200), label_shift=0.125, natural_reweighted=0.93
        ),
    )


@pytest.fixture(name="make_result", scope="session")
def _make_result() -> MakeResult:
    def make(names: Sequence[str] = ("0", "1", "2"), **changes: Any) -> EvaluationResult:  # noqa: ANN401 - fields
        natural, worst = confusion(len(names), PER_CLASS - 1, 0), confusion(len(names), PER_CLASS - 8, 1)
        n, stand, robust = PER_CLASS * len(names), int(np.trace(natural)), int(np.trace(worst))
        fields: dict[str, Any] = {
            "model_digest": "ab" * 32,
            "snapshot_digest": "cd" * 32,
            "seed": 7,
            "threat_model": ThreatModel(),
            "examples": n,
            "class_count": len(names),
            "method": METHOD,
            "natural": rate(stand, n),
            "robust": rate(robust, n),
            "attacks": attack_results(stand, robust, n),
            "classes": class_results(names, natural, worst),
            "confusion": natural.tolist(),
            "robust_confusion": worst.tolist(),
            "curve": curve_result(0, 0.25, 0.5, 0.75, 1, 1.5, 2),
            "sanity": checks(),
            "shift": shift_result(),
        }
        return EvaluationResult.model_validate(fields | changes)

    return make


@pytest.fixture(name="make_checks", scope="session")
def _make_checks() -> Callable[..., tuple[SanityCheck, ...]]:
    return checks


@pytest.fixture(name="make_curve", scope="session")
def _make_curve() -> Callable[..., CurveResult]:
    return curve_result


@pytest.fixture(name="make_shift", scope="session")
def _make_shift() -> Callable[..., ShiftResult]:
    return shift_result


@pytest.fixture(name="budgeted", scope="session")
def _budgeted(make_result: MakeResult) -> EvaluationResult:
    """Give a result whose later attacks saw a sample alone, so that what stands is an estimate."""
    whole = make_result(("cat", "dog", "eel"))
    first, second, *_ = whole.attacks
    assert isinstance(first.robust, Rate)
    estimate = two_phase(first.robust, rate(45, 50))
    later = second.model_copy(update={"attacked": 50, "broken": 5, "skipped": 49, "robust": estimate})
    skipped = ("49 images that stood after APGD-CE were not given to targeted APGD-DLR",)
    method = whole.method.model_copy(update={"version": "custom", "skipped": skipped})
    return whole.model_copy(update={"attacks": (first, later), "robust": estimate, "method": method})


@pytest.fixture(name="make_strip", scope="session")
def _make_strip() -> MakeStrip:
    def make(shape: tuple[int, int, int] = (1, 8, 8), epsilon: float = 0.15) -> Strip:
        """Return three examples: broken, stays right, wrong already."""
        generator = np.random.default_rng(0)
        natural = (generator.integers(0, 256, (3, *shape)) / 255).astype(np.float32)
        moved = natural + epsilon * generator.choice([-1.0, 0.0, 1.0], natural.shape)
        adversarial = np.clip(moved, 0, 1).astype(np.float32)
        adversarial[2] = natural[2]
        return Strip(natural, adversarial, np.array([0, 1, 2]), np.array([0, 1, 0]), np.array([1, 1, 0]))

    return make


@pytest.fixture(name="no_strip", scope="session")
def _no_strip() -> Strip:
    images, labels = np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64)
    return Strip(images, images, labels, labels, labels)
