"""Robustness evaluation: the only step that opens the test side."""

from pathlib import Path

from components.robustness_evaluation.evaluation import publish_evaluation
from components.step import StepContext, digested, open_inputs
from components.training_step import labelled_images
from training.bundle import load_bundle
from training.config import Evaluation, ThreatModel
from training.randomness import derive_seed
from training.robustness.subject import Plan, Subject


def run(
    *,
    seed: int,
    threat_model: ThreatModel,
    evaluation: Evaluation,
    dataset: Path,
    clean_teacher: Path,
    adversarial_student: Path,
    out: Path,
    context: StepContext,
) -> None:
    """Publish evaluation.json, outcomes.npz and report.html.

    The teacher and the training side serve the checks of the evaluation (transfer attacks) and the
    comparison under corruptions; nothing is chosen by what is found here.

    Raises:
        ArtefactError: an input that was altered.
        TrainingError: a model or a test side that cannot be evaluated.
    """
    inputs = open_inputs(
        dataset=dataset, clean_teacher=clean_teacher, adversarial_student=adversarial_student
    )
    model, described = load_bundle(adversarial_student)
    teacher, _ = load_bundle(clean_teacher)
    device = context.compute.device
    subject = Subject(
        model=model.to(device),
        model_digest=described.digest,
        test=labelled_images(dataset, "test"),
        snapshot_digest=inputs["dataset"].digest,
        class_names=described.class_names,
        device=device,
        teacher=teacher.to(device),
        train=labelled_images(dataset, "train"),
    )
    publish_evaluation(
        subject,
        Plan(evaluation, threat_model, derive_seed(seed, "evaluation")),
        inputs=inputs,
        config=digested({"seed": seed, "threat_model": threat_model, "evaluation": evaluation}),
        out=out,
        context=context,
    )
