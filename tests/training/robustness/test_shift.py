"""Distribution shift: counts on the same first images, and what a shift of the classes alone explains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.artefact import digest_file
from training.attacks.gradients import frozen
from training.attacks.victim import Victim
from training.config import Evaluation, Shift, Spatial, ThreatModel
from training.errors import TemperError, TrainingError
from training.models.classifier import Classifier
from training.randomness import derive_seed
from training.robustness.corruptions import COMMON, CORRUPTIONS, corrupt
from training.robustness.results import ShiftResult
from training.robustness.shift import measure_shift
from training.robustness.statistics import Rate
from training.robustness.subject import Plan, Subject, natural_logits
from training.validation import LabelledImages

CPU = torch.device("cpu")
SEED = 3


class Precise(nn.Module):
    """Compute in float64 and answer in float32, so that batches do not matter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()


class Brightest(nn.Module):
    """A weak classifier, to stand for a teacher: the class is read off the mean brightness."""

    def forward(self, x: Tensor) -> Tensor:
        return -(x.mean(dim=(1, 2, 3))[:, None] * 20 - torch.arange(10.0)).abs()


@pytest.fixture(name="subject")
def _subject(trained: Classifier, unseen: LabelledImages) -> Subject:
    names = tuple(f"digit {number}" for number in range(10))
    return Subject(Precise(trained), "model", unseen, "snapshot", names, CPU)


def measured(subject: Subject, *, batch_size: int = 40, **fields: Any) -> ShiftResult:  # noqa: ANN401 - fields
    defaults: dict[str, Any] = {
        "corruptions": "none",
        "severities": (1, 5),
        "examples": 60,
        "threats": (),
        "spatial": Spatial(degrees=0, pixels=0),
    }
    shift = Shift(**(defaults | fields))
    plan = Plan(Evaluation(shift=shift, batch_size=batch_size), ThreatModel(epsilon=0.08), SEED)
    with frozen(subject.model):
        natural = natural_logits(subject, len(subject.test), 40)
        return measure_shift(Victim(subject.model), subject, natural, plan)


# --- corruptions ----------------------------------------------------------------------------------


def test_natural_accuracy_is_of_the_same_first_images(subject: Subject) -> None:
    x, y = subject.test.batch(0, 60, CPU)
    with frozen(subject.model):
        right = int((subject.model(x).argmax(dim=1) == y).sum())
    assert measured(subject).natural == Rate(count=right, n=60)
    assert measured(subject, examples=10_000).natural.n == 96


def test_each_corruption_is_counted_at_each_severity(subject: Subject) -> None:
    found = measured(subject, corruptions="common", examples=24).corruptions
    wanted = {(kind.name, kind.group) for kind in CORRUPTIONS if kind.group != "extra"}
    assert {(result.kind, result.group) for result in found} == wanted
    assert len(wanted) == len(COMMON) == 15
    assert [result.severity for result in found] == [1, 5] * 15
    x, y = subject.test.batch(0, 24, CPU)
    seed = derive_seed(SEED, "corruption")
    with frozen(subject.model):
        for result in found[::7]:
            images = corrupt(x, np.arange(24), result.kind, result.severity, seed)
            right = int((subject.model(images).argmax(dim=1) == y).sum())
            assert result.accuracy == Rate(count=right, n=24)
            assert result.teacher is None


def test_all_means_the_extra_ones_too(subject: Subject) -> None:
    found = measured(subject, corruptions="all", severities=(3,), examples=8).corruptions
    assert [result.kind for result in found] == [kind.name for kind in CORRUPTIONS]
    assert len(found) == 19


def test_without_corruptions_there_are_none(subject: Subject) -> None:
    result = measured(subject)
    assert result.corruptions == ()
    assert result.mean() is None


def test_the_teacher_sees_the_same_images(subject: Subject) -> None:
    fields: dict[str, Any] = {"corruptions": "common", "severities": (4,), "examples": 24}
    alone = measured(subject, **fields).corruptions
    beside = measured(replace(subject, teacher=Brightest()), **fields).corruptions
    twin = measured(replace(subject, teacher=subject.model), **fields).corruptions
    assert [result.accuracy for result in beside] == [result.accuracy for result in alone]
    assert all(result.teacher == result.accuracy for result in twin)
    assert any(result.teacher != result.accuracy for result in beside)


def test_batches_do_not_matter(subject: Subject) -> None:
    fields: dict[str, Any] = {"corruptions": "common", "severities": (5,), "examples": 24}
    assert measured(subject, **fields) == measured(subject, batch_size=7, **fields)


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grey = x * 255
        natural = ((grey - grey.round()).abs().flatten(1).amax(dim=1) < 1e-3)[:, None]
        return torch.where(natural, x.flatten(1)[:, :10], torch.nan)


def test_nan_on_corrupted_images_is_refused(subject: Subject) -> None:
    with pytest.raises(TrainingError, match="NaN or infinity"):
        measured(replace(subject, model=Nan()), corruptions="common")


# --- a shifted test set of the user's own ---------------------------------------------------------


