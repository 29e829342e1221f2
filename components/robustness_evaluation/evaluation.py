"""One evaluation as an artefact: evaluation.json, outcomes.npz and report.html, published together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from components.progress import progress_bar
from components.step import StepContext
from training.artefact import Manifest, digest_file, digest_json, publish, seal
from training.attacks.gradients import frozen, input_gradient
from training.attacks.losses import cross_entropy
from training.robustness.contract import check_contract, check_images
from training.robustness.report import render_report
from training.robustness.results import REPORT, EvaluationResult, write_result
from training.robustness.subject import Plan, Subject
from training.robustness.suite import Suite
from training.robustness.summary import scalar_summary

STEP = "robustness_evaluation"

_CONTRACT_IMAGES = 16


def publish_evaluation(
    subject: Subject,
    plan: Plan,
    *,
    inputs: Mapping[str, Manifest],
    config: dict[str, object],
    out: Path,
    context: StepContext,
) -> EvaluationResult:
    """Evaluate a model, publish what was found, and tell the tracking store.

    A killed evaluation goes on where it was: finished batches are kept in the state folder.

    Args:
        subject: the model and the data.
        plan: how; its ``work`` and ``progress`` are replaced by those of ``context``.
        inputs: the artefacts that it rests on, for the manifest.
        config: the sections in force, for the manifest.
        out: where the artefact appears, whole or not at all.
        context: where to compute, track and keep state.

    Raises:
        DataError: images or labels that cannot be.
        TrainingError: a model or a test side that cannot be evaluated.
    """
    _check(subject, plan)
    shifted = plan.evaluation.shift.path
    shapes = {
        **config,
        "model": subject.model_digest,
        "behaviour": _behaviour(subject),
        "shifted": digest_file(Path(shifted)) if shifted else "",
    }
    work = context.work(STEP, inputs, shapes)
    total = min(plan.evaluation.examples or len(subject.test), len(subject.test))
    with publish(out) as folder, progress_bar(STEP, total) as tell:
        result, outcomes, strip = Suite(subject, replace(plan, work=work, progress=tell)).run()
        write_result(folder, result, outcomes)
        (folder / REPORT).write_text(render_report(result, strip, subject.class_names), encoding="utf-8")
        seal(folder, "evaluation", inputs=inputs, config=config, threads=context.compute.threads)
    work.clear()
    context.tracker.metrics(scalar_summary(result))
    context.tracker.artefact(out, "evaluation")
    return result


def _check(subject: Subject, plan: Plan) -> None:
    """Refuse what could only give numbers that mean nothing."""
    classes = len(subject.class_names)
    check_images(subject.test.images, subject.test.labels, classes)
    images, _ = subject.test.batch(0, _CONTRACT_IMAGES, subject.device)
    check_contract(subject.model, images, classes, randomised=plan.evaluation.attacks == "rand")


def _behaviour(subject: Subject) -> str:
    """Digest logits and input gradients on a few images: a user's changed code has the same weights."""
    images, labels = subject.test.batch(0, _CONTRACT_IMAGES, subject.device)
    with frozen(subject.model), torch.random.fork_rng():
        torch.manual_seed(0)
        gradient, logits, _ = input_gradient(subject.model, images, cross_entropy(labels))
    return digest_json([logits.cpu().tolist(), gradient.cpu().flatten(1).tolist()])
