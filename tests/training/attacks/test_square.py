"""The Square attack against AutoAttack's own code, example by example, and against its contract."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.attacks import square as module
from training.attacks.draws import KeyedDraws, StreamDraws
from training.attacks.norms import Norm
from training.attacks.square import SquareBudget, share_of_pixels, square
from training.attacks.victim import Batch, Victim
from training.errors import TrainingError

NORMS: list[Norm] = ["Linf", "L2", "L1"]
EPSILON: dict[Norm, float] = {"Linf": 0.02, "L2": 0.35, "L1": 2.5}
GREY, COLOUR = (1, 10, 10), (3, 8, 8)


class Net(nn.Module):
    """A small random net; its margins are such that some examples fall and some do not."""

    def __init__(self, shape: tuple[int, int, int], classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        pixels = math.prod(shape)
        self.first = nn.Parameter(torch.randn((pixels, 24), generator=generator) / pixels**0.5)
        self.second = nn.Parameter(torch.randn((24, classes), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first * 2) @ self.second


def some(model: nn.Module, shape: tuple[int, int, int], count: int = 64) -> Batch:
    """Give images with black, white and grey pixels, labelled as the model sees them."""
    noise = torch.rand((count, *shape), generator=torch.Generator().manual_seed(1))
    images = (noise * 1.4 - 0.2).clamp(0.0, 1.0)
    with torch.no_grad():
        logits = model(images)
    return Batch(images, logits.argmax(dim=1), logits)


def keyed(count: int, seed: int = 0) -> KeyedDraws:
    return KeyedDraws(seed, np.arange(count))


def by_reference(model: nn.Module, batch: Batch, budget: SquareBudget, seed: int, restarts: int) -> Tensor:
    reference = pytest.importorskip("pyautoattack.square")
    attack = reference.SquareAttack(
        model,
        norm=budget.norm,
        n_queries=budget.queries,
        eps=budget.epsilon,
        p_init=0.8,
        n_restarts=restarts,
        seed=seed,
        resc_schedule=False,
    )
    with torch.random.fork_rng(), torch.no_grad():
        found: Tensor = attack.perturb(batch.images.clone(), batch.labels)
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("shape", "classes", "queries"),
    [(GREY, 10, 200), (GREY, 2, 60), (COLOUR, 3, 200), ((1, 8, 6), 3, 60), ((2, 10, 15), 10, 60)],
)
def test_with_its_stream_each_example_ends_as_in_autoattack(
    norm: Norm, shape: tuple[int, int, int], classes: int, queries: int
) -> None:
    model = Net(shape, classes)
    batch, budget = some(model, shape), SquareBudget(norm, EPSILON[norm], queries)
    wanted = by_reference(model, batch, budget, seed=5, restarts=1)
    found, fooled = square(Victim(model), batch, budget, StreamDraws(5), 1)
    with torch.no_grad():
        assert torch.equal(fooled, model(wanted).argmax(dim=1) != batch.labels)
    assert 0 < int(fooled.sum()) < len(batch)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_go_on_in_the_stream_with_those_who_stand(norm: Norm) -> None:
    model = Net(GREY, 3)
    batch, budget = some(model, GREY), SquareBudget(norm, EPSILON[norm], 30)
    wanted = by_reference(model, batch, budget, seed=2, restarts=3)
    found, fooled = square(Victim(model), batch, budget, StreamDraws(2), 3)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
    _, once = square(Victim(model), batch, budget, StreamDraws(2), 1)
    assert int(once.sum()) < int(fooled.sum())
    assert bool(fooled[once].all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [GREY, COLOUR, (1, 4, 7), (2, 3, 3), (1, 12, 5), (1, 1, 1), (1, 14, 24)])
def test_what_is_found_fools_and_lies_in_ball_and_box(norm: Norm, shape: tuple[int, int, int]) -> None:
    model = Net(shape, 3)
    batch, budget = some(model, shape), SquareBudget(norm, 2 * EPSILON[norm], 40)
    for draws in (keyed(len(batch)), StreamDraws(0)):
        found, fooled = square(Victim(model), batch, budget, draws, 1)
        with torch.no_grad():
            assert torch.equal(fooled, model(found).argmax(dim=1) != batch.labels)
        assert bool(fooled.any())
        assert torch.equal(found[~fooled], batch.images[~fooled])
        delta = (found - batch.images).flatten(1)
        order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
        assert float(torch.linalg.vector_norm(delta, ord=order, dim=1).max()) <= budget.epsilon * (1 + 1e-5)
        assert -1e-6 < float(found.min()) <= float(found.max()) < 1 + 1e-6


class Watched(nn.Module):
    """Keeps what it is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        logits: Tensor = self.model(x)
        return logits


