"""The comparison of training methods on Fashion-MNIST: same data, same budget, same care.

Each arm gets the same number of tuning trials on the validation side, with a seed of its own; then the best
trial of each arm is trained with seeds 0, 1 and 2 and attacked on the whole test set. Artefacts are reused,
so that a killed comparison goes on where it was.
"""

import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from components.environment import THREADS
from components.progress import console
from components.step import step_inputs
from components.training_step import HISTORY
from pipelines.local import make_artefact
from pipelines.params import validate_params
from training.artefact import write_json
from training.config import FashionMnist, PipelineConfig
from training.errors import DataError, TemperError
from training.robustness.results import read_outcomes, read_result
from training.robustness.statistics import paired_difference

SEEDS = (0, 1, 2)
TUNING_SEED = 1000
EPOCHS = 3
TEACHER_EPOCHS = 6
BASELINE = "pgd_at"

_BEGIN, _END = "<!-- compare-fashion: begin -->", "<!-- compare-fashion: end -->"

_PHASE = {"attack_steps": 7, "step_size": 0.25}
_TEACHER_RATE = {"start": 0.1, "end": 0.0}


@dataclass(frozen=True)
class Trial:
    """One setting of one arm: an objective, and what else it changes of the student."""

    objective: tuple[tuple[str, Any], ...]
    student: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """A file name that tells the setting."""
        parts = [f"{key}={value}" for key, value in (*self.objective[1:], *self.student)]
        return "-".join([self.objective[0][1], *parts])


def new_trial(name: str, start: str = "random", rate: float = 0.2, **options: object) -> Trial:
    """Return a setting of an objective: its options, and the student's start and learning rate."""
    return Trial((("name", name), *options.items()), (("start", start), ("learning_rate", rate)))


ARMS: dict[str, tuple[Trial, ...]] = {
    "pgd_at": tuple(new_trial("pgd_at", rate=rate) for rate in (0.1, 0.2, 0.4)),
    "trades": tuple(new_trial("trades", beta=beta) for beta in (1.0, 3.0, 6.0)),
    "guided": tuple(new_trial("guided", start="clean", weight=weight) for weight in (0.2, 0.35, 0.5)),
    "ckt": (
        new_trial("ckt", form="A", temperature=2.0, mixing=0.5),
        new_trial("ckt", form="A", temperature=2.0, mixing=0.5, start="clean"),
        new_trial("ckt", form="B", temperature=2.0, mixing=0.5, beta=6.0, attack="kl"),
    ),
}
"""The same number of trials for each arm; each varies the arm's own main knob."""


def configuration(trial: Trial, seed: int, epochs: int, data: Path) -> PipelineConfig:
    """Return the configuration of one training run; ``epochs`` of it one for the epsilon warm-up."""
    student = dict(trial.student)
    rate = float(student.pop("learning_rate"))
    warm_up = {"name": "warm-up", "epochs": 1, "epsilon": {"start": 0.0, "end": 1.0}}
    harden = {"name": "harden", "epochs": epochs - 1}
    phases = [
        {
            **warm_up,
            **_PHASE,
            "objective": dict(trial.objective),
            "learning_rate": {"start": rate, "end": rate},
        },
        {
            **harden,
            **_PHASE,
            "objective": dict(trial.objective),
            "learning_rate": {"start": rate, "end": 0.0},
        },
    ]
    shared = {"architecture": {"name": "small_resnet"}, "optimiser": {"batch_size": 128}}
    return validate_params(
        {
            "seed": seed,
            "data": {
                "source": {"name": "fashion-mnist", "path": str(data)},
                "limits": {"train": 10_000, "validation": 1_000},
            },
            "threat_model": {"norm": "Linf", "epsilon": 0.1},
            "teacher": {"name": "train", "epochs": TEACHER_EPOCHS, "learning_rate": _TEACHER_RATE, **shared},
            "student": {**student, **shared, "phases": phases},
            "evaluation": {
                "attacks": [{"name": "apgd_ce"}],
                "sanity": {"enabled": False},
                "shift": {"corruptions": "none", "threats": [], "spatial": {"degrees": 0, "pixels": 0}},
            },
        }
    )


