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

_EVALUATE_EXAMPLES = """
\b
Examples:
  temper evaluate models:/temper-digits@champion
  temper evaluate runs/1a2b3c4d5e6f/adversarial_student --out champion
  temper evaluate runs:/0a1b2c3d/student --set evaluation.examples=1000
  temper evaluate exported/ --set 'data.source={name: npz, path: parts.npz}'
  temper evaluate your_package.models:build --weights net.safetensors \\
    --arguments '{"width": 64}' --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26
"""

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


@main.command(epilog=_EVALUATE_EXAMPLES)
@click.argument("model")
@_configured
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights of module:factory, a safetensors file with the module's own tensor names.",
)
@click.option(
    "--mean", metavar="A,B,C", help="What the module or graph subtracts, for each channel of [0, 1]."
)
@click.option("--std", metavar="A,B,C", help="What it then divides by, for each channel.")
@click.option("--arguments", metavar="JSON", help="An object: what module:factory is called with, by name.")
@click.option("--teacher", metavar="BUNDLE", help="A clean model, for the checks that attack through it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the evaluation [default: runs/evaluation-DIGEST].",
)
def evaluate(  # noqa: PLR0913, PLR0917 - click's options
    model: str,
    params: Path,
    overrides: tuple[str, ...],
    weights: Path | None,
    mean: str | None,
    std: str | None,
    arguments: str | None,
    teacher: str | None,
    out: Path | None,
) -> None:
    """Score MODEL on the test side of the configured data, as the pipeline scores its students.

    MODEL is a bundle's folder, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID, runs:/ID/PATH, the
    folder of an MLflow model (pt2), or module:factory. The fields data, threat_model, evaluation and seed
    count. Nothing is trained, registered or promoted. Of preprocessing, --mean and --std can be stated;
    resize or crop in data.source, or inside the module.
    """
    from pipelines.evaluate import (  # noqa: PLC0415 - keeps `temper --help` quick
        Request,
        evaluate_model,
        evaluation_line,
        parse_arguments,
        parse_normalisation,
        print_evaluation,
    )

    request = Request(model, weights, parse_normalisation(mean, std), parse_arguments(arguments), teacher)
    evaluated = evaluate_model(load_params(params, overrides), request, runs=RUNS, out=out)
    print_evaluation(evaluated, Console(highlight=False, soft_wrap=True))
    click.echo(evaluation_line(evaluated))


@main.command()
@click.argument("ours", metavar="A", type=click.Path(path_type=Path))
@click.argument("theirs", metavar="B", type=click.Path(path_type=Path))
def compare(ours: Path, theirs: Path) -> None:
    """Compare evaluation A with evaluation B, image by image.

    A and B are folders that `temper evaluate` or a run made, such as runs/1a2b3c4d5e6f; both must rest on
    the same data, threat model, examples and attacks. Differences are A - B, with McNemar's exact test.
    """
    from pipelines.compare import (  # noqa: PLC0415 - as above
        compare_evaluations,
        comparison_line,
        print_comparison,
    )

    comparison = compare_evaluations(ours, theirs)
    print_comparison(comparison, Console(highlight=False, soft_wrap=True))
    click.echo(comparison_line(comparison))


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
