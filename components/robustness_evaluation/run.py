"""Robustness evaluation: the only step that opens the test side."""

from pathlib import Path

from components.progress import progress_bar
from components.step import StepContext, digested, open_inputs
from components.training_step import labelled_images
from training.artefact import publish, seal
from training.bundle import load_bundle
from training.config import Evaluation, ThreatModel
from training.randomness import derive_seed
from training.robustness.report import render_report
from training.robustness.results import REPORT, EvaluationResult, write_result
from training.robustness.suite import Subject, Suite


def run(
    *,
    seed: int,
    threat_model: ThreatModel,
    evaluation: Evaluation,
    dataset: Path,
    adversarial_student: Path,
    out: Path,
    context: StepContext,
) -> None:
    """Publish evaluation.json, outcomes.npz and report.html.

    Raises:
        ArtefactError: an input that was altered.
        TrainingError: a model or a test side that cannot be evaluated.
    """
    inputs = open_inputs(dataset=dataset, adversarial_student=adversarial_student)
    model, described = load_bundle(adversarial_student)
    subject = Subject(
        model=model.to(context.compute.device),
        model_digest=described.digest,
        test=labelled_images(dataset, "test"),
        snapshot_digest=inputs["dataset"].digest,
        class_names=described.class_names,
        device=context.compute.device,
    )
    total = min(evaluation.examples or len(subject.test), len(subject.test))
    with publish(out) as folder, progress_bar("robustness_evaluation", total) as tell:
        suite = Suite(subject, evaluation, threat_model, derive_seed(seed, "evaluation"), tell)
        result, outcomes, strip = suite.run()
        write_result(folder, result, outcomes)
        (folder / REPORT).write_text(render_report(result, strip, described.class_names), encoding="utf-8")
        config = digested({"seed": seed, "threat_model": threat_model, "evaluation": evaluation})
        seal(folder, "evaluation", inputs=inputs, config=config, threads=context.compute.threads)
    context.tracker.metrics(_metrics(result))
    context.tracker.artefact(out, "evaluation")


def _metrics(result: EvaluationResult) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for name, rate in result.metrics.items():
        values |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
    return values
