"""The command line: ``temper``. It parses and prints; the work is done by the modules it calls."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from components.steps import STEPS
from pipelines.params import dump_params, load_params
from training.config import PipelineConfig
from training.errors import TemperError, explain

# Threads that wait by spinning make a step 5 to 25 times slower where another process shares the cores.
# OpenMP reads this when torch is imported, which the commands below do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

RUNS = Path("runs")
ARTEFACTS = Path("artefacts")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Cli(click.Group):
    """Prints a user's mistake as one line and exits with status 2."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click's own: who reads us has enough
        except (TemperError, OSError) as error:
            for line in explain(error).splitlines():
                click.echo(f"error: {line}", err=True)
            sys.exit(2)


def _configured(command: _Command) -> _Command:
    """Add --params and --set."""
    overrides = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Override, such as student.start=clean.",
    )
    params = click.option(
        "--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True
    )
    return params(overrides(command))


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="temper")
def main() -> None:
    """Harden an image classifier by adversarial training, guided by a clean teacher."""


@main.command()
@_configured
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the artefacts [default: runs/DIGEST]."
)
@click.option("--fresh", is_flag=True, help="Make every artefact again.")
@click.option("--runner", type=click.Choice(["process", "kfp"]), default="process", show_default=True)
def run(params: Path, overrides: tuple[str, ...], out: Path | None, fresh: bool, runner: str) -> None:  # noqa: FBT001 - click's flag
    """Run the whole pipeline, and print its verdict."""
    from pipelines.local import run_name, run_pipeline  # noqa: PLC0415 - keeps `temper --help` quick

    started = time.monotonic()
    config = load_params(params, overrides)
    folder = out or RUNS / run_name(config)
    if runner == "kfp":
        from pipelines.kfp_local import run_with_kfp  # noqa: PLC0415 - as above

        done = run_with_kfp(config, folder)
    else:
        done = run_pipeline(config, folder, fresh=fresh)
    if done.reused:
        click.echo(f"reused as they were: {', '.join(done.reused)} (--fresh makes them again)")
    _tell(folder, time.monotonic() - started)


def _tell(folder: Path, seconds: float | None) -> None:
    from pipelines.verdict import print_verdict, read_verdict, result_line  # noqa: PLC0415 - as above

    verdict = read_verdict(folder)
    print_verdict(verdict, Console(highlight=False, soft_wrap=True))
    if seconds is not None:
        click.echo(result_line(verdict, seconds))


@main.command()
@click.argument("name", type=click.Choice(list(STEPS)))
@_configured
@click.option(
    "--artefacts",
    type=click.Path(path_type=Path),
    default=ARTEFACTS,
    show_default=True,
    help="Inputs and output.",
)
def step(name: str, params: Path, overrides: tuple[str, ...], artefacts: Path) -> None:
    """Run one step, as DVC's stages do."""
    from components.step import execute, step_inputs, step_sections  # noqa: PLC0415 - as above
    from components.tracking import shared_parent  # noqa: PLC0415 - as above
    from pipelines.local import run_name  # noqa: PLC0415 - as above

    config = load_params(params, overrides)
    sections = {section: getattr(config, section) for section in step_sections(name)}
    inputs = {made: artefacts / made for made in step_inputs(name)}
    with shared_parent(run_name(config)):
        manifest = execute(name, sections, inputs, artefacts / name)
    click.echo(f"{name} {manifest.digest}")


@main.command()
@_configured
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("build/pipeline.yaml"), show_default=True
)
def compile(params: Path, overrides: tuple[str, ...], out: Path) -> None:  # noqa: A001 - the command's name
    """Compile the Kubeflow pipeline to IR YAML."""
    from pipelines.robust_training import compile_pipeline  # noqa: PLC0415 - as above

    compile_pipeline(load_params(params, overrides), out)
    click.echo(f"compiled to {out}")


@main.group()
def config() -> None:
    """Show or check the configuration."""


@config.command()
@_configured
def show(params: Path, overrides: tuple[str, ...]) -> None:
    """Print the complete configuration in force, defaults included."""
    click.echo(dump_params(load_params(params, overrides)), nl=False)


@config.command()
@_configured
def check(params: Path, overrides: tuple[str, ...]) -> None:
    """Say whether the configuration is valid."""
    loaded: PipelineConfig = load_params(params, overrides)
    epochs = sum(phase.epochs for phase in loaded.student.phases)
    click.echo(f"{params}: valid; {len(loaded.student.phases)} phases, {epochs} epochs, seed {loaded.seed}")


@main.command()
@click.argument("run", metavar="[RUN]", default="latest")
def report(run: str) -> None:
    """Print the verdict of RUN: a folder, the name of one under runs/, or `latest`."""
    _tell(_find_run(run), None)


def _find_run(name: str) -> Path:
    if name != "latest":
        return next((folder for folder in (Path(name), RUNS / name) if folder.is_dir()), RUNS / name)
    finished = [folder for folder in RUNS.glob("*") if (folder / "registration").is_dir()]
    if not finished:
        msg = f"{RUNS}: no finished run there; run temper run"
        raise TemperError(msg)
    return max(finished, key=lambda folder: (folder / "registration").stat().st_mtime)


@main.command()
def doctor() -> None:
    """Look at what a run needs: what works, what does not, how to mend it."""
    from pipelines.doctor import examine  # noqa: PLC0415 - as above

    findings = examine()
    words = {True: "ok", False: "FAILS", None: "-"}
    for finding in findings:
        click.echo(f"{words[finding.works]:6}{finding.what:10}{finding.detail}")
    if any(finding.works is False for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