@pytest.mark.parametrize("norm", NORMS)
def test_keyed_draws_make_an_example_independent_of_its_batch(norm: Norm) -> None:
    model = Net(COLOUR, 3).double()
    batch, budget = some(model.float(), COLOUR), SquareBudget(norm, EPSILON[norm], 70)
    model = model.double()
    batch = Batch(batch.images.double(), batch.labels, batch.logits)
    whole, fooled = square(Victim(model), batch, budget, keyed(64), 2)
    assert 0 < int(fooled.sum()) < 64
    for rows in ([9], [40, 3, 17], list(range(20, 50))):
        draws = KeyedDraws(0, np.array(rows))
        part, fell = square(Victim(model), batch.select(torch.tensor(rows)), budget, draws, 2)
        assert torch.equal(fell, fooled[rows])
        assert torch.allclose(part, whole[rows], atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_keyed_windows_are_the_examples_own(norm: Norm) -> None:
    model = Watched(Net(GREY, 3))
    image = torch.full((1, *GREY), 0.5).expand(6, *GREY)
    batch = Batch(image, torch.zeros(6, dtype=torch.int64), torch.zeros(6, 3))
    square(Victim(AlwaysRight(model)), batch, SquareBudget(norm, 0.1, 1), keyed(6), 1)
    start, moved = model.seen
    for images in (start, moved):
        assert len({tuple(row.flatten().tolist()) for row in images}) == 6


class AlwaysRight(nn.Module):
    """Says class 0, but with a margin that follows the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return torch.cat((logits.abs().sum(dim=1, keepdim=True) + 1, logits[:, 1:] * 0), dim=1)


def published_p(query: int) -> float:
    """The released code's intervals for 10,000 queries, of which 5,000 are the first half."""
    steps = [
        (10, 1),
        (50, 2),
        (200, 4),
        (500, 8),
        (1000, 16),
        (2000, 32),
        (4000, 64),
        (6000, 128),
        (8000, 256),
    ]
    return next((0.8 / divisor for last, divisor in steps if query <= last), 0.8 / 512)


def test_p_falls_as_published() -> None:
    assert [share_of_pixels(query) for query in range(10_001)] == [published_p(q) for q in range(10_001)]
    reference = pytest.importorskip("pyautoattack.square").SquareAttack(
        None, n_queries=5000, resc_schedule=False
    )
    assert all(share_of_pixels(query) == reference.p_selection(query) for query in range(10_001))


def test_windows_shrink_with_p() -> None:
    changed = []
    model = Watched(AlwaysRight(Net((1, 28, 28), 3)))
    batch = some(model, (1, 28, 28), 1)
    state = module._begin(batch, torch.arange(1), moves := linf_moves(0.1))
    for query in (0, 11, 51, 201, 501, 1001, 2001, 4001):
        plan = moves.plan(state, range(query, query + 1))
        _, x = moves.change(state, plan, moves.side(query), 0)
        at = (x != state.best).squeeze().nonzero()
        changed.append(int((at.amax(dim=0) - at.amin(dim=0)).max()) + 1 if len(at) else 0)
    sides = [round(math.sqrt(0.8 / 2**halvings * 784)) for halvings in range(8)]
    assert [moves.side(query) for query in (0, 11, 51, 201, 501, 1001, 2001, 4001)] == sides
    assert all(seen <= side for seen, side in zip(changed, sides, strict=True))
    assert changed[0] >= 20


def linf_moves(epsilon: float) -> module._Moves:
    return module._moves(SquareBudget("Linf", epsilon, 5000), torch.Size((1, 1, 28, 28)), keyed(1))


@pytest.mark.parametrize("norm", NORMS)
def test_a_query_passes_each_example_that_stands_once(norm: Norm) -> None:
    model = Watched(Net(GREY, 3))
    batch = some(model, GREY)
    model.seen.clear()
    victim = Victim(model)
    _, fooled = square(victim, batch, SquareBudget(norm, EPSILON[norm], 100), keyed(64), 1)
    sizes = [len(x) for x in model.seen]
    assert victim.cost.forward == sum(sizes)
    assert victim.cost.gradient == 0
    assert len(sizes) == 101
    assert sizes[0] == 64
    if norm != "Linf":
        assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))
        assert sizes[-1] < 64 - int(fooled.sum()) + 3


def test_an_image_that_a_linf_window_leaves_as_it_is_costs_no_pass() -> None:
    model = Watched(AlwaysRight(Net(GREY, 3)))
    batch = some(model.model, GREY, 1)
    model.seen.clear()
    square(Victim(model), batch, SquareBudget("Linf", 0.1, 400), StreamDraws(0), 1)
    assert 150 < len(model.seen) < 380
    reference = Watched(model.model)
    by_reference(reference, batch, SquareBudget("Linf", 0.1, 400), 0, 1)
    # AutoAttack asks about every one: before and after the search, at its start and in each query.
    assert len(reference.seen) == 403
    asked, best, least = [], None, math.inf
    for x in reference.seen[1:-1]:
        if best is None or not torch.equal(x, best):
            asked.append(x)
        with torch.no_grad():
            loss = float(module._margin(model.model(x), batch.labels))
        best, least = (x, loss) if loss < least else (best, least)
    assert torch.equal(torch.cat(asked), torch.cat(model.seen))


