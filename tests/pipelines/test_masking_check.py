"""The check for masked gradients: verdicts on tiny models, the counts, and what the command answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from pipelines import masking_check
from pipelines.masked_models import MASKED
from pipelines.masking_check import HONEST, Candidate, Judged, Kind, Surroundings, judge, main, result_line
from training.config import ApgdCeAttack, Curve, Evaluation, PgdAttack, Sanity, Shift, Spatial, ThreatModel
from training.errors import TrainingError
from training.robustness.results import SanityCheck
from training.validation import LabelledImages

SIDE, COUNT = 6, 48
EVALUATION = Evaluation(
    attacks=(PgdAttack(steps=5, restarts=1, step_size=0.5), ApgdCeAttack(steps=5)),
    curve=Curve(multiples=(0.0,)),
    sanity=Sanity(
        attack=PgdAttack(steps=6, restarts=1, step_size=0.4),
        square_queries=20,
        surrogate_epochs=2,
        surrogate_examples=32,
    ),
    shift=Shift(corruptions="none", threats=(), spatial=Spatial(degrees=0, pixels=0)),
)


class Halves(nn.Module):
    """Tell which half of an image is brighter."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        lead = x[..., : SIDE // 2].mean(dim=(1, 2, 3)) - x[..., SIDE // 2 :].mean(dim=(1, 2, 3))
        return 20 * torch.stack([lead, -lead], dim=1)


def images() -> LabelledImages:
    labels = torch.arange(COUNT) % 2
    halves = torch.ones(SIDE, SIDE)
    halves[:, SIDE // 2 :] = -1.0
    pixels = 128 + 38 * halves * (1 - 2 * labels).view(-1, 1, 1)
    return LabelledImages(pixels.to(torch.uint8).unsqueeze(1), labels)


def around() -> Surroundings:
    return Surroundings(Halves(), images(), images(), ThreatModel(epsilon=0.2), 0)


def judged(kind: Kind, before: Callable[[Tensor], Tensor] = lambda x: x) -> Judged:
    return judge(Candidate("tiny", kind, Halves(before)), around(), EVALUATION)


def test_an_honest_model_passes_and_is_taken_for_masked_by_no_one() -> None:
    found = judged("honest")
    assert (found.verdict, found.failed) == ("passed", ())
    assert found.as_it_should_be
    assert not judged("masked").as_it_should_be


def test_a_masked_model_is_caught_with_its_reasons() -> None:
    found = judged("masked", torch.detach)
    assert found.verdict == "caught"
    assert found.as_it_should_be
    assert "gradients_not_zero" in {check.name for check in found.failed}
    assert not judged("honest", torch.detach).as_it_should_be


def test_what_was_not_wholly_checked_has_not_passed() -> None:
    found = judged("honest")
    checks = found.result.sanity
    idle = SanityCheck(name=checks[0].name, status="not run", found=None, threshold=None, evidence="no")
    for left in ((idle, *checks[1:]), ()):
        result = found.result.model_copy(update={"sanity": left})
        partial = Judged(found.candidate, result, 0.0)
        assert partial.verdict == "not judged"
        assert not partial.as_it_should_be


def test_the_same_seed_judges_alike_and_leaves_the_global_generator_alone() -> None:
    def blurred(x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)

    before = torch.get_rng_state()
    first = judged("masked", blurred).result
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert judged("masked", blurred).result == first


def test_the_result_line_counts_what_is_as_it_should_be() -> None:
    found = [judged("honest"), judged("masked", torch.detach), judged("masked")]
    assert result_line(found, 12.4) == "RESULT caught=1/2 honest_passed=1/1 seconds=12"


def _instead_of_training(monkeypatch: pytest.MonkeyPatch, *models: Candidate) -> None:
    monkeypatch.setattr(masking_check, "candidates", lambda *_: (around(), list(models)))
    monkeypatch.setattr(masking_check, "judge", lambda one, near: judge(one, near, EVALUATION))


def test_the_command_succeeds_where_every_verdict_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Candidate("plain", "honest", Halves())
    masked = Candidate("cut_off", "masked", Halves(torch.detach))
    _instead_of_training(monkeypatch, honest, masked)
    found = CliRunner().invoke(main, [])
    assert found.exit_code == 0
    assert "gradients_not_zero" in found.output
    assert found.output.splitlines()[-1].startswith("RESULT caught=1/1 honest_passed=1/1 seconds=")


@pytest.mark.parametrize(
    ("kind", "before", "line"),
    [
        ("masked", torch.clone, "RESULT caught=0/1 honest_passed=0/0"),
        ("honest", torch.detach, "RESULT caught=0/0 honest_passed=0/1"),
    ],
)
def test_the_command_fails_where_a_verdict_is_wrong(
    kind: Kind, before: Callable[[Tensor], Tensor], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _instead_of_training(monkeypatch, Candidate("tiny", kind, Halves(before)))
    found = CliRunner().invoke(main, [])
    assert found.exit_code == 1
    assert found.output.splitlines()[-1].startswith(line)


def test_an_error_of_ours_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        msg = "it gives NaN"
        raise TrainingError(msg)

    monkeypatch.setattr(masking_check, "candidates", refuse)
    found = CliRunner().invoke(main, [])
    assert found.exit_code == 2
    assert "error: it gives NaN" in found.output


def test_a_seed_that_is_none_is_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["--seed", "-1", "--folder", str(tmp_path)]).exit_code == 2


def test_enough_models_of_either_kind_are_judged() -> None:
    assert len(HONEST) >= 3
    assert len(MASKED) >= 4
