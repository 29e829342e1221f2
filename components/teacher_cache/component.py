"""The kfp component: a signature, the image, one call into the step."""

from typing import Any

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def teacher_cache(
    seed: int,
    cache: dict[str, Any],
    dataset: dsl.Input[dsl.Dataset],
    clean_teacher: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
) -> None:
    """Cache the clean teacher's logits."""
    from components.entry import enter  # noqa: PLC0415 - kfp ships this body alone

    enter(
        "teacher_cache",
        {"seed": seed, "cache": cache},
        {"dataset": dataset.path, "clean_teacher": clean_teacher.path},
        out.path,
    )
