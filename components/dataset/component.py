"""The kfp component: a signature, the image, one call into the step."""

from typing import Any

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def dataset(data: dict[str, Any], out: dsl.Output[dsl.Dataset]) -> None:
    """Data to a snapshot."""
    from components.entry import enter  # noqa: PLC0415 - kfp ships this body alone

    enter("dataset", {"data": data}, {}, out.path)
