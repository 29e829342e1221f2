"""What a platform's user interface draws of an evaluation."""

from collections.abc import Callable

import pytest

from training.robustness.results import EvaluationResult, SanityCheck, ShiftResult
from training.robustness.statistics import Rate
from training.robustness.summary import classification_summary, scalar_summary


def test_scalars_are_every_metric_with_its_interval_and_the_checks(
    make_result: Callable[..., EvaluationResult], make_checks: Callable[..., tuple[SanityCheck, ...]]
) -> None:
    checks = make_checks(failed=["pgd_gap_small"], absent=["square_not_stronger", "gradients_not_zero"])
    result = make_result(sanity=checks)
    values = scalar_summary(result)
    for name, share in result.metrics.items():
        assert [values[name], values[f"{name}_low"], values[f"{name}_high"]] == [
            share.value,
            share.low,
            share.high,
        ]
    assert values["corruption_teacher"] == pytest.approx(result.shift.mean(of_teacher=True))
    assert [values[f"sanity_checks_{status}"] for status in ("passed", "failed", "not_run")] == [9, 1, 2]
    for check in checks:
        assert values[f"sanity_{check.name}"] == (check.status == "passed")
    assert all(type(value) is float for value in values.values())


def test_estimates_are_scalars_too_and_missing_parts_are_absent(budgeted: EvaluationResult) -> None:
    nothing = ShiftResult(corruptions=(), natural=Rate(count=1, n=1), threats=(), shifted=None)
    values = scalar_summary(budgeted.model_copy(update={"shift": nothing}))
    assert values["robust"] == budgeted.robust.value
    assert "corruption" not in values
    assert "corruption_teacher" not in values


def test_the_confusion_matrix_has_a_name_for_each_row(make_result: Callable[..., EvaluationResult]) -> None:
    result = make_result(("cat", "dog", "eel"))
    names, rows = classification_summary(result)
    assert names == ["cat", "dog", "eel"]
    assert rows == [list(row) for row in result.confusion]
    worst = classification_summary(result, worst=True)[1]
    assert worst == [list(row) for row in result.robust_confusion] != rows


def test_names_that_stand_twice_are_told_apart(make_result: Callable[..., EvaluationResult]) -> None:
    result = make_result(("cat", "dog", "cat"))
    assert classification_summary(result)[0] == ["cat (0)", "dog", "cat (2)"]
    assert classification_summary(result, ("a", "b", "c"))[0] == ["a", "b", "c"]
