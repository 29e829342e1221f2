"""Registration: every student becomes a model version with its decision; a gated one may become champion."""

from pathlib import Path

from components.registration.card import write_card
from components.registration.registry import DECISION, MODEL_CARD, Registry, Submission
from components.step import StepContext, digested, open_inputs
from training.artefact import publish, seal, source_digest, write_json
from training.bundle import read_info
from training.config import Gate, Registration
from training.gates import Decision, decide
from training.robustness.results import read_result

REGISTERED = "registered.json"


def run(
    *,
    gate: Gate,
    registration: Registration,
    dataset: Path,
    clean_teacher: Path,
    teacher_cache: Path,
    adversarial_student: Path,
    robustness_evaluation: Path,
    out: Path,
    context: StepContext,
) -> None:
    """Publish decision.json and model_card.md, register the student, and tell where in registered.json.

    The alias ``challenger`` always moves to the new version, ``champion`` when every gate passes and the
    policy is ``auto``.

    Raises:
        ArtefactError: an input that was altered, or an evaluation of another student.
        TemperError: the registry refuses or does not answer.
    """
    inputs = open_inputs(
        dataset=dataset,
        clean_teacher=clean_teacher,
        teacher_cache=teacher_cache,
        adversarial_student=adversarial_student,
        robustness_evaluation=robustness_evaluation,
    )
    result = read_result(robustness_evaluation)
    digests = {name: manifest.digest for name, manifest in inputs.items()}
    digests |= {"model": read_info(adversarial_student).digest, "source": source_digest()}
    decision = decide(gate, result, digests)
    config = digested({"gate": gate, "registration": registration})
    submission = Submission(decision, result, config, adversarial_student, robustness_evaluation)
    with publish(out) as folder:
        write_json(folder / DECISION, decision.model_dump(mode="json"))
        made = inputs["adversarial_student"]
        card = write_card(result, decision, adversarial_student, made, registration.model_name)
        (folder / MODEL_CARD).write_text(card, encoding="utf-8")
        registered = Registry(context.tracker, registration).register(submission, folder)
        write_json(folder / REGISTERED, registered.model_dump(mode="json"))
        seal(
            folder,
            "decision",
            inputs=inputs,
            config=config,
            threads=context.compute.threads,
            volatile=(REGISTERED,),
        )
    _track(decision, context)


def _track(decision: Decision, context: StepContext) -> None:
    context.tracker.tags({"temper.verdict": decision.verdict})
    context.tracker.metrics({"gates_passed": float(decision.passed)})