class Comparison:
    """The comparison in a folder; its cells run beside each other, one thread each.

    Args:
        folder: where artefacts are kept and results.json appears.
        data: the folder of Fashion-MNIST's IDX files.
        epochs: of adversarial training, at least 2; the first ramps epsilon up.
        workers: how many cells run at a time.
    """

    def __init__(self, folder: Path, data: Path, *, epochs: int = EPOCHS, workers: int = 1) -> None:
        self._folder = folder
        self._data = data
        self._epochs = epochs
        self._workers = workers

    def run(self) -> dict[str, Any]:
        """Tune every arm, train and attack the best of each, and return what results.json holds.

        Raises:
            DataError: Fashion-MNIST is not there; the message says how to get it.
        """
        if not self._data.is_dir():
            msg = f"{self._data}: no Fashion-MNIST there; install Debian's package dataset-fashion-mnist, "
            msg += "or give a folder with its four IDX files as FASHION_MNIST=folder"
            raise DataError(msg)
        for seed in (TUNING_SEED, *SEEDS):
            self._shared(seed)
        with ProcessPoolExecutor(self._workers, get_context("spawn")) as pool:
            tuning = {
                trial: pool.submit(self._validated, trial) for trials in ARMS.values() for trial in trials
            }
            scores = {trial: future.result() for trial, future in tuning.items()}
            best = {arm: max(trials, key=lambda t: scores[t]["score"]) for arm, trials in ARMS.items()}
            testing = {
                arm: [pool.submit(self._tested, trial, seed) for seed in SEEDS] for arm, trial in best.items()
            }
            tested = {arm: [future.result() for future in futures] for arm, futures in testing.items()}
        arms = {
            arm: {
                "trials": {trial.name: scores[trial] for trial in trials},
                "chosen": best[arm].name,
                "seeds": tested[arm],
            }
            for arm, trials in ARMS.items()
        }
        measured = {"arms": arms, "epochs": self._epochs, "seeds": list(SEEDS)}
        results = {**measured, **self._against_baseline(best)}
        write_json(self._folder / "results.json", results)
        return results

    def _place(self, step: str, seed: int) -> Path:
        return self._folder / step if step == "dataset" else self._folder / f"seed-{seed}" / step

    def _shared(self, seed: int) -> None:
        config = configuration(ARMS[BASELINE][0], seed, self._epochs, self._data)
        for step in ("dataset", "clean_teacher", "teacher_cache"):
            out = self._place(step, seed)
            if step == "dataset" and out.is_dir():
                continue
            make_artefact(step, config, {name: self._place(name, seed) for name in step_inputs(step)}, out)

    def _train(self, trial: Trial, seed: int) -> Path:
        config = configuration(trial, seed, self._epochs, self._data)
        out = self._place(trial.name, seed)
        inputs = {name: self._place(name, seed) for name in step_inputs("adversarial_student")}
        started = time.process_time()
        # Without its timing, a student is of a comparison that was killed just then.
        fresh = not _timing(out).is_file()
        _, reused = make_artefact("adversarial_student", config, inputs, out, fresh=fresh)
        if not reused:
            write_json(_timing(out), {"cpu_seconds": time.process_time() - started})
        return out

    def _validated(self, trial: Trial) -> dict[str, float]:
        history = json.loads((self._train(trial, TUNING_SEED) / HISTORY).read_bytes())
        selected = history["epochs"][history["selected_epoch"]]
        scores = {name: selected[name] for name in ("natural", "robust", "score")}
        console().print(f"{trial.name}: validation {scores}", markup=False)
        return scores

    def _tested(self, trial: Trial, seed: int) -> dict[str, float]:
        student = self._train(trial, seed)
        out = _evaluation(student)
        inputs = {name: self._place(name, seed) for name in step_inputs("robustness_evaluation")}
        inputs["adversarial_student"] = student
        config = configuration(trial, seed, self._epochs, self._data)
        make_artefact("robustness_evaluation", config, inputs, out)
        result = read_result(out)
        row = {"seed": seed, "natural": result.natural.value, "robust": result.robust.value}
        console().print(f"{trial.name}: test {row}", markup=False)
        return {**row, **json.loads(_timing(student).read_bytes())}

    def _against_baseline(self, best: dict[str, Trial]) -> dict[str, Any]:
        """Compare guided with the baseline, seed by seed, on the same test images."""
        pairs = [self._pair(best, seed) for seed in SEEDS]
        means = {
            key: 100 * statistics.mean(pair[key]["value"] for pair in pairs) for key in ("natural", "robust")
        }
        return {
            "guided_against_pgd_at": pairs,
            "guided_natural_gain": means["natural"],
            "guided_robust_gain": means["robust"],
        }

    def _pair(self, best: dict[str, Trial], seed: int) -> dict[str, Any]:
        ours, base = (
            read_outcomes(_evaluation(self._place(best[arm].name, seed))) for arm in ("guided", BASELINE)
        )
        natural = paired_difference(ours.predictions == ours.labels, base.predictions == base.labels)
        robust = paired_difference(ours.stands[-1], base.stands[-1])
        return {"seed": seed, "natural": natural.model_dump(), "robust": robust.model_dump()}


