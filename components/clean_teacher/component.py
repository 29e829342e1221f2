"""The kfp component: a signature, the image, one call into the step."""

from typing import Any

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def clean_teacher(
    seed: int, teacher: dict[str, Any], dataset: dsl.Input[dsl.Dataset], out: dsl.Output[dsl.Model]
) -> None:
    """Train or reuse the clean teacher."""
    from components.entry import enter  # noqa: PLC0415 - kfp ships this body alone

    enter("clean_teacher", {"seed": seed, "teacher": teacher}, {"dataset": dataset.path}, out.path)
