"""Draws: keyed ones depend on the example alone, streamed ones are the reference's."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from training.attacks.draws import Draws, KeyedDraws, StreamDraws
from training.randomness import derive_seed, normal, uniform

ROWS = np.array([3, 900, 17, 4, 5, 0])
SHAPE = (2, 3)
Draw: TypeAlias = Callable[[Draws, Tensor], Tensor]
KINDS: dict[str, Draw] = {
    "uniform": lambda draws, active: draws.uniform(active, *SHAPE),
    "normal": lambda draws, active: draws.normal(active, *SHAPE),
    "together": lambda draws, active: draws.uniform_together(active, *SHAPE),
}


def everyone() -> Tensor:
    return torch.arange(len(ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_keyed_draw_does_not_depend_on_which_neighbours_still_stand(kind: str) -> None:
    draw, whole, thinned = KINDS[kind], KeyedDraws(7, ROWS), KeyedDraws(7, ROWS)
    for standing in ([0, 1, 2, 3, 4, 5], [0, 2, 5], [5, 2], [2]):
        wanted, found = draw(whole, everyone()), draw(thinned, torch.tensor(standing))
        assert found.shape == (len(standing), *SHAPE)
        assert torch.equal(found, wanted[standing])


@pytest.mark.parametrize("kind", KINDS)
def test_a_keyed_draw_does_not_depend_on_how_examples_are_batched_or_ordered(kind: str) -> None:
    draw, whole = KINDS[kind], KeyedDraws(7, ROWS)
    parts = [[0, 1], [2], [3, 4, 5], [5, 0]]
    split = [KeyedDraws(7, ROWS[part]) for part in parts]
    for _ in range(3):
        wanted = draw(whole, everyone())
        for part, draws in zip(parts, split, strict=True):
            assert torch.equal(draw(draws, torch.arange(len(part))), wanted[part])


@pytest.mark.parametrize("kind", KINDS)
def test_keyed_draws_differ_by_call_seed_and_row(kind: str) -> None:
    draw, draws = KINDS[kind], KeyedDraws(7, ROWS)
    first, second, other = (draw(given, everyone()) for given in (draws, draws, KeyedDraws(8, ROWS)))
    for a, b in ((first, second), (first, other), (first[0], first[1])):
        assert not bool((a == b).any())


def test_keyed_draws_are_those_of_the_hash() -> None:
    draws = KeyedDraws(7, ROWS)
    wanted = uniform(derive_seed(7, 1), ROWS, 6).reshape(6, *SHAPE)
    assert np.allclose(draws.uniform(everyone(), *SHAPE).numpy(), wanted, atol=1e-7)
    wanted = normal(derive_seed(7, 2), ROWS, 6).reshape(6, *SHAPE)
    assert np.allclose(draws.normal(everyone(), *SHAPE).numpy(), wanted, atol=1e-6)


def test_a_float64_that_would_round_to_one_stays_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nearly = np.full((6, 6), 1.0 - 2.0**-53)
    monkeypatch.setattr("training.attacks.draws.uniform", lambda *_: nearly)
    drawn = KeyedDraws(0, ROWS).uniform(everyone(), *SHAPE)
    assert np.float32(nearly[0, 0]) == 1.0
    assert float(drawn.max()) < 1.0


def test_streamed_draws_are_torchs_global_stream_in_the_order_of_the_calls() -> None:
    draws = StreamDraws(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for count in (6, 3, 1):
            active = torch.arange(count)
            assert torch.equal(draws.uniform(active, 1, 4, 4), torch.rand(count, 1, 4, 4))
            assert torch.equal(draws.normal(active, 1, 4, 4), torch.randn(count, 1, 4, 4))
            together = draws.uniform_together(active, 2)
            assert torch.equal(together, torch.rand(2).expand(count, 2))


def test_streamed_draws_leave_torchs_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    StreamDraws(5).normal(everyone(), 3)
    KeyedDraws(5, ROWS).normal(everyone(), 3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("draws", [KeyedDraws(0, np.arange(4000)), StreamDraws(0)])
def test_draws_follow_their_laws(draws: Draws) -> None:
    active = torch.arange(4000)
    flat, bell = draws.uniform(active, 4), draws.normal(active, 4)
    assert flat.dtype == bell.dtype == torch.float32
    assert 0.0 <= float(flat.min()) < 0.001
    assert 0.999 < float(flat.max()) < 1.0
    assert float(flat.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(bell.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(bell.std()) == pytest.approx(1.0, abs=0.03)
    assert draws.uniform_together(active, 2, 3).shape == (4000, 2, 3)
