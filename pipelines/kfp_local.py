"""kfp's local runner: the compiled pipeline's own components, each in a process of this Python."""

import shutil
import warnings
from pathlib import Path

from kfp import local

from components.step import check_replaceable
from components.steps import STEPS
from components.tracking import parent_run
from pipelines.local import PipelineRun
from pipelines.robust_training import pipeline_arguments, robust_training
from training.artefact import open_artefact
from training.config import PipelineConfig
from training.errors import TemperError


def run_with_kfp(config: PipelineConfig, folder: Path) -> PipelineRun:
    """Run the pipeline under kfp's SubprocessRunner and gather its artefacts.

    Args:
        config: the whole configuration.
        folder: the artefacts appear below it, named like the steps.

    Raises:
        TemperError: a step failed (what it said stands above), or the folder holds what is no artefact.
    """
    for step in STEPS:
        check_replaceable(folder / step)
    root = (folder / "kfp").absolute()
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    before = set(root.glob("*"))
    with parent_run(f"kfp {folder.name}"):
        try:
            # It doubts that this Python can stand in for the image; that is what this runner is for.
            warnings.filterwarnings("ignore", message="You may be attemping to run a task", module="kfp")
            robust_training(**pipeline_arguments(config))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            msg = f"kfp's local runner: {reason} What the step said stands above"
            raise TemperError(msg) from error
    (made,) = set(root.glob("*")) - before
    return _gather(made, folder)


def _gather(made: Path, folder: Path) -> PipelineRun:
    """Name the artefacts like the other runners do, by links to where kfp put them."""
    run = PipelineRun(folder)
    for step in STEPS:
        link, target = folder / step, made / step.replace("_", "-") / "out"
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)  # another runner's artefact
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
        run.manifests[step] = open_artefact(link, STEPS[step])
    return run
