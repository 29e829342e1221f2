"""The Square attack: random search by square-shaped changes, without a gradient.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial
attack via random search" (2020): algorithm 1 with the sampling of algorithm 2 (Linf) and of algorithm 3
(L2); for L1 the variant of algorithm 3 in Croce and Hein, "Mind the box" (2021). As AutoAttack runs it: the
margin is the loss, p starts at 0.8 and halves after fixed numbers of queries.

Differences from AutoAttack's code. A window that leaves an image as it is costs no pass. An example whose
true class ties with another while argmax still names the true one goes on; there it stops and counts as
robust. Tiles of the L2 and L1 start that reach over the border are cut; there such a size (12, 14 or 24
pixels) stops the run, and so does one below 5 pixels, for which a tile here is one pixel.
"""

import functools
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.attacks.draws import Draws, StreamDraws
from training.attacks.l1 import l1_correction
from training.attacks.norms import Norm, project
from training.attacks.victim import Batch, Victim

_P_INIT = 0.8
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# AutoAttack's constants: added before dividing by a norm; the part of the L1 ball that is used.
_TINY = 1e-12
_INSIDE = 1.0 - 1e-6
_BLOCK = 64


@dataclass(frozen=True)
class SquareBudget:
    """The ball, ``epsilon`` in pixel units of [0, 1], and how many queries follow the start."""

    norm: Norm
    epsilon: float
    queries: int


def square(
    victim: Victim, batch: Batch, budget: SquareBudget, draws: Draws, restarts: int
) -> tuple[Tensor, Tensor]:
    """Search for images that the victim gets wrong; an example leaves the search once one is found.

    Args:
        victim: the attacked model.
        batch: examples that it gets right; any size of image, two classes or more.
        budget: the ball and the queries.
        draws: where windows and signs come from; :class:`StreamDraws` gives them in AutoAttack's order.
        restarts: how many searches, each on the examples that still stand.

    Returns:
        Images (n, c, h, w), the natural one where none was found, and whether it fools the model (n,); for
        L1 they are in the pixel range to within float32's rounding.

    Raises:
        TrainingError: a model that gives NaN or infinity on perturbed images.
    """
    found = batch.images.clone()
    fooled = torch.zeros(len(batch), dtype=torch.bool, device=found.device)
    moves = _moves(budget, found.shape, draws)
    for _ in range(restarts):
        standing = (~fooled).nonzero().squeeze(1)
        if not len(standing):
            break
        for rows, images in _search(victim, _begin(batch, standing, moves), moves):
            found[rows], fooled[rows] = images, True
    return found, fooled


def share_of_pixels(query: int) -> float:
    """Return p, the share of the pixels that a window takes at a query, counted from 0."""
    return float(_P_INIT / 2.0 ** bisect_left(_HALVED_AFTER, query))


class _Rows:
    """Tensors with examples first."""

    def keep(self, index: Tensor) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            setattr(self, field.name, getattr(self, field.name)[index])


@dataclass
class _State(_Rows):
    """One row for each example that still stands: its best image so far and the margin of that."""

    rows: Tensor
    natural: Tensor
    labels: Tensor
    best: Tensor
    loss: Tensor


@dataclass
class _Plan(_Rows):
    """What was drawn for some queries.

    ``corners`` (k, queries, windows) are positions in a flattened channel; ``signs`` (k, queries, c);
    ``turned`` (k, queries) is 1 where the pattern is transposed.
    """

    corners: Tensor
    signs: Tensor
    turned: Tensor


