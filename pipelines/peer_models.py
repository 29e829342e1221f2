"""Trained models and images on which our attacks are held against the public AutoAttack."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.step import step_inputs
from components.training_step import labelled_images
from pipelines.comparison import configuration, new_trial
from pipelines.local import make_artefact
from pipelines.params import validate_params
from training.bundle import load_bundle
from training.config import FashionMnist, PipelineConfig, ThreatModel
from training.data.split import SideName
from training.validation import LabelledImages

FASHION_MNIST = Path(FashionMnist(name="fashion-mnist").path)
NAMES = ("clean", "pgd_at", "guided")
_OBJECTIVES: dict[str, dict[str, Any]] = {"guided": {"weight": 0.35}}
_FASHION_EPOCHS = 3


@dataclass(frozen=True)
class Peer:
    """A model in eval mode, the images that it is attacked on, and the epsilon it was trained for."""

    name: str
    model: nn.Module
    images: LabelledImages
    epsilon: float

    def first(self, count: int) -> LabelledImages:
        """Return the first ``count`` examples."""
        return LabelledImages(self.images.images[:count], self.images.labels[:count])


def plain(model: nn.Module) -> nn.Module:
    """Copy a model in torch's default layout, as the reference's users run it."""
    made: nn.Module = copy.deepcopy(model)
    for parameter in made.parameters():
        parameter.data = parameter.data.contiguous()
    return made


def as_floats(data: LabelledImages) -> tuple[Tensor, Tensor]:
    """Return images in [0, 1], float32, and labels."""
    return data.batch(0, len(data), torch.device("cpu"))


def trained_peers(folder: Path, data: str, names: tuple[str, ...] = NAMES) -> Iterator[Peer]:
    """Train the models below ``folder``, reusing those that are there.

    Args:
        folder: where artefacts are kept.
        data: ``fashion-mnist``, ``digits`` with the default networks, or ``digits-small`` with quick ones;
            digits are attacked on training images too, as there are too few others.
        names: which models: ``clean``, or a training objective that the configuration knows.
    """
    for name in names:
        config = _configuration(data, name)
        student = _bundle(folder / data, name, config)
        model, _ = load_bundle(student)
        yield Peer(name, model, _images(folder / data, data), config.threat_model.epsilon)


def _configuration(data: str, name: str) -> PipelineConfig:
    objective = "pgd_at" if name == "clean" else name
    options = _OBJECTIVES.get(objective, {})
    if data == "fashion-mnist":
        start = "clean" if objective == "guided" else "random"
        chosen = new_trial(objective, start=start, **options)
        return configuration(chosen, 0, _FASHION_EPOCHS, FASHION_MNIST)
    phases = PipelineConfig().student.model_dump(mode="json")["phases"]
    student = {"phases": [{**phase, "objective": {"name": objective, **options}} for phase in phases]}
    if data == "digits":
        return validate_params({"student": student})
    small = {"architecture": {"name": "small_resnet"}}
    return validate_params({"teacher": {"name": "train", **small}, "student": student | small})


def _bundle(folder: Path, name: str, config: PipelineConfig) -> Path:
    for step in ("dataset", "clean_teacher", "teacher_cache"):
        if step != "dataset" or not (folder / step).is_dir():
            make_artefact(step, config, {made: folder / made for made in step_inputs(step)}, folder / step)
    if name == "clean":
        return folder / "clean_teacher"
    inputs = {made: folder / made for made in step_inputs("adversarial_student")}
    make_artefact("adversarial_student", config, inputs, folder / name)
    return folder / name


def _images(folder: Path, data: str) -> LabelledImages:
    sides: tuple[SideName, ...] = ("test",) if data == "fashion-mnist" else ("test", "train")
    parts = [labelled_images(folder / "dataset", side) for side in sides]
    return LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )


def chosen_data(data: str | None) -> str:
    """Return the data to use: as asked, else Fashion-MNIST where Debian's package put it, else digits."""
    if data:
        return data
    return "fashion-mnist" if FASHION_MNIST.is_dir() else "digits-small"


def threat_of(peer: Peer) -> ThreatModel:
    """Return the threat model that a peer was trained for."""
    return ThreatModel(norm="Linf", epsilon=peer.epsilon)
