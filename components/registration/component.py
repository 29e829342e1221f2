"""The kfp component: a signature, the image, one call into the step."""

from typing import Any

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def registration(
    gate: dict[str, Any],
    registration: dict[str, Any],
    dataset: dsl.Input[dsl.Dataset],
    clean_teacher: dsl.Input[dsl.Model],
    teacher_cache: dsl.Input[dsl.Artifact],
    adversarial_student: dsl.Input[dsl.Model],
    robustness_evaluation: dsl.Input[dsl.Artifact],
    out: dsl.Output[dsl.Artifact],
) -> None:
    """Hold the evaluation against the gates and register the student."""
    from components.entry import enter  # noqa: PLC0415 - kfp ships this body alone

    enter(
        "registration",
        {"gate": gate, "registration": registration},
        {
            "dataset": dataset.path,
            "clean_teacher": clean_teacher.path,
            "teacher_cache": teacher_cache.path,
            "adversarial_student": adversarial_student.path,
            "robustness_evaluation": robustness_evaluation.path,
        },
        out.path,
    )