@pytest.mark.parametrize("norm", NORMS)
def test_the_search_ends_with_the_last_example(norm: Norm) -> None:
    model = Net(GREY, 3)
    batch = some(model, GREY)
    wide = SquareBudget(norm, 100 * EPSILON[norm], 1000)
    victim = Victim(model)
    _, fooled = square(victim, batch, wide, keyed(64), 4)
    assert bool(fooled.all())
    assert victim.cost.forward < 64 * 40
    empty = batch.select(torch.zeros(0, dtype=torch.int64))
    found, none = square(victim, empty, wide, keyed(0), 2)
    assert found.shape == (0, *GREY)
    assert none.shape == (0,)


@pytest.mark.parametrize("norm", NORMS)
def test_margins_only_fall(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(GREY, 3)
    states: list[module._State] = []
    begin = module._begin

    def watched(batch: Batch, rows: Tensor, moves: module._Moves) -> module._State:
        states.append(begin(batch, rows, moves))
        return states[-1]

    monkeypatch.setattr(module, "_begin", watched)
    batch = some(model, GREY)
    lows = []
    for queries in (0, 20, 100):
        square(Victim(model), batch, SquareBudget(norm, 0.3 * EPSILON[norm], queries), keyed(64), 1)
        state = states[-1]
        with torch.no_grad():
            assert torch.allclose(module._margin(model(state.best), state.labels), state.loss, atol=1e-6)
        lows.append(dict(zip(state.rows.tolist(), state.loss.tolist(), strict=True)))
    for earlier, later in itertools.pairwise(lows):
        assert all(later[row] <= earlier[row] for row in later)
        assert sum(later.values()) < sum(earlier[row] for row in later)


class Drifted(nn.Module):
    """A search copy that thinks class 1 likelier than it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 1.5 * nn.functional.one_hot(torch.ones(len(x), dtype=torch.int64), logits.shape[1])


@pytest.mark.parametrize("norm", NORMS)
def test_what_the_search_copy_alone_gets_wrong_goes_on(norm: Norm) -> None:
    model = Net(GREY, 3)
    batch, budget = some(model, GREY), SquareBudget(norm, EPSILON[norm], 100)
    found, fooled = square(Victim(model, search=Drifted(model)), batch, budget, keyed(64), 1)
    with torch.no_grad():
        assert torch.equal(fooled, model(found).argmax(dim=1) != batch.labels)
        wrong_at_once = Drifted(model)(batch.images).argmax(dim=1) != batch.labels
    assert bool(wrong_at_once.any())
    assert bool(fooled[wrong_at_once].any())
    assert not bool(fooled.all())


class Tie(nn.Module):
    """Two classes that tie wherever the image has changed, until it has changed often."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return torch.tensor([[1.0, 1.0 if self.asked < 5 else 2.0]]).expand(len(x), 2)


@pytest.mark.parametrize(("label", "asked"), [(0, 5), (1, 1)])
def test_a_tie_falls_when_argmax_names_another_class(label: int, asked: int) -> None:
    batch = Batch(torch.full((1, *GREY), 0.5), torch.tensor([label]), torch.zeros(1, 2))
    model = Tie()
    _, fooled = square(Victim(model), batch, SquareBudget("Linf", 0.1, 50), keyed(1), 1)
    assert fooled.tolist() == [True]
    assert model.asked == asked


class Broken(nn.Module):
    """Gives NaN once the image changes much."""

    def forward(self, x: Tensor) -> Tensor:
        far = (x - 0.5).flatten(1).abs().sum(dim=1)
        return torch.stack((far + 5, (0.2 - far).sqrt()), dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_of_nan_is_refused(norm: Norm) -> None:
    batch = Batch(torch.full((1, *GREY), 0.5), torch.tensor([0]), torch.zeros(1, 2))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        square(Victim(Broken()), batch, SquareBudget(norm, EPSILON[norm] * 2, 50), keyed(1), 1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 8, 25])
def test_a_pattern_is_a_hill_and_a_dale_of_norm_one(order: int, side: int) -> None:
    upright, turned = module._patterns(side, order, torch.device("cpu")).view(2, side, side)
    assert torch.equal(upright.T, turned)
    assert float(torch.linalg.vector_norm(upright, ord=order)) == pytest.approx(1.0, abs=1e-5)
    assert bool((upright[: side // 2] > 0).all())
    assert bool((upright[side // 2 :] < 0).all())
    # Equation 2 at the dale's middle and at its rim: the sum from the ring outward.
    height = side - side // 2
    rings = [1 / (ring + 1) ** (4 // order) for ring in range(max(height, side) // 2 + 1)]
    dale = upright[side // 2 :]
    far = max(height // 2, side // 2)
    assert float(dale[0, 0] / dale[height // 2, side // 2]) == pytest.approx(
        sum(rings[far:]) / sum(rings), rel=1e-4
    )
