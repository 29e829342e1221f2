"""The report: an evaluation as one self-contained HTML page, the same bytes for the same result."""

from collections.abc import Sequence

from training.robustness.reporting import verdict, wording
from training.robustness.reporting.attacks import attack_rows
from training.robustness.reporting.classes import (
    MOST_SHOWN,
    WORST,
    class_rows,
    label_names,
    worst_first,
)
from training.robustness.reporting.confusion import Matrix, show_matrix
from training.robustness.reporting.corruptions import show_corruptions
from training.robustness.reporting.curve import plot_curve
from training.robustness.reporting.pictures import show_examples
from training.robustness.reporting.rendering import html_environment
from training.robustness.reporting.shifted import explain_shift
from training.robustness.reporting.trust import doubts_first, judge
from training.robustness.results import EvaluationResult, Strip
from training.robustness.statistics import advise_examples

TEMPLATE = "report.html"


def render_report(result: EvaluationResult, strip: Strip, class_names: Sequence[str] = ()) -> str:
    """Render the HTML page; it loads nothing and runs no script.

    Args:
        result: what the evaluation found.
        strip: the examples to show; none is allowed.
        class_names: a name for each label. Without it, labels that have no evaluated examples are called by
            their number.
    """
    names = label_names(result, class_names)
    shifted = result.shift.shifted
    return (
        html_environment()
        .get_template(TEMPLATE)
        .render(
            result=result,
            headline=verdict.headline(result),
            worst_case=verdict.worst_case(result),
            untested=verdict.untested(result),
            trust=judge(result.sanity),
            checks_shown=doubts_first(result.sanity),
            attacks=attack_rows(result),
            plot=plot_curve(result.curve, result.threat_model.epsilon),
            **_classes(result, names),
            corruptions=show_corruptions(result.shift),
            shift_explained=explain_shift(shifted, result.natural) if shifted else "",
            examples=show_examples(strip, result.threat_model, names),
            method=wording.describe_method(result.method),
            advice=advise_examples(result.examples),
            configuration=wording.write_configuration(result),
        )
    )


def _classes(result: EvaluationResult, names: Sequence[str]) -> dict[str, object]:
    rows = class_rows(result, names)
    few = len(names) <= MOST_SHOWN
    return {
        "classes": rows if few else worst_first(rows)[:WORST],
        "all_classes": () if few else rows,
        "lowest": worst_first(rows)[:1],
        "matrices": _matrices(result, names),
    }


def _matrices(result: EvaluationResult, names: Sequence[str]) -> tuple[Matrix, Matrix]:
    return (
        show_matrix("Natural images", result.confusion, names),
        show_matrix("Worst images found", result.robust_confusion, names),
    )
