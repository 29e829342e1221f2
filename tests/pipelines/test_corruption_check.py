"""The check of the corruptions: against a small stand-in for imagecorruptions, in a process of its own."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from pipelines import corruption_check
from pipelines.corruption_check import (
    Check,
    Finding,
    RecordedDraws,
    as_images,
    difference,
    digits,
    gap,
    is_comparable,
    main,
    photographs,
    pictures,
    reference_values,
    structures,
    summary,
)
from pipelines.corruption_reference import Stream, given_numbers, with_values
from training.errors import TemperError
from training.robustness.corruptions import CORRUPTIONS, PARAMETER_SOURCES, Corruption, find_corruption

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)

STAND_IN = """
import numpy as np

def gaussian(image, sigma, channel_axis=None):
    return image

def contrast(x, severity=1):
    c = [0.4, 0.3, 0.2, 0.1, 0.05][severity - 1]
    x = np.array(x) / 255.
    means = x.mean(axis=(0, 1), keepdims=True)
    return np.clip((x - means) * c + means, 0, 1) * 255

def gaussian_noise(x, severity=1):
    c = [0.08, 0.12, 0.18, 0.26, 0.38][severity - 1]
    x = np.array(x) / 255.
    return np.clip(x + np.random.normal(size=x.shape, scale=c), 0, 1) * 255

def shot_noise(x, severity=1):
    c = [60, 25, 12, 5, 3][severity - 1]
    x = np.array(x) / 255.
    return np.clip(np.random.poisson(x * c) / float(c), 0, 1) * 255
