"""The student: staged adversarial training, guided by what the clean teacher knows."""

from pathlib import Path

from components.step import StepContext, digested, open_inputs
from components.training_step import labelled_images, run_training, write_history
from training.artefact import Manifest, publish, seal
from training.attacks.pgd import Ascent
from training.bundle import load_bundle, save_bundle
from training.config import Cache, Factory, Normalisation, Student, ThreatModel
from training.data.snapshot import SnapshotInfo, read_info
from training.data.views import Views
from training.errors import TrainingError
from training.loop import Trainer, TrainingData, TrainingPlan
from training.models.classifier import Classifier, build_classifier
from training.models.export import check_exportable
from training.phases import student_phases
from training.randomness import derive_seed
from training.teacher_cache import open_cache, view_scheme


def run(
    *,
    seed: int,
    threat_model: ThreatModel,
    cache: Cache,
    student: Student,
    dataset: Path,
    clean_teacher: Path,
    teacher_cache: Path,
    out: Path,
    context: StepContext,
) -> None:
    """Publish the student as a bundle with its history.json; a killed run resumes from its checkpoint.

    Raises:
        ArtefactError: an input that was altered, or a stale cache.
        TrainingError: training that cannot start, or diverged.
    """
    inputs = open_inputs(dataset=dataset, clean_teacher=clean_teacher, teacher_cache=teacher_cache)
    info = read_info(dataset)
    config = digested({"seed": seed, "threat_model": threat_model, "cache": cache, "student": student})
    checkpoint = context.checkpoint("adversarial_student", inputs, config)
    classifier, normalisation = _start(student, seed, clean_teacher, info)
    data = _data(seed, cache, dataset, teacher_cache, inputs)
    plan = _plan(seed, student, threat_model)
    trainer = Trainer(classifier, data, plan, checkpoint=checkpoint, device=context.compute.device)
    with publish(out) as folder:
        epochs = sum(phase.epochs for phase in student.phases)
        result = run_training("adversarial_student", trainer, epochs, context)
        save_bundle(
            folder,
            classifier,
            architecture=student.architecture,
            normalisation=normalisation,
            class_names=info.class_names,
            shape=info.shape,
        )
        write_history(folder, result)
        seal(folder, "student", inputs=inputs, config=config, threads=context.compute.threads)
    checkpoint.clear()


def _start(
    student: Student, seed: int, clean_teacher: Path, info: SnapshotInfo
) -> tuple[Classifier, Normalisation | None]:
    if student.start == "clean":
        teacher, described = load_bundle(clean_teacher)
        if described.architecture != student.architecture:
            msg = f"student.start is clean, but the teacher is {described.architecture} and the student "
            msg += f"{student.architecture}; give both one architecture, or start random"
            raise TrainingError(msg)
        return teacher, described.normalisation
    classifier = build_classifier(
        student.architecture,
        shape=info.shape,
        classes=len(info.class_names),
        normalisation=info.normalisation,
        seed=derive_seed(seed, "student"),
    )
    if isinstance(student.architecture, Factory):
        check_exportable(classifier, info.shape)
    return classifier, info.normalisation


def _data(
    seed: int, cache: Cache, dataset: Path, teacher_cache: Path, inputs: dict[str, Manifest]
) -> TrainingData:
    train = labelled_images(dataset, "train")
    scheme = view_scheme(seed, cache)
    return TrainingData(
        views=Views(train.images, scheme),
        labels=train.labels,
        validation=labelled_images(dataset, "validation"),
        view_count=cache.views,
        cache=open_cache(
            teacher_cache, dataset=inputs["dataset"], clean_teacher=inputs["clean_teacher"], scheme=scheme
        ),
    )


def _plan(seed: int, student: Student, threat_model: ThreatModel) -> TrainingPlan:
    epsilon, selection = threat_model.epsilon, student.selection
    return TrainingPlan(
        phases=student_phases(student.phases, epsilon),
        optimiser=student.optimiser,
        seed=derive_seed(seed, "student"),
        rule=selection.rule,
        norm=threat_model.norm,
        validation_attack=Ascent(
            threat_model.norm, epsilon, selection.step_size * epsilon, selection.attack_steps
        ),
        ema_decay=student.ema_decay,
        checkpoint_minutes=student.checkpoint_minutes,
    )
