"""The model card: what a registered model is, how robust it is and what nobody looked at, as Markdown.

The sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from collections.abc import Mapping
from typing import Any

from training.gates import Decision
from training.robustness.reporting import verdict, wording
from training.robustness.reporting.attacks import attack_rows
from training.robustness.reporting.classes import class_rows, label_names, worst_first
from training.robustness.reporting.corruptions import show_corruptions
from training.robustness.reporting.rendering import text_environment
from training.robustness.reporting.shifted import explain_shift
from training.robustness.reporting.trust import CHECKS, doubts_first, judge
from training.robustness.results import EvaluationResult
from training.robustness.statistics import advise_examples

TEMPLATE = "model_card.md"
WORST_CLASSES = 5


def render_model_card(
    result: EvaluationResult,
    *,
    name: str,
    intended_use: str = "",
    training: str = "",
    decision: Decision | None = None,
    digests: Mapping[str, str] | None = None,
) -> str:
    """Render the card; equal arguments give equal text.

    Args:
        result: what the evaluation found.
        name: the registered model's name.
        intended_use: what the model is for, as plain text.
        training: what it is and how it was trained, architecture, objective and phases, as plain text.
        decision: what the gates said, if they were asked.
        digests: of everything the model rests on, by name; without it, those of the decision.
    """
    lineage = decision.digests if digests is None and decision else dict(digests or {})
    given = {"name": name, "intended_use": intended_use, "training": training}
    template = text_environment().get_template(TEMPLATE)
    return template.render(**given, decision=decision, digests=lineage, result=result, **_found(result))


def _found(result: EvaluationResult) -> dict[str, Any]:
    shifted = result.shift.shifted
    rows = class_rows(result, label_names(result))
    return {
        "headline": verdict.headline(result),
        "worst_case": verdict.worst_case(result),
        "untested": verdict.untested(result),
        "trust": judge(result.sanity),
        "checks": [(check, CHECKS[check.name]) for check in doubts_first(result.sanity)],
        "attacks": attack_rows(result),
        "worst_classes": worst_first(rows)[:WORST_CLASSES],
        "corruptions": show_corruptions(result.shift),
        "shift_explained": explain_shift(shifted, result.natural) if shifted else "",
        "method": wording.describe_method(result.method),
        "advice": advise_examples(result.examples),
    }
