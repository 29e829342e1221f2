"""Distribution shift: corruptions, other threat models, and a shifted test set of the user's own."""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.artefact import digest_file
from training.attacks.victim import Victim
from training.data.npz import read_npz
from training.data.raw import RawData
from training.data.views import to_channels_first
from training.errors import TrainingError
from training.randomness import derive_seed
from training.robustness.corruptions import CORRUPTIONS, Corruption, corrupt
from training.robustness.results import CorruptionResult, ShiftedSetResult, ShiftResult
from training.robustness.statistics import Rate
from training.robustness.subject import Natural, Plan, Subject, as_rows, batches, images_at
from training.robustness.threats import unseen_threats
from training.validation import LabelledImages

_BATCH = 256


def measure_shift(victim: Victim, subject: Subject, natural: Natural, plan: Plan) -> ShiftResult:
    """Measure everything that ``evaluation.shift`` asks for, on the first examples of the test side.

    Raises:
        TrainingError: a shifted test set that does not fit the model.
    """
    shift = plan.evaluation.shift
    count = min(shift.examples, len(natural))
    return ShiftResult(
        natural=Rate(count=int(natural.right[:count].sum()), n=count),
        corruptions=_corruptions(subject, plan, count),
        threats=unseen_threats(victim, subject, natural, plan),
        shifted=_shifted_set(Path(shift.path), subject, natural) if shift.path else None,
    )


def _corruptions(subject: Subject, plan: Plan, count: int) -> tuple[CorruptionResult, ...]:
    shift = plan.evaluation.shift
    wanted = {
        "all": CORRUPTIONS,
        "common": tuple(kind for kind in CORRUPTIONS if kind.group != "extra"),
        "none": (),
    }
    return tuple(
        _corruption(kind, severity, subject, plan, count)
        for kind in wanted[shift.corruptions]
        for severity in shift.severities
    )


def _corruption(
    kind: Corruption, severity: int, subject: Subject, plan: Plan, count: int
) -> CorruptionResult:
    seed = derive_seed(plan.seed, "corruption")
    right = right_of_teacher = 0
    for at in batches(torch.arange(count), plan.evaluation.batch_size):
        x, labels = images_at(subject.test, at, torch.device("cpu"))
        x = corrupt(x, as_rows(at), kind.name, severity, seed).to(subject.device)
        right += _right(subject.model, x, labels)
        right_of_teacher += _right(subject.teacher, x, labels) if subject.teacher else 0
    return CorruptionResult(
        kind=kind.name,
        group=kind.group,
        severity=severity,
        accuracy=Rate(count=right, n=count),
        teacher=Rate(count=right_of_teacher, n=count) if subject.teacher else None,
    )


def _right(model: nn.Module, x: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        logits = model(x)
    if not bool(torch.isfinite(logits).all()):
        msg = "the model gives NaN or infinity on corrupted images; its accuracy on them cannot be told"
        raise TrainingError(msg)
    return int((logits.argmax(dim=1) == labels).sum())


def _shifted_set(path: Path, subject: Subject, natural: Natural) -> ShiftedSetResult:
    raw = read_npz(path)
    classes = natural.logits.shape[1]
    _check_names(path, raw, subject)
    data = LabelledImages(to_channels_first(raw.train.images), torch.from_numpy(raw.train.labels))
    if not len(data):
        msg = f"{path}: holds no examples; give some, or leave evaluation.shift.path out"
        raise TrainingError(msg)
    if data.images.shape[1:] != subject.test.images.shape[1:] or int(data.labels.max()) >= classes:
        msg = f"{path}: images {tuple(data.images.shape[1:])} with labels up to {int(data.labels.max())} do "
        msg += f"not fit a model of {tuple(subject.test.images.shape[1:])} and {classes} classes; give others"
        raise TrainingError(msg)
    shares, before = _shares(data.labels, classes), _shares(natural.labels, classes)
    return ShiftedSetResult(
        digest=digest_file(path),
        natural=Rate(count=_right_of_set(subject, data), n=len(data)),
        label_shift=float((shares - before).abs().sum() / 2),
        natural_reweighted=_reweighted(natural, shares),
    )


def _check_names(path: Path, raw: RawData, subject: Subject) -> None:
    """Refuse class names in another order: labels would mean other classes.

    Raises:
        TrainingError: the set's own names are not the model's, or it holds a second set.
    """
    own = not all(name.isdecimal() for name in raw.class_names)
    if own and raw.class_names != subject.class_names:
        msg = f"{path}: its class_names are not the model's; give the same names in the same order"
        raise TrainingError(msg)
    if raw.test is not None:
        msg = f"{path}: holds x_test too; a shifted test set is x and y alone"
        raise TrainingError(msg)


def _right_of_set(subject: Subject, data: LabelledImages) -> int:
    parts = batches(torch.arange(len(data)), _BATCH)
    return sum(_right(subject.model, *images_at(data, at, subject.device)) for at in parts)


def _shares(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def _reweighted(natural: Natural, shares: Tensor) -> float:
    """Accuracy if the classes came in other shares; shares of classes never tested here are left out."""
    tested = torch.bincount(natural.labels, minlength=len(shares)).double()
    right = torch.bincount(natural.labels[natural.right], minlength=len(shares)).double()
    known = tested > 0
    weight = float(shares[known].sum())
    return float((shares[known] * right[known] / tested[known]).sum()) / weight if weight else 0.0
