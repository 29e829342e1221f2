"""Shared by the tests of the machine-learning core: the digits, a small trained net, users' networks."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.config import Augmentation, Normalisation, Optimiser, Ramp, SmallCnn
from training.data.digits import read_digits
from training.data.views import Views, ViewScheme, to_channels_first
from training.loop import Trainer, TrainingData, TrainingPlan
from training.models.classifier import Classifier, build_classifier
from training.objectives.clean import CleanObjective
from training.phases import TrainingPhase
from training.validation import LabelledImages

NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Tied(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.encode = nn.Linear(pixels, pixels)
        self.decode = nn.Linear(pixels, pixels)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.head(F.relu(self.decode(F.relu(self.encode(x.flatten(1))))))


class Frozen(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.fixed = nn.Linear(pixels, 16).requires_grad_(False)
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(F.relu(self.fixed(x.flatten(1))))


class Stumbling(nn.Module):
    def forward(self, x):
        assert False


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Spaced(nn.Module):
    """One part is in eval mode from the start, as a user may want it."""

    def __init__(self, shape, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(shape[2]).eval()
        self.head = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, x):
        return self.head(self.norm(x).flatten(1))


def dropout(shape, classes, share=0.5):
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Dropout(share), nn.Linear(pixels, classes))


def lazy(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def wrong_width(shape, classes):
    return lazy(shape, classes + 1)


def raising(shape, classes):
    raise KeyError("width")


def not_a_module(shape, classes):
    return "a network"


def stumbling(shape, classes):
    return Stumbling()


def pair(shape, classes):
    return Pair()
'''


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(name="networks")
def _networks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name a module of networks such as users write: ``f"{networks}:Tied"``."""
    folder: Path = tmp_path_factory.mktemp("networks")
    (folder / "temper_users_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(folder))
    yield "temper_users_networks"
    sys.modules.pop("temper_users_networks", None)


@pytest.fixture(scope="session", name="digits")
def _digits() -> LabelledImages:
    raw = read_digits()
    return LabelledImages(to_channels_first(raw.train.images), torch.from_numpy(raw.train.labels))


@pytest.fixture(scope="session", name="trained_once")
def _trained_once(digits: LabelledImages) -> Classifier:
    classifier = build_classifier(
        SmallCnn(name="small_cnn", width=8),
        shape=(8, 8, 1),
        classes=10,
        normalisation=Normalisation(mean=(0.3,), std=(0.37,)),
        seed=1,
    )
    phase = TrainingPhase(
        name="clean",
        epochs=4,
        objective=CleanObjective(),
        learning_rate=Ramp(start=0.1, end=0.0),
        epsilon=Ramp(start=0.0, end=0.0),
        attack_steps=0,
        step_size=0.0,
        awp_gamma=0.0,
    )
    views = Views(digits.images[:1200], ViewScheme(seed=0, augmentation=Augmentation()))
    validation = LabelledImages(digits.images[1200:1264], digits.labels[1200:1264])
    data = TrainingData(views, digits.labels[:1200], validation)
    Trainer(classifier, data, TrainingPlan((phase,), Optimiser(batch_size=32), 0, "last")).run()
    classifier.zero_grad(set_to_none=True)
    return classifier.double()


@pytest.fixture(name="trained")
def _trained(trained_once: Classifier) -> Classifier:
    """Give a net trained on the first 1200 digits, in float64 so that batches do not matter."""
    return copy.deepcopy(trained_once)


@pytest.fixture(scope="session", name="unseen")
def _unseen(digits: LabelledImages) -> LabelledImages:
    """Give 96 digits that ``trained`` has not seen."""
    return LabelledImages(digits.images[1300:1396], digits.labels[1300:1396])
