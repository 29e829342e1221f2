"""Two evaluations on the same test images, compared image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from training.artefact import open_artefact
from training.config import EvaluationAttack
from training.errors import ArtefactError
from training.robustness.results import EvaluationResult, Outcomes, read_outcomes, read_result
from training.robustness.statistics import Comparison, Estimate, advise_examples, compare_paired

_STEP = "robustness_evaluation"
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, and the folder that its messages name."""

    folder: Path
    result: EvaluationResult
    outcomes: Outcomes

    @property
    def natural(self) -> npt.NDArray[np.bool_]:
        """Whether each image is classified right as it is, shape (n,)."""
        right: npt.NDArray[np.bool_] = self.outcomes.predictions == self.outcomes.labels
        return right

    @property
    def robust(self) -> npt.NDArray[np.bool_]:
        """Whether each image stands against every attack, shape (n,)."""
        standing: npt.NDArray[np.bool_] = self.outcomes.stands[-1]
        return standing


@dataclass(frozen=True)
class EvaluationComparison:
    """Ours against theirs: ``gained`` are images that only ours has right, ``lost`` that only theirs has."""

    ours: Evaluated
    theirs: Evaluated
    natural: Comparison
    robust: Comparison


def compare_evaluations(ours: Path, theirs: Path) -> EvaluationComparison:
    """Compare two evaluations by exact McNemar tests on the same examples.

    Args:
        ours: the folder of an evaluation, or of a run that holds one.
        theirs: the same of the evaluation to compare with.

    Raises:
        ArtefactError: an evaluation that is missing or altered; two whose snapshot, threat model, examples
            or attacks differ; one made under a budget, which leaves images unattacked.
    """
    first, second = _read(ours), _read(theirs)
    _check_question(first, second)
    _check_rows(first, second)
    _check_attacks(first, second)
    return EvaluationComparison(
        ours=first,
        theirs=second,
        natural=compare_paired(first.natural, second.natural),
        robust=compare_paired(first.robust, second.robust),
    )


def _read(folder: Path) -> Evaluated:
    folder = folder / _STEP if (folder / _STEP).is_dir() else folder
    open_artefact(folder, "evaluation")
    return Evaluated(folder, read_result(folder), read_outcomes(folder))


def _check_question(ours: Evaluated, theirs: Evaluated) -> None:
    pair, first, second = _pair(ours, theirs), ours.result, theirs.result
    if first.snapshot_digest != second.snapshot_digest:
        digests = f"{first.snapshot_digest[:12]} and {second.snapshot_digest[:12]}"
        msg = f"{pair}: other data (snapshots {digests}); evaluate both with the same data section, "
        raise ArtefactError(msg + "version of Temper and number of threads")
    if first.threat_model != second.threat_model:
        msg = f"{pair}: other threat models ({_threat(first)} and {_threat(second)}); "
        raise ArtefactError(msg + "evaluate both with the same threat_model")


def _check_rows(ours: Evaluated, theirs: Evaluated) -> None:
    first, second = ours.outcomes, theirs.outcomes
    if np.array_equal(first.rows, second.rows) and np.array_equal(first.labels, second.labels):
        return
    msg = f"{_pair(ours, theirs)}: other examples of the test side ({len(first.rows)} and "
    msg += f"{len(second.rows)}); evaluate both with the same evaluation.examples"
    raise ArtefactError(msg)


def _check_attacks(ours: Evaluated, theirs: Evaluated) -> None:
    first, second = (_attacks(one.result) for one in (ours, theirs))
    if first != second:
        settings = " with other settings" if _names(first) == _names(second) else ""
        msg = f"{_pair(ours, theirs)}: other attacks ({_names(first)} and {_names(second)}{settings}), so "
        raise ArtefactError(
            msg + "robust means something else; evaluate both with the same evaluation.attacks"
        )
    modes = [(one.result.method.mode, one.result.method.precision) for one in (ours, theirs)]
    if modes[0] != modes[1]:
        (mode, precision), (other, others) = modes
        msg = f"{_pair(ours, theirs)}: searched as {mode} in {precision} and {other} in {others}; "
        raise ArtefactError(msg + "evaluate both with the same evaluation.mode on the same kind of machine")
    for one in (ours, theirs):
        if isinstance(one.result.robust, Estimate):
            msg = f"{one.folder}: made under a budget, so not every image was attacked; evaluate with "
            raise ArtefactError(msg + "evaluation.budget=null to compare image by image")


def _attacks(result: EvaluationResult) -> tuple[EvaluationAttack, ...]:
    return tuple(found.attack for found in result.attacks)


def _names(attacks: Sequence[EvaluationAttack]) -> str:
    return ", ".join(attack.name for attack in attacks)


def _pair(ours: Evaluated, theirs: Evaluated) -> str:
    return f"{ours.folder} and {theirs.folder}"


def _threat(result: EvaluationResult) -> str:
    return f"{result.threat_model.norm} epsilon {result.threat_model.epsilon:g}"


# --- printing -------------------------------------------------------------------------------------


def print_comparison(comparison: EvaluationComparison, screen: Console) -> None:
    """Print which model is which, the differences in points, what they mean, and what n tells."""
    for letter, one in (("A", comparison.ours), ("B", comparison.theirs)):
        screen.print(f"{letter}  {one.folder} (model {one.result.model_digest[:12]})", markup=False)
    screen.print(_table(comparison))
    for measure, found in (("natural", comparison.natural), ("robust", comparison.robust)):
        screen.print(f"{measure:9} {explain_comparison(found)}", markup=False)
    screen.print(f"examples  {advise_examples(comparison.natural.n)}", markup=False)


def _table(comparison: EvaluationComparison) -> Table:
    title = f"A against B on the same {comparison.natural.n} test images, {_threat(comparison.ours.result)}"
    table = Table(
        "accuracy", "A", "B", "A - B, points (95 %)", "gained", "lost", "p",
        title=title, title_justify="left",
    )  # fmt: skip
    for measure, found, ours, theirs in (
        ("natural", comparison.natural, comparison.ours.natural, comparison.theirs.natural),
        ("robust", comparison.robust, comparison.ours.robust, comparison.theirs.robust),
    ):
        shares = (f"{100 * float(hits.mean()):.1f} %" for hits in (ours, theirs))
        counts = (str(found.gained), str(found.lost), f"{found.p_value:.2g}")
        table.add_row(measure, *shares, _points(found), *counts)
    return table


def _points(found: Comparison) -> str:
    gap = found.difference
    return f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def explain_comparison(found: Comparison) -> str:
    """Say in plain words what a paired comparison shows, at the 5 % level of its exact test."""
    if not found.gained and not found.lost:
        return "A and B are right on the same images"
    images = f"A alone is right on {found.gained} images, B alone on {found.lost}"
    if found.p_value >= _SIGNIFICANT:
        return f"{images}: chance explains this (p = {found.p_value:.2g}); A and B cannot be told apart"
    better, worse = ("A", "B") if found.gained > found.lost else ("B", "A")
    return f"{images}: {better} is better than {worse} (p = {found.p_value:.2g})"


def comparison_line(comparison: EvaluationComparison) -> str:
    """Return the line that a program reads; differences are A - B, as shares."""
    natural, robust = comparison.natural, comparison.robust
    return (
        f"RESULT natural_difference={natural.difference.value:.4f} "
        f"robust_difference={robust.difference.value:.4f} "
        f"natural_p={natural.p_value:.4g} robust_p={robust.p_value:.4g} n={natural.n}"
    )
