"""The kfp component: a signature, the image, one call into the step."""

from typing import Any

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def adversarial_student(
    seed: int,
    threat_model: dict[str, Any],
    cache: dict[str, Any],
    student: dict[str, Any],
    dataset: dsl.Input[dsl.Dataset],
    clean_teacher: dsl.Input[dsl.Model],
    teacher_cache: dsl.Input[dsl.Artifact],
    out: dsl.Output[dsl.Model],
) -> None:
    """Train the student in phases."""
    from components.entry import enter  # noqa: PLC0415 - kfp ships this body alone

    enter(
        "adversarial_student",
        {"seed": seed, "threat_model": threat_model, "cache": cache, "student": student},
        {"dataset": dataset.path, "clean_teacher": clean_teacher.path, "teacher_cache": teacher_cache.path},
        out.path,
    )
