"""The kfp component: a signature, the image, one call into the step."""

from typing import Any

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def robustness_evaluation(
    seed: int,
    threat_model: dict[str, Any],
    evaluation: dict[str, Any],
    dataset: dsl.Input[dsl.Dataset],
    adversarial_student: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
) -> None:
    """Evaluate the student's robustness."""
    from components.entry import enter  # noqa: PLC0415 - kfp ships this body alone

    enter(
        "robustness_evaluation",
        {"seed": seed, "threat_model": threat_model, "evaluation": evaluation},
        {"dataset": dataset.path, "adversarial_student": adversarial_student.path},
        out.path,
    )