@dataclass(frozen=True)
class _Moves(ABC):
    """How a norm begins and moves; numbers are drawn for ``block`` queries at once."""

    budget: SquareBudget
    channels: int
    height: int
    width: int
    draws: Draws
    block: int

    @abstractmethod
    def start(self, natural: Tensor, rows: Tensor) -> Tensor:
        """Return the images before the first query."""

    @abstractmethod
    def side(self, query: int) -> int:
        """Return the side of the window at a query."""

    @abstractmethod
    def plan(self, state: _State, queries: range) -> _Plan:
        """Draw what the queries need."""

    @abstractmethod
    def change(self, state: _State, plan: _Plan, side: int, at: int) -> tuple[Tensor, Tensor]:
        """Return the positions of examples that the plan's query number ``at`` changes, and their images."""

    def pixels_to_side(self, query: int) -> int:
        """Return the side of a square that takes p of the pixels."""
        pixels = share_of_pixels(query) * (self.channels * self.height * self.width) / self.channels
        return round(math.sqrt(pixels))

    def corners(self, drawn: Tensor, queries: range) -> Tensor:
        """Turn numbers in [0, 1), shape (k, queries, 2 * windows), rows first, into corners."""
        sides = [self.side(query) for query in queries]
        spans = [[self.height - side, self.width - side] for side in sides]
        pairs = drawn.reshape(*drawn.shape[:2], drawn.shape[2] // 2, 2)
        cells = (pairs * torch.tensor(spans, device=drawn.device).unsqueeze(1)).long()
        return cells[..., 0] * self.width + cells[..., 1]

    def window(self, corners: Tensor, side: int) -> Tensor:
        """Return the positions (k, c, side * side) of windows with the corners (k,)."""
        cells = corners.unsqueeze(1) + _offsets(side, self.width, corners.device)
        return cells.unsqueeze(1).expand(-1, self.channels, -1)


def _moves(budget: SquareBudget, shape: torch.Size, draws: Draws) -> _Moves:
    _, channels, height, width = shape
    if budget.norm == "Linf":
        return _LinfMoves(budget, channels, height, width, draws, _BLOCK)
    # The stream has signs for those alone who stand at a query, so nothing can be drawn ahead of it.
    block = 1 if isinstance(draws, StreamDraws) else _BLOCK
    return _PatternMoves(budget, channels, height, width, draws, block)


class _LinfMoves(_Moves):
    """Algorithm 2: a window moves by 2 epsilon, so after clipping it lies on the ball's border."""

    def start(self, natural: Tensor, rows: Tensor) -> Tensor:
        """Return vertical stripes of one pixel."""
        stripes = _signs(self.draws.uniform(rows, self.channels, 1, self.width))
        return (natural + self.budget.epsilon * stripes).clamp_(0.0, 1.0)

    def side(self, query: int) -> int:
        return min(max(self.pixels_to_side(query), 1), self.height, self.width)

    def plan(self, state: _State, queries: range) -> _Plan:
        drawn = self.draws.uniform_together(state.rows, len(queries), 2 + self.channels)
        signs = _signs(drawn[:, :, 2:]).to(state.best.dtype)
        corners = self.corners(drawn[:, :, :2], queries)
        return _Plan(corners, signs, corners[:, :, 0])

    def change(self, state: _State, plan: _Plan, side: int, at: int) -> tuple[Tensor, Tensor]:
        window = self.window(plan.corners[:, at, 0], side)
        step = 2.0 * self.budget.epsilon * plan.signs[:, at].unsqueeze(2)
        old, natural = (image.flatten(2).gather(2, window) for image in (state.best, state.natural))
        new = project(old + step, natural, self.budget.epsilon, "Linf")
        # A window may lie on this border already: in grey images a tenth to a third of them do.
        moved = (new != old).flatten(1).any(dim=1).nonzero().squeeze(1)
        best = state.best[moved]
        return moved, best.flatten(2).scatter_(2, window[moved], new[moved]).view_as(best)


class _PatternMoves(_Moves):
    """Algorithm 3: the norm of two windows gathers in the first, as its old change and a pattern."""

    @property
    def order(self) -> int:
        return 2 if self.budget.norm == "L2" else 1

    def start(self, natural: Tensor, rows: Tensor) -> Tensor:
        """Return patterns tiled over the image, about five by five, as far as it reaches."""
        side = min(max(self.height // 5, 1), self.width)
        margin = max(self.height - 5 * side, 0) // 2
        delta = torch.zeros_like(natural)
        for top in range(margin, margin + self.height // side * side, side):
            for left in range(margin, margin + self.width // side * side, side):
                tile = delta[:, :, top : top + side, left : left + side]
                pattern = self._pattern(rows, side).view(len(rows), -1, side, side)
                tile.copy_(pattern[:, :, : tile.shape[2], : tile.shape[3]])
        return self._resized(natural, delta)

    def _pattern(self, rows: Tensor, side: int) -> Tensor:
        """Draw the pattern's direction and signs, shape (k, c, side * side)."""
        turned = (self.draws.uniform_together(rows, 1) > 0.5).long().squeeze(1)  # noqa: PLR2004 - one in two
        signs = _signs(self.draws.uniform(rows, self.channels, 1))
        return _patterns(side, self.order, rows.device)[turned].unsqueeze(1) * signs

    def side(self, query: int) -> int:
        side = max(self.pixels_to_side(query), 3)
        return min(side + (side % 2 == 0), self.height, self.width)

    def plan(self, state: _State, queries: range) -> _Plan:
        drawn = self.draws.uniform_together(state.rows, len(queries), 5)
        signs = _signs(self.draws.uniform(state.rows, len(queries), self.channels))
        turned = (drawn[:, :, 4] > 0.5).long()  # noqa: PLR2004 - one in two
        return _Plan(self.corners(drawn[:, :, :4], queries), signs.to(state.best.dtype), turned)

    def change(self, state: _State, plan: _Plan, side: int, at: int) -> tuple[Tensor, Tensor]:
        first, second = (self.window(plan.corners[:, at, number], side) for number in (0, 1))
        delta = (state.best - state.natural).flatten(2)
        unused = self.budget.epsilon**self.order - _norm(delta.flatten(1), self.order) ** self.order
        old = delta.gather(2, first)
        rest = delta.scatter(2, second, 0.0).scatter_(2, first, 0.0)
        freed = _norm(delta - rest, self.order) ** self.order
        pattern = _patterns(side, self.order, delta.device)[plan.turned[:, at]].unsqueeze(1)
        new = pattern * plan.signs[:, at].unsqueeze(2) + old / (_norm(old, self.order) + _TINY)
        wanted = (unused.clamp_(min=0.0).unsqueeze(2) / self.channels + freed) ** (1 / self.order)
        new = new / (_norm(new, self.order) + _TINY) * wanted
        # AutoAttack's L1 gives each channel what all of them may have together; the projection mends it.
        new = new * self.channels if self.order == 1 else new
        everyone = torch.arange(len(rest), device=rest.device)
        return everyone, self._resized(state.natural, rest.scatter_(2, first, new))

    def _resized(self, natural: Tensor, delta: Tensor) -> Tensor:
        """Return images whose changes have norm epsilon, in L1 at most: the nearest in ball and box."""
        if self.order == 1:
            delta = delta.view_as(natural)
            return natural + delta + l1_correction(natural, delta, self.budget.epsilon * _INSIDE)
        delta = delta.flatten(1)
        resized = delta / (_norm(delta, 2) + _TINY) * self.budget.epsilon
        return (natural + resized.view_as(natural)).clamp_(0.0, 1.0)


def _begin(batch: Batch, rows: Tensor, moves: _Moves) -> _State:
    chosen = batch.select(rows)
    loss = torch.full((len(rows),), math.inf, device=rows.device)
    return _State(rows, chosen.images, chosen.labels, moves.start(chosen.images, rows), loss)


def _search(victim: Victim, state: _State, moves: _Moves) -> Iterator[tuple[Tensor, Tensor]]:
    """Run to the end of the queries; give who falls, and by which images, at once."""
    everyone = torch.arange(len(state.rows), device=state.rows.device)
    yield from _look(victim, (everyone, state.best), state)
    for first in range(0, moves.budget.queries, moves.block):
        queries = range(first, min(first + moves.block, moves.budget.queries))
        plan = moves.plan(state, queries)
        for at, query in enumerate(queries):
            if not len(state.rows):
                return
            yield from _look(victim, moves.change(state, plan, moves.side(query), at), state, plan)


def _look(
    victim: Victim, changed: tuple[Tensor, Tensor], state: _State, *tables: _Rows
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keep images of a smaller margin; give those that fool, and drop their examples from the tables."""
    at, x = changed
    if not len(at):
        return
    labels = state.labels[at]
    logits = victim.logits(x)
    margin = _margin(logits, labels)
    better = (margin < state.loss[at]).nonzero().squeeze(1)
    if len(better):
        improved = at[better]
        state.best[improved], state.loss[improved] = x[better], margin[better]
    fell = victim.fooled(x, labels, logits)
    if bool(fell.any()):
        yield state.rows[at[fell]], x[fell]
        _drop(at[fell], state, *tables)


def _drop(fallen: Tensor, state: _State, *tables: _Rows) -> None:
    stands = torch.ones_like(state.rows, dtype=torch.bool).index_fill_(0, fallen, value=False)
    index = stands.nonzero().squeeze(1)
    for table in (state, *tables):
        table.keep(index)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the true logit less the greatest other one, shape (n,): below 0 the model is wrong."""
    true = labels.unsqueeze(1)
    others = logits.scatter(1, true, -math.inf).amax(dim=1)
    return logits.gather(1, true).squeeze(1) - others


def _signs(drawn: Tensor) -> Tensor:
    """Turn numbers in [0, 1) into -1 and 1; a half gives 0, as in AutoAttack."""
    return (2.0 * drawn - 1.0).sign()


@functools.lru_cache(maxsize=64)
def _offsets(side: int, width: int, device: torch.device) -> Tensor:
    """Return the positions of a window's pixels less that of its corner, shape (side * side,)."""
    along = torch.arange(side, device=device)
    return (along.unsqueeze(1) * width + along).flatten()


def _norm(values: Tensor, order: int) -> Tensor:
    """Return the L1 or L2 norm over the last dimension, which is kept."""
    # Summed as AutoAttack does: where nothing but rounding is left of a window's change, the L1 search
    # makes it large again, so that other rounding would lead elsewhere.
    if order == 1:
        return values.abs().sum(dim=-1, keepdim=True)
    return values.square().sum(dim=-1, keepdim=True).sqrt_()


@functools.lru_cache(maxsize=64)
def _patterns(side: int, order: int, device: torch.device) -> Tensor:
    """Return the pattern of norm 1 and its transpose, shape (2, side * side): a hill and a dale.

    Square Attack's equation 2 for L2; the L1 variant falls with the fourth power.
    """
    pattern = torch.cat((_hill(side // 2, side, order), -_hill(side - side // 2, side, order)))
    pattern = pattern / _norm(pattern.flatten(), order)
    return torch.stack((pattern, pattern.T)).flatten(1).to(device)


def _hill(height: int, width: int, order: int) -> Tensor:
    """Return nested squares about the middle, (height, width), of norm 1."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    rings = torch.maximum(rows.unsqueeze(1), columns)
    hill = torch.zeros(height, width)
    for ring in range(max(height, width) // 2 + 1):
        hill += (rings <= ring) / (ring + 1.0) ** (4 // order)
    return hill / _norm(hill.flatten(), order)
