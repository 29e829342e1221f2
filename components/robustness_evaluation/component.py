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
    clean_teacher: dsl.Input[dsl.Model],
    adversarial_student: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    robust_confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Evaluate the student's robustness."""
    from pathlib import Path  # noqa: PLC0415 - kfp ships this body alone

    from components.entry import enter  # noqa: PLC0415 - as above
    from components.robustness_evaluation.panels import show_evaluation  # noqa: PLC0415 - as above

    enter(
        "robustness_evaluation",
        {"seed": seed, "threat_model": threat_model, "evaluation": evaluation},
        {
            "dataset": dataset.path,
            "clean_teacher": clean_teacher.path,
            "adversarial_student": adversarial_student.path,
        },
        out.path,
    )
    show_evaluation(Path(out.path), metrics, confusion, robust_confusion, report)
