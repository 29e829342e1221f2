"""Finished units of work: computed once, whole or not at all, and never taken from another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.errors import ArtefactError
from training.robustness.results import CurvePoint, CurveResult
from training.robustness.statistics import Estimate, Rate
from training.robustness.work import Work, without_computed

Found = tuple[dict[str, Tensor], dict[str, Any]]


class Computation:
    """Give another answer at each call, and count the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Found:
        self.calls += 1
        tensors = {
            "fooled": torch.tensor([True, False]),
            "images": torch.full((1, 1, 2, 2), 0.1 * self.calls),
        }
        return tensors, {"forward": self.calls, "gradient": 7}


def assert_same(one: Found, other: Found) -> None:
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    assert all(value.dtype == other[0][name].dtype for name, value in one[0].items())


def test_a_unit_is_computed_once_and_kept_for_the_next_process(tmp_path: Path) -> None:
    compute = Computation()
    first = Work(tmp_path, "key").unit("0-pgd-0", compute)
    again = Work(tmp_path, "key").unit("0-pgd-0", compute)
    assert compute.calls == 1
    assert_same(first, again)


def test_units_of_other_names_are_computed_apart(tmp_path: Path) -> None:
    compute, work = Computation(), Work(tmp_path, "key")
    assert [work.unit(name, compute)[1]["forward"] for name in ("0-pgd-0", "0-pgd-40", "0-pgd-0")] == [
        1,
        2,
        1,
    ]


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    compute, work = Computation(), Work()
    work.unit("a", compute)
    work.unit("a", compute)
    work.clear()
    assert compute.calls == 2
    assert not list(tmp_path.iterdir())


def test_units_without_examples_are_kept_too(tmp_path: Path) -> None:
    empty: Found = (
        {"images": torch.zeros((0, 3, 4, 4)), "predictions": torch.zeros(0, dtype=torch.int64)},
        {},
    )
    Work(tmp_path, "key").unit("a", lambda: empty)
    assert_same(Work(tmp_path, "key").unit("a", Computation()), empty)


def test_a_unit_that_breaks_off_leaves_nothing_and_is_computed_again(tmp_path: Path) -> None:
    def broken() -> Found:
        raise KeyboardInterrupt

    work = Work(tmp_path / "work", "key")
    with pytest.raises(KeyboardInterrupt):
        work.unit("a", broken)
    assert not list(tmp_path.rglob("*.*"))
    assert work.unit("a", Computation())[1]["forward"] == 1


def test_what_another_run_kept_is_refused_with_the_mend(tmp_path: Path) -> None:
    Work(tmp_path, "one").unit("a", Computation())
    with pytest.raises(ArtefactError, match=r"a\.safetensors: belongs to another run.*remove it"):
        Work(tmp_path, "two").unit("a", Computation())


def test_a_unit_under_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    work = Work(tmp_path, "key")
    work.unit("a", Computation())
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    with pytest.raises(ArtefactError, match="belongs to another run"):
        work.unit("b", Computation())


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda _raw: b"", lambda raw: b"\xff" * len(raw)])
def test_a_damaged_unit_is_refused_with_the_mend(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    Work(tmp_path, "key").unit("a", Computation())
    path = tmp_path / "a.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtefactError, match="remove it to start this step again"):
        Work(tmp_path, "key").unit("a", Computation())


def test_results_are_kept_as_their_kind_with_their_rates(
    tmp_path: Path, make_curve: Callable[..., CurveResult]
) -> None:
    curve = make_curve(0, 0.5, 1)
    kept = Work(tmp_path, "key").section("curve", CurveResult, lambda: curve)
    point = CurvePoint(epsilon=0.0, accuracy=Rate(count=1, n=2))
    other = CurveResult(attack=curve.attack, points=(point,))
    again = Work(tmp_path, "key").section("curve", CurveResult, lambda: other)
    assert kept == again == curve


def test_cleared_work_is_gone_and_can_be_done_again(tmp_path: Path) -> None:
    compute, work = Computation(), Work(tmp_path / "work", "key")
    work.unit("a", compute)
    work.clear()
    assert not (tmp_path / "work").exists()
    work.clear()
    assert work.unit("a", compute)[1]["forward"] == 2


def test_computed_fields_of_rates_are_dropped_and_those_of_estimates_kept() -> None:
    estimate = Estimate(value=0.5, low=0.4, high=0.6).model_dump()
    dumped = {
        "all": [Rate(count=1, n=2).model_dump(), estimate],
        "deep": {"rate": Rate(count=0, n=3).model_dump()},
    }
    assert without_computed(dumped) == {
        "all": [{"count": 1, "n": 2}, estimate],
        "deep": {"rate": {"count": 0, "n": 3}},
    }
