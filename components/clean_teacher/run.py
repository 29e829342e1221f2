"""The clean teacher: trained here, or an existing clean model reused."""

from dataclasses import dataclass
from pathlib import Path

from components.dataset.remote import fetch
from components.step import StepContext, digested, open_inputs
from components.training_step import labelled_images, run_training, write_history
from training.artefact import publish, seal
from training.bundle import classifier_from_weights, load_bundle, save_bundle
from training.checkpoint import Checkpoint
from training.config import (
    Architecture,
    BundleTeacher,
    Normalisation,
    Teacher,
    TrainedTeacher,
    WeightsTeacher,
)
from training.data.snapshot import SnapshotInfo, read_info
from training.data.views import Views, ViewScheme
from training.errors import ArtefactError
from training.loop import Trainer, TrainingData, TrainingPlan, TrainingResult
from training.models.classifier import Classifier, build_classifier
from training.phases import teacher_phases
from training.randomness import derive_seed
from training.validation import natural_accuracy


@dataclass(frozen=True)
class _Model:
    """A classifier and what its bundle must tell; ``result`` where it was trained here."""

    classifier: Classifier
    architecture: Architecture
    normalisation: Normalisation | None
    result: TrainingResult | None = None


def run(*, seed: int, teacher: Teacher, dataset: Path, out: Path, context: StepContext) -> None:
    """Publish the clean teacher as a bundle; one trained here has its history.json beside it.

    Raises:
        ArtefactError: an existing model that cannot be read, or does not fit the snapshot.
        TrainingError: training that cannot start, or diverged.
    """
    inputs = open_inputs(dataset=dataset)
    info = read_info(dataset)
    config = digested({"seed": seed, "teacher": teacher})
    checkpoint = context.checkpoint("clean_teacher", inputs, config)
    with publish(out) as folder:
        if isinstance(teacher, TrainedTeacher):
            model = _train(seed, teacher, dataset, checkpoint, context)
        else:
            model = _reuse(teacher, dataset, info, context)
        save_bundle(
            folder,
            model.classifier,
            architecture=model.architecture,
            normalisation=model.normalisation,
            class_names=info.class_names,
            shape=info.shape,
        )
        if model.result is not None:
            write_history(folder, model.result)
        seal(folder, "teacher", inputs=inputs, config=config, threads=context.compute.threads)
    checkpoint.clear()


def _train(
    seed: int, teacher: TrainedTeacher, dataset: Path, checkpoint: Checkpoint, context: StepContext
) -> _Model:
    info = read_info(dataset)
    train = labelled_images(dataset, "train")
    own_seed = derive_seed(seed, "teacher")
    classifier = build_classifier(
        teacher.architecture,
        shape=info.shape,
        classes=len(info.class_names),
        normalisation=info.normalisation,
        seed=own_seed,
    )
    data = TrainingData(
        views=Views(train.images, ViewScheme(seed=own_seed, augmentation=teacher.augmentation)),
        labels=train.labels,
        validation=labelled_images(dataset, "validation"),
    )
    plan = TrainingPlan(
        phases=teacher_phases(teacher), optimiser=teacher.optimiser, seed=own_seed, rule="natural"
    )
    trainer = Trainer(classifier, data, plan, checkpoint=checkpoint, device=context.compute.device)
    result = run_training("clean_teacher", trainer, teacher.epochs, context)
    return _Model(classifier, teacher.architecture, info.normalisation, result)


def _reuse(
    teacher: BundleTeacher | WeightsTeacher, dataset: Path, info: SnapshotInfo, context: StepContext
) -> _Model:
    path = fetch(teacher.path, context.state / "downloads")
    if isinstance(teacher, BundleTeacher):
        classifier, described = load_bundle(path)
        if described.shape != info.shape or described.class_names != info.class_names:
            msg = (
                f"{teacher.path}: takes {described.shape} images of classes {described.class_names}, but the "
            )
            msg += f"snapshot has {info.shape} and {info.class_names}; give a teacher for this data"
            raise ArtefactError(msg)
        model = _Model(classifier, described.architecture, described.normalisation)
    else:
        classifier = classifier_from_weights(
            path,
            architecture=teacher.architecture,
            normalisation=teacher.normalisation,
            shape=info.shape,
            classes=len(info.class_names),
        )
        model = _Model(classifier, teacher.architecture, teacher.normalisation)
    device = context.compute.device
    accuracy = natural_accuracy(model.classifier.to(device), labelled_images(dataset, "validation"), device)
    context.tracker.metrics({"validation_natural": accuracy})
    return model