def _evaluation(student: Path) -> Path:
    return student.with_name(f"{student.name}-evaluation")


def _timing(artefact: Path) -> Path:
    return artefact.with_name(f"{artefact.name}.timing.json")


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table: mean and standard deviation over the seeds, then every seed."""
    lines = [
        f"{results['epochs']} epochs of adversarial training, seeds {', '.join(map(str, results['seeds']))}:",
        "",
        "| method | setting chosen on validation | natural % | APGD-CE robust % | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for arm, found in sorted(results["arms"].items()):
        cells = [_spread(found["seeds"], key) for key in ("natural", "robust")]
        seconds = statistics.mean(row["cpu_seconds"] for row in found["seeds"])
        lines.append(f"| {arm} | {found['chosen']} | {cells[0]} | {cells[1]} | {seconds:.0f} |")
    lines += ["", "Guided against pgd_at on the same test images, in points (95 % interval):", ""]
    for pair in results["guided_against_pgd_at"]:
        natural, robust = (_points(pair[key]) for key in ("natural", "robust"))
        lines.append(f"- seed {pair['seed']}: natural {natural}, robust {robust}")
    return "\n".join(lines)


def _spread(rows: list[dict[str, float]], key: str) -> str:
    values = [100 * row[key] for row in rows]
    each = ", ".join(f"{value:.2f}" for value in values)
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} ({each})"


def _points(difference: dict[str, float]) -> str:
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def update_readme(readme: Path, results: dict[str, Any]) -> None:
    """Replace the table between the comparison's markers in the README."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        msg = f"{readme}: the markers {_BEGIN} and {_END} are missing; put them back"
        raise TemperError(msg)
    readme.write_text(f"{before}{_BEGIN}\n{table(results)}\n{_END}{after}", encoding="utf-8")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/compare-fashion"))
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path(FashionMnist(name="fashion-mnist").path)
)
@click.option("--epochs", type=click.IntRange(min=2), default=EPOCHS, show_default=True)
@click.option("--readme", type=click.Path(path_type=Path), help="README whose table to replace.")
def main(folder: Path, data: Path, epochs: int, readme: Path | None) -> None:
    """Compare the training methods on Fashion-MNIST."""
    os.environ[THREADS] = "1"
    try:
        results = Comparison(folder, data, epochs=epochs, workers=os.cpu_count() or 1).run()
        if readme is not None:
            update_readme(readme, results)
    except TemperError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(table(results))
    click.echo(
        f"RESULT guided_natural_gain={results['guided_natural_gain']:.2f} "
        f"guided_robust_gain={results['guided_robust_gain']:.2f} seeds={len(SEEDS)}"
    )


if __name__ == "__main__":
    main()
