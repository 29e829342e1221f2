"""Two evaluations of the same images: what is told of them, and which pairs are refused."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from pipelines.compare import compare_evaluations, comparison_line, explain_comparison, print_comparison
from training.artefact import publish, seal
from training.config import ApgdCeAttack, EvaluationAttack, PgdAttack, ThreatModel
from training.errors import ArtefactError
from training.robustness.results import (
    AttackResult,
    ClassResult,
    CurveResult,
    EvaluationResult,
    Method,
    Outcomes,
    ShiftResult,
    write_result,
)
from training.robustness.statistics import Estimate, Rate, compare_paired

COUNT = 200
METHOD = Method(
    version="custom",
    mode="exact",
    draws="per-example",
    precision="float32",
    folded=False,
    forward=1,
    gradient=1,
)
ATTACKS: tuple[EvaluationAttack, ...] = (PgdAttack(), ApgdCeAttack())


def outcomes(natural: int, robust: int, count: int = COUNT, seed: int = 0) -> Outcomes:
    """Make outcomes with the given numbers of right images; which ones depends on the seed."""
    order = np.random.default_rng(seed).permutation(count)
    labels = np.arange(count) % 2
    right, stands = np.zeros(count, bool), np.zeros((2, count), bool)
    right[order[:natural]] = True
    stands[0, order[: (natural + robust) // 2]] = True
    stands[1, order[:robust]] = True
    return Outcomes(
        rows=np.arange(count),
        labels=labels,
        predictions=np.where(right, labels, 1 - labels),
        worst_predictions=np.where(stands[1], labels, 1 - labels),
        stands=stands,
        attacked=np.stack([right, stands[0]]),
    )


def result_of(found: Outcomes, **changes: object) -> EvaluationResult:
    count = len(found.rows)
    natural = Rate(count=int((found.predictions == found.labels).sum()), n=count)
    robust = Rate(count=int(found.stands[-1].sum()), n=count)
    half = Rate(count=1, n=2)
    result = EvaluationResult(
        model_digest="a" * 64,
        snapshot_digest="b" * 64,
        seed=0,
        threat_model=ThreatModel(),
        examples=count,
        class_count=2,
        method=METHOD,
        natural=natural,
        robust=robust,
        attacks=tuple(
            AttackResult(attack=attack, loss="margin", attacked=1, broken=0, robust=robust)
            for attack in ATTACKS
        ),
        classes=(ClassResult(name="cat", natural=half, robust=half),),
        confusion=((1, 0), (0, 1)),
        robust_confusion=((1, 0), (0, 1)),
        curve=CurveResult(attack=PgdAttack(), points=()),
        sanity=(),
        shift=ShiftResult(corruptions=(), natural=natural, threats=(), shifted=None),
    )
    return result.model_copy(update=changes)


def write(folder: Path, found: Outcomes, **changes: object) -> Path:
    with publish(folder) as partial:
        write_result(partial, result_of(found, **changes), found)
        seal(partial, "evaluation", inputs={}, config={}, threads=1)
    return folder


def refusal(ours: Path, theirs: Path) -> str:
    with pytest.raises(ArtefactError) as caught:
        compare_evaluations(ours, theirs)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- what is told ---------------------------------------------------------------------------------


def test_the_difference_is_that_of_the_same_images(tmp_path: Path) -> None:
    ours, theirs = outcomes(180, 100, seed=1), outcomes(170, 60, seed=2)
    comparison = compare_evaluations(write(tmp_path / "a", ours), write(tmp_path / "b", theirs))
    assert comparison.natural == compare_paired(
        ours.predictions == ours.labels, theirs.predictions == theirs.labels
    )
    robust = comparison.robust
    assert robust.gained == int((ours.stands[1] & ~theirs.stands[1]).sum())
    assert robust.lost == int((theirs.stands[1] & ~ours.stands[1]).sum())
    assert robust.difference.value == pytest.approx(0.2)
    assert robust.p_value == pytest.approx(binomtest(robust.gained, robust.gained + robust.lost).pvalue)
    line = comparison_line(comparison)
    pattern = r"RESULT natural_difference=0\.0500 robust_difference=0\.2000 natural_p=\S+ robust_p=\S+ n=200"
    assert re.fullmatch(pattern, line)
    assert float(line.split()[4].removeprefix("robust_p=")) == pytest.approx(robust.p_value, rel=1e-3)


def test_the_table_says_it_in_plain_words(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=200, highlight=False)
    ours, theirs = outcomes(180, 100, seed=1), outcomes(170, 60, seed=2)
    comparison = compare_evaluations(write(tmp_path / "a", ours), write(tmp_path / "b", theirs))
    print_comparison(comparison, screen)
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert "A against B on the same 200 test images, Linf epsilon 0.15" in text
    assert f"A  {tmp_path / 'a'} (model aaaaaaaaaaaa)" in text
    assert "90.0 %" in text
    assert "+20.0 (+" in text
    assert "A and B cannot be told apart" in text
    assert "A is better than B (p = " in text
    assert "200 examples give ±6.9 points at worst; for ±5 you need 385" in text


def test_equal_outcomes_show_no_difference(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    comparison = compare_evaluations(write(tmp_path / "a", found), write(tmp_path / "b", found))
    assert comparison_line(comparison) == (
        "RESULT natural_difference=0.0000 robust_difference=0.0000 natural_p=1 robust_p=1 n=200"
    )
    assert explain_comparison(comparison.natural) == "A and B are right on the same images"


def test_the_worse_side_is_named(tmp_path: Path) -> None:
    ours, theirs = outcomes(100, 20, seed=1), outcomes(180, 90, seed=2)
    comparison = compare_evaluations(write(tmp_path / "a", ours), write(tmp_path / "b", theirs))
    assert "B is better than A" in explain_comparison(comparison.robust)
    assert "natural_difference=-0.4000" in comparison_line(comparison)


def test_a_run_s_folder_is_taken_for_its_evaluation(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    run = tmp_path / "run"
    write(run / "robustness_evaluation", found)
    assert compare_evaluations(run, write(tmp_path / "b", found)).natural.n == COUNT


def test_seeds_and_models_may_differ(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    other = write(tmp_path / "b", found, seed=1, model_digest="c" * 64)
    assert compare_evaluations(write(tmp_path / "a", found), other).robust.lost == 0


# --- what is refused ------------------------------------------------------------------------------


def test_searches_of_another_mode_are_refused(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    method = METHOD.model_copy(update={"mode": "verdict", "precision": "bfloat16"})
    other = write(tmp_path / "b", found, method=method)
    with pytest.raises(ArtefactError, match="searched as exact in float32 and verdict in bfloat16"):
        compare_evaluations(write(tmp_path / "a", found), other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"snapshot_digest": "c" * 64}, "other data (snapshots bbbbbbbbbbbb and cccccccccccc)"),
        (
            {"threat_model": ThreatModel(norm="L2", epsilon=0.5)},
            "other threat models (Linf epsilon 0.15 and L2 epsilon 0.5)",
        ),
        ({"threat_model": ThreatModel(epsilon=8 / 255)}, "(Linf epsilon 0.15 and Linf epsilon 0.0313725)"),
    ],
)
def test_other_questions_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    found = outcomes(180, 100)
    line = refusal(write(tmp_path / "a", found), write(tmp_path / "b", found, **changes))
    assert line.startswith(f"{tmp_path / 'a'} and {tmp_path / 'b'}: ")
    assert words in line


def test_other_examples_are_refused(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    ours = write(tmp_path / "a", found)
    words = "other examples of the test side (200 and 100); evaluate both with the same evaluation.examples"
    assert words in refusal(ours, write(tmp_path / "b", outcomes(90, 50, count=100)))
    for changed in (replace(found, rows=found.rows + 1), replace(found, labels=1 - found.labels)):
        assert "other examples" in refusal(ours, write(tmp_path / "c", changed))


def test_other_attacks_are_refused(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    ours = write(tmp_path / "a", found)
    attacks = result_of(found).attacks
    line = refusal(ours, write(tmp_path / "b", found, attacks=attacks[:1]))
    assert "other attacks (pgd, apgd_ce and pgd), so robust means something else" in line
    weaker = attacks[0].model_copy(update={"attack": PgdAttack(steps=1)})
    line = refusal(ours, write(tmp_path / "c", found, attacks=(weaker, attacks[1])))
    assert "(pgd, apgd_ce and pgd, apgd_ce with other settings)" in line


def test_an_evaluation_under_a_budget_is_refused(tmp_path: Path) -> None:
    found = outcomes(180, 100)
    ours = write(tmp_path / "a", found)
    estimated = write(tmp_path / "b", found, robust=Estimate(value=0.5, low=0.4, high=0.6))
    assert f"{estimated}: made under a budget" in refusal(ours, estimated)
    assert "evaluation.budget=null" in refusal(estimated, ours)


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    ours = write(tmp_path / "a", outcomes(180, 100))
    assert "no evaluation artefact there" in refusal(ours, tmp_path / "none")
    altered = write(tmp_path / "b", outcomes(180, 100))
    (altered / "outcomes.npz").write_bytes(b"")
    assert "outcomes.npz: altered" in refusal(ours, altered)
    older = tmp_path / "c"
    with publish(older) as partial:
        (partial / "evaluation.json").write_text('{"schema_version": 1}')
        seal(partial, "evaluation", inputs={}, config={}, threads=1)
    assert "not an evaluation of this version of Temper" in refusal(ours, older)
