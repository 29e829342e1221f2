"""The comparison of methods: fair by construction, and a README that is renewed."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipelines import comparison
from pipelines.comparison import (
    ARMS,
    BASELINE,
    EPOCHS,
    SEEDS,
    TUNING_SEED,
    Comparison,
    configuration,
    main,
    table,
    update_readme,
)
from training.config import PipelineConfig
from training.errors import TemperError

ROOT = Path(__file__).parents[2]
TRIALS = [trial for trials in ARMS.values() for trial in trials]
BEGIN, END = comparison._BEGIN, comparison._END


def of(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


@pytest.fixture(name="results")
def _results() -> dict[str, Any]:
    seeds = [
        {"seed": seed, "natural": 0.8 + seed / 100, "robust": 0.7, "cpu_seconds": 60.4} for seed in SEEDS
    ]
    return {
        "arms": {arm: {"chosen": trials[0].name, "seeds": seeds} for arm, trials in ARMS.items()},
        "epochs": 3,
        "seeds": list(SEEDS),
        "guided_against_pgd_at": [
            {"seed": seed, "natural": of(0.04), "robust": of(-0.005)} for seed in SEEDS
        ],
        "guided_natural_gain": 4.0,
        "guided_robust_gain": -0.5,
    }


def test_each_arm_has_the_same_number_of_trials_and_its_own_objective() -> None:
    assert BASELINE in ARMS
    assert len({len(trials) for trials in ARMS.values()}) == 1
    for arm, trials in ARMS.items():
        assert {trial.objective[0] for trial in trials} == {("name", arm)}


def test_trials_differ_and_so_do_their_names() -> None:
    names = [trial.name for trial in TRIALS]
    assert len(set(names)) == len(names)
    assert all("/" not in name and len(name) < 200 for name in names)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_every_trial_is_a_valid_configuration_that_differs_in_the_student_only(
    trial: comparison.Trial, tmp_path: Path
) -> None:
    for epochs in (EPOCHS, 2 * EPOCHS):
        config = configuration(trial, 1, epochs, tmp_path)
        assert sum(phase.epochs for phase in config.student.phases) == epochs
        assert {phase.objective.name for phase in config.student.phases} == {trial.objective[0][1]}
        baseline = configuration(ARMS[BASELINE][0], 1, EPOCHS, tmp_path)
        assert config.model_dump(exclude={"student"}) == baseline.model_dump(exclude={"student"})
        assert config.student.architecture == baseline.student.architecture
        assert config.student.selection == baseline.student.selection
        assert config.evaluation.examples is None


def test_the_tuning_seed_is_not_a_seed_of_the_test() -> None:
    assert TUNING_SEED not in SEEDS
    assert len(set(SEEDS)) == len(SEEDS) == 3


def test_the_table_has_a_row_for_each_arm_with_every_seed(results: dict[str, Any]) -> None:
    lines = table(results).splitlines()
    assert lines[0] == "3 epochs of adversarial training, seeds 0, 1, 2:"
    for arm in ARMS:
        (row,) = [line for line in lines if line.startswith(f"| {arm} |")]
        assert "81.00 ± 1.00 (80.00, 81.00, 82.00)" in row
        assert row.endswith("| 60 |")
    for seed in SEEDS:
        assert f"- seed {seed}: natural +4.00 (+3.00 to +5.00), robust -0.50 (-1.50 to +0.50)" in lines
    rows = [line for line in lines if line.startswith("|")]
    assert {row.count("|") for row in rows} == {rows[0].count("|")}


def test_the_readme_keeps_what_stands_around_the_table(tmp_path: Path, results: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before ü\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        update_readme(readme, results)
        text = readme.read_text(encoding="utf-8")
        assert text == f"before ü\n{BEGIN}\n{table(results)}\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", "no markers", f"{BEGIN} only", f"{END} {BEGIN}"])
def test_a_readme_without_markers_is_refused_and_kept(
    tmp_path: Path, results: dict[str, Any], text: str
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(TemperError, match="put them back"):
        update_readme(readme, results)
    assert readme.read_text(encoding="utf-8") == text


def test_markers_at_the_very_end_are_found(tmp_path: Path, results: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}{END}", encoding="utf-8")
    update_readme(readme, results)
    assert readme.read_text(encoding="utf-8") == f"{BEGIN}\n{table(results)}\n{END}"


def test_our_readme_has_the_markers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_missing_data_is_one_line_that_says_how_to_get_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(tmp_path / "none"), "--folder", str(tmp_path / "work")])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "install Debian's package dataset-fashion-mnist" in line
    assert not (tmp_path / "work").exists()


def test_a_student_without_its_timing_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def make(*_: object, fresh: bool = False) -> tuple[None, bool]:
        made.append(fresh)
        return None, not fresh

    monkeypatch.setattr(comparison, "make_artefact", make)
    (tmp_path / "seed-0").mkdir()
    compared = Comparison(tmp_path, tmp_path, workers=1)
    trial = ARMS[BASELINE][0]
    out = compared._train(trial, 0)
    timing = json.loads(comparison._timing(out).read_bytes())
    assert timing["cpu_seconds"] >= 0
    compared._train(trial, 0)
    assert made == [True, False]
    assert json.loads(comparison._timing(out).read_bytes()) == timing


def test_the_comparison_is_of_the_default_threat_and_gates(tmp_path: Path) -> None:
    config = configuration(ARMS[BASELINE][0], 0, EPOCHS, tmp_path)
    assert isinstance(config, PipelineConfig)
    assert (config.threat_model.norm, config.threat_model.epsilon) == ("Linf", 0.1)
    assert (config.data.limits.train, config.data.limits.test) == (10_000, None)
