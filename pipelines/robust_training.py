"""The pipeline as Kubeflow sees it: the six steps, wired by what each one reads.

One dictionary parameter for each section of the configuration; the values in force are in params.yaml.
"""

from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.adversarial_student.component import adversarial_student
from components.clean_teacher.component import clean_teacher
from components.dataset.component import dataset
from components.registration.component import registration as registration_step
from components.robustness_evaluation.component import robustness_evaluation
from components.teacher_cache.component import teacher_cache
from training.config import PipelineConfig
from training.errors import TemperError

NAME = "temper-robust-training"


@dsl.pipeline(name=NAME, description="Harden an image classifier, guided by a clean teacher, behind gates.")
def robust_training(  # noqa: PLR0913, PLR0917 - one parameter for each section of the configuration
    seed: int,
    data: dict[str, Any],
    threat_model: dict[str, Any],
    teacher: dict[str, Any],
    cache: dict[str, Any],
    student: dict[str, Any],
    evaluation: dict[str, Any],
    gate: dict[str, Any],
    registration: dict[str, Any],
) -> None:
    """Wire the steps; registration sits under no branch, so that every student is registered."""
    snapshot = dataset(data=data).output
    clean = clean_teacher(seed=seed, teacher=teacher, dataset=snapshot).output
    cached = teacher_cache(seed=seed, cache=cache, dataset=snapshot, clean_teacher=clean).output
    hardened = adversarial_student(
        seed=seed,
        threat_model=threat_model,
        cache=cache,
        student=student,
        dataset=snapshot,
        clean_teacher=clean,
        teacher_cache=cached,
    ).output
    evaluated = robustness_evaluation(
        seed=seed,
        threat_model=threat_model,
        evaluation=evaluation,
        dataset=snapshot,
        clean_teacher=clean,
        adversarial_student=hardened,
    ).outputs["out"]
    registration_step(
        gate=gate,
        registration=registration,
        dataset=snapshot,
        clean_teacher=clean,
        teacher_cache=cached,
        adversarial_student=hardened,
        robustness_evaluation=evaluated,
    )


def pipeline_arguments(config: PipelineConfig) -> dict[str, object]:
    """Return the parameters: each section as plain values; kfp takes no null, which every default is."""
    arguments: dict[str, object] = config.model_dump(mode="json", exclude_none=True)
    return arguments


def compile_pipeline(config: PipelineConfig, out: Path) -> None:
    """Write the pipeline as IR YAML, with the configuration as its parameters' defaults.

    Raises:
        TemperError: a file name that does not end with .yaml.
    """
    if out.suffix != ".yaml":
        msg = f"{out}: the compiled pipeline is YAML; give a name that ends with .yaml"
        raise TemperError(msg)
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(
        robust_training, package_path=str(out), pipeline_parameters=pipeline_arguments(config)
    )