"""

KINDS = tuple(find_corruption(name) for name in ("contrast", "gaussian_noise", "shot_noise"))


@pytest.fixture(name="stand_in")
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "imagecorruptions"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "corruptions.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return package / "corruptions.py"


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def named(name: str, furthest: float) -> Finding:
    return Finding(find_corruption(name), "cifar", furthest)


@pytest.mark.usefixtures("stand_in")
def test_equal_formulas_agree_on_the_same_pictures_and_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruption_check, "_DRAWS", 40)
    found = {(finding.kind.name, finding.parameters): finding for finding in Check(folder, PYTHON).run(KINDS)}
    assert len(found) == 2 * len(KINDS)
    assert all(finding.agrees for finding in found.values())
    assert max(found["contrast", "cifar"].furthest, found["gaussian_noise", "imagenet"].furthest) < 1e-12
    assert found["shot_noise", "cifar"].furthest > 0.0


@pytest.mark.parametrize(
    ("right", "wrong", "which"),
    [
        ("0.4, 0.3", "0.4, 0.31", "imagenet"),  # another parameter
        ("(x - means) * c + means", "(x - means) * c + 1.01 * means", "cifar"),  # another formula
    ],
)
def test_a_difference_breaks_the_tolerance(
    stand_in: Path, folder: Path, right: str, wrong: str, which: str
) -> None:
    stand_in.write_text(STAND_IN.replace(right, wrong))
    found = {finding.parameters: finding for finding in Check(folder, PYTHON).run(KINDS[:1])}
    assert not found[which].agrees  # type: ignore[index]


@pytest.mark.parametrize(
    ("python", "message"),
    [("no-such-python", "no such program"), (sys.executable, "the reference failed with")],
)
def test_without_a_reference_the_message_says_what_to_do(folder: Path, python: str, message: str) -> None:
    with pytest.raises(TemperError, match=f"{message}.*make check-corruptions"):
        Check(folder, Path(python)).run(KINDS[:1])


def test_the_pins_are_those_the_check_was_made_with() -> None:
    pins = (ROOT / "infra" / "check-corruptions.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in pins if not line.startswith("#")]
    assert "imagecorruptions==1.1.2" in lines
    assert all(re.fullmatch(r"[a-z-]+==[\d.]+", line) for line in lines)


def invoked(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> Result:
    monkeypatch.setattr(Check, "run", lambda _: findings)
    return CliRunner().invoke(main, [])


def test_the_command_ends_with_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [named("contrast", 1e-9), named("glass_blur", 1 / 255), named("frost", 0.02)]
    done = invoked(monkeypatch, good)
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == (
        "RESULT kinds=3 compared_exactly=2 compared_in_distribution=1 max_abs_diff=3.92e-03 "
        "max_distribution_gap=2.00e-02 broken=0"
    )
    assert "frost: procedural" in done.output
    assert done.output.count("agrees") == 3


def test_the_command_fails_where_a_tolerance_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoked(monkeypatch, [named("contrast", 1e-3), named("frost", 0.02)])
    assert done.exit_code == 1
    assert "DIFFERS" in done.output
    assert done.output.splitlines()[-1].endswith("broken=1")


def test_the_command_says_in_one_line_what_is_missing() -> None:
    done = CliRunner().invoke(main, ["--python", "no-such-python"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: no-such-python: no such program")
    assert len(done.stderr.splitlines()) == 1


def test_a_summary_of_every_kind_counts_them() -> None:
    counted = summary([Finding(kind, "cifar", 0.0) for kind in CORRUPTIONS])
    assert counted.startswith("RESULT kinds=19 compared_exactly=17 compared_in_distribution=2 ")


@pytest.mark.parametrize("kind", CORRUPTIONS, ids=lambda kind: kind.name)
def test_the_reference_gets_parameters_in_its_own_form(kind: Corruption) -> None:
    assert reference_values(kind, 2, "imagenet") is None
    given = reference_values(kind, 2, "cifar")
    if kind.name == "zoom_blur":
        assert np.allclose(np.array(given), np.arange(1, 1.11, 0.01))
    else:
        assert given in (kind.cifar[1], kind.cifar[1][0])
    assert is_comparable(kind, "imagenet")


def test_pictures_are_of_every_size_and_channel_count() -> None:
    shapes = {batch.shape[1:] for parameters in PARAMETER_SOURCES for batch in pictures(parameters)}
    assert shapes == {(64, 64, 3), (80, 96, 3), (64, 64, 1), (32, 32, 3), (28, 28, 1), (8, 8, 1)}
    for batch in (photographs((40, 30)), structures(32), digits()):
        assert batch.dtype == np.uint8
        assert int(batch.max()) - int(batch.min()) > 200
        assert as_images(batch).shape == (len(batch), batch.shape[3], *batch.shape[1:3])


def test_recorded_numbers_are_in_the_references_order() -> None:
    draws = RecordedDraws(0, torch.zeros(2, 3, 8, 9))
    assert draws.numbers() is None
    field, angle, layer = draws.normal(3, 8, 9), draws.uniform(), draws.uniform(8, 9)
    numbers = draws.numbers()
    assert numbers is not None
    assert np.array_equal(numbers[1, : 3 * 72].reshape(8, 9, 3), field[1].permute(1, 2, 0).numpy())
    assert numbers[1, 3 * 72] == float(angle[1])
    assert np.array_equal(numbers[1, -72:].reshape(8, 9), layer[1].numpy())


def test_a_stream_stands_in_for_numpys_functions() -> None:
    stream = Stream(np.array([0.25, 0.5, 0.999, -2.0, 0.1]))
    assert stream.uniform(-45, 45) == -22.5
    assert stream.randint(-2, 2, (2,)).tolist() == [0, 1]
    assert stream.normal(1.0, 0.5, (1,)).tolist() == [0.0]
    assert not stream.is_used_up()
    assert stream.random() == 0.1
    assert stream.is_used_up()


def test_numbers_must_be_used_up() -> None:
    with given_numbers(np.array([0.5, 0.25])):
        assert np.random.uniform(0, 2) == 1.0  # noqa: NPY002 - what is replaced
        assert np.random.default_rng(1).random((1,)).tolist() == [0.25]
    with pytest.raises(RuntimeError, match="fewer random numbers"), given_numbers(np.array([0.5])):
        pass


def test_a_table_of_parameters_is_replaced(stand_in: Path) -> None:
    module = ModuleType("reference")
    code = compile(STAND_IN, str(stand_in), "exec")
    exec(code, vars(module))  # noqa: S102 - this test's own source
    image = np.full((2, 2, 3), 51, dtype=np.uint8)
    image[0, 0] = 255
    changed = with_values(module, "contrast", 1.0)
    assert np.allclose(changed(image, 5), image)
    with pytest.raises(RuntimeError, match="gaussian: 0 tables"):
        with_values(module, "gaussian", 1.0)


def test_gaps_tell_means_and_deviations_apart() -> None:
    ours = np.random.default_rng(0).normal(0.5, 0.1, (50, 6, 6, 3))
    assert gap(ours, ours) == 0.0
    assert gap(ours, ours + np.array([0.0, 0.0, 0.2])) == pytest.approx(0.2)
    assert gap(ours, 0.5 + 2 * (ours - 0.5)) == pytest.approx(0.1, rel=0.1)
    assert difference(ours, ours + 0.3) == pytest.approx(0.3)