def saved(folder: Path, images: Tensor, labels: Tensor) -> str:
    path = folder / "shifted.npz"
    np.savez_compressed(path, x=images.permute(0, 2, 3, 1).numpy(), y=labels.numpy())
    return str(path)


def test_the_test_side_itself_is_no_shift(subject: Subject, tmp_path: Path) -> None:
    path = saved(tmp_path, subject.test.images, subject.test.labels)
    result = measured(subject, path=path, examples=96)
    found = result.shifted
    assert found is not None
    assert found.natural == result.natural
    assert found.label_shift == pytest.approx(0.0)
    assert found.natural_reweighted == pytest.approx(result.natural.value)
    assert found.digest == digest_file(Path(path))


def test_where_only_the_classes_shares_shift_reweighting_explains_it_all(
    subject: Subject, tmp_path: Path
) -> None:
    # Ten copies of every even digit: the images are the same, the shares are not.
    even = subject.test.labels % 2 == 0
    times = torch.where(even, 10, 1)
    images = subject.test.images.repeat_interleave(times, dim=0)
    labels = subject.test.labels.repeat_interleave(times)
    result = measured(subject, path=saved(tmp_path, images, labels), examples=96)
    found = result.shifted
    assert found is not None
    assert found.natural.n == len(labels)
    assert found.natural_reweighted == pytest.approx(found.natural.value)
    assert found.natural_reweighted != pytest.approx(result.natural.value, abs=1e-4)
    share = float(even.double().mean())
    assert found.label_shift == pytest.approx(10 * share / (10 * share + 1 - share) - share)


def test_another_distribution_is_told_apart_from_other_shares(subject: Subject, tmp_path: Path) -> None:
    inverted = saved(tmp_path, 255 - subject.test.images, subject.test.labels)
    result = measured(subject, path=inverted, examples=96)
    found = result.shifted
    assert found is not None
    assert found.label_shift == pytest.approx(0.0)
    assert found.natural_reweighted == pytest.approx(result.natural.value)
    assert found.natural.value < 0.5 * result.natural.value


def test_a_set_with_fewer_classes_is_taken(subject: Subject, tmp_path: Path) -> None:
    keep = subject.test.labels < 4
    path = saved(tmp_path, subject.test.images[keep], subject.test.labels[keep])
    found = measured(subject, path=path, examples=96).shifted
    assert found is not None
    assert found.natural.n == int(keep.sum())
    assert found.natural_reweighted == pytest.approx(found.natural.value)
    assert found.label_shift == pytest.approx(1 - float(keep.double().mean()))


def test_a_class_that_the_test_side_lacks_is_left_out_of_the_reweighting(
    subject: Subject, tmp_path: Path
) -> None:
    path = saved(tmp_path, subject.test.images, subject.test.labels)
    keep = subject.test.labels != 3
    some = LabelledImages(subject.test.images[keep], subject.test.labels[keep])
    result = measured(replace(subject, test=some), path=path, examples=96)
    found = result.shifted
    assert found is not None
    assert found.natural_reweighted == pytest.approx(result.natural.value)
    assert found.natural.n == 96


@pytest.mark.parametrize("flaw", ["size", "channels", "classes"])
def test_a_set_that_does_not_fit_the_model_is_refused_with_the_mend(
    subject: Subject, tmp_path: Path, flaw: str
) -> None:
    images, labels = subject.test.images, subject.test.labels
    if flaw == "size":
        images = images[:, :, :6]
    elif flaw == "channels":
        images = images.expand(-1, 3, -1, -1)
    else:
        labels = labels.clone()
        labels[:2] = torch.tensor([10, 9])
    with pytest.raises(TrainingError, match=r"do not fit a model of .* give others"):
        measured(subject, path=saved(tmp_path, images, labels))


def test_a_missing_or_empty_set_is_refused_in_one_line(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(TemperError, match=r"none\.npz"):
        measured(subject, path=str(tmp_path / "none.npz"))
    empty = saved(tmp_path, subject.test.images[:0], subject.test.labels[:0])
    with pytest.raises(TemperError, match=r"shifted\.npz: holds no examples; give some"):
        measured(subject, path=empty)


def test_a_set_whose_class_names_are_not_the_models_is_refused(subject: Subject, tmp_path: Path) -> None:
    images = subject.test.images.permute(0, 2, 3, 1).numpy()
    labels = subject.test.labels.numpy()
    path = tmp_path / "named.npz"
    np.savez(path, x=images, y=labels, class_names=np.array(subject.class_names))
    assert measured(subject, path=str(path)).shifted is not None
    np.savez(path, x=images, y=labels, class_names=np.array(subject.class_names[::-1]))
    with pytest.raises(TrainingError, match="class_names are not the model's"):
        measured(subject, path=str(path))


def test_a_set_with_a_second_set_in_it_is_refused(subject: Subject, tmp_path: Path) -> None:
    images = subject.test.images.permute(0, 2, 3, 1).numpy()
    labels = subject.test.labels.numpy()
    path = tmp_path / "two.npz"
    np.savez(path, x=images, y=labels, x_test=images, y_test=labels)
    with pytest.raises(TrainingError, match="holds x_test too"):
        measured(subject, path=str(path))
