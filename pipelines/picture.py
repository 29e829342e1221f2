"""A picture of one evaluation for documents: the epsilon curve and the accuracy of each class."""

import sys
from pathlib import Path

import click
import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from training.errors import TemperError
from training.robustness.results import EvaluationResult, read_result

_NATURAL, _ROBUST = "#4878a8", "#c8553d"


def draw(result: EvaluationResult, path: Path) -> None:
    """Draw an evaluation as a PNG; intervals are Wilson 95 %."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _curve(left, result)
    _classes(right, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _curve(axes: Axes, result: EvaluationResult) -> None:
    points, threat = result.curve.points, result.threat_model
    x = [point.epsilon for point in points]
    axes.plot(x, [100 * point.accuracy.value for point in points], marker="o", color=_ROBUST)
    low, high = ([100 * getattr(point.accuracy, end) for point in points] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=_ROBUST, alpha=0.2)
    axes.axvline(threat.epsilon, color="grey", linestyle="--")
    axes.set(
        title=f"PGD-{result.curve.attack.steps} on {points[0].accuracy.n} test images",
        xlabel=f"{threat.norm} epsilon (dashed: the threat model's)",
        ylabel="accuracy, %",
        ylim=(0, 101),
    )


def _classes(axes: Axes, result: EvaluationResult) -> None:
    places = range(len(result.classes))
    for shift, color, measure in ((-0.2, _NATURAL, "natural"), (0.2, _ROBUST, "robust")):
        rates = [getattr(entry, measure) for entry in result.classes]
        heights = [100 * rate.value for rate in rates]
        whiskers = [
            [100 * (rate.value - rate.low) for rate in rates],
            [100 * (rate.high - rate.value) for rate in rates],
        ]
        axes.bar(
            [place + shift for place in places],
            heights,
            0.4,
            yerr=whiskers,
            color=color,
            label=measure,
            capsize=2,
        )
    axes.set(
        title=f"Each class of {result.examples} test images",
        xlabel="class",
        ylabel="accuracy, %",
        ylim=(0, 101),
    )
    axes.set_xticks(list(places), [entry.name for entry in result.classes])
    axes.legend(loc="lower right")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, out: Path) -> None:
    """Draw the evaluation of RUN, a folder that temper run made, into OUT."""
    try:
        draw(read_result(run / "robustness_evaluation"), out)
    except TemperError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(f"drawn to {out}")


if __name__ == "__main__":
    main()
