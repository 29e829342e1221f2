"""Restarts and targets: each attempt sees what still stands, and targets are ranked by the natural logits."""

import pytest
import torch
from torch import Tensor

from training.attacks.attempts import Attempt, in_turn, likeliest_targets
from training.attacks.victim import Batch


def batch_of(logits: Tensor, labels: Tensor) -> Batch:
    return Batch(torch.zeros((len(labels), 1, 2, 2)), labels, logits)


FIVE = batch_of(torch.eye(5), torch.arange(5))


def attempt(number: float, falls: set[int], seen: list[list[int]]) -> Attempt:
    """Break the examples at positions ``falls``, with images full of ``number``."""

    def make(left: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(left.tolist())
        fell = torch.tensor([position in falls for position in left.tolist()])
        return torch.full((len(left), 1, 2, 2), number), fell

    return make


def test_an_attempt_sees_what_the_earlier_ones_left() -> None:
    seen: list[list[int]] = []
    found, fooled = in_turn(
        FIVE, [attempt(1.0, {1, 3}, seen), attempt(2.0, {0, 3}, seen), attempt(3.0, set(), seen)]
    )
    assert seen == [[0, 1, 2, 3, 4], [0, 2, 4], [2, 4]]
    assert fooled.tolist() == [True, True, False, True, False]
    # What fooled is kept; of the others, the last that was tried.
    assert found[:, 0, 0, 0].tolist() == [2.0, 1.0, 3.0, 1.0, 3.0]


def test_once_none_stands_no_attempt_is_made() -> None:
    seen: list[list[int]] = []
    in_turn(FIVE, [attempt(1.0, {0, 1, 2, 3, 4}, seen), attempt(2.0, set(), seen)])
    assert len(seen) == 1


def test_without_attempts_or_examples_images_stay_as_they_are() -> None:
    found, fooled = in_turn(FIVE, [])
    assert torch.equal(found, FIVE.images)
    assert not bool(fooled.any())
    seen: list[list[int]] = []
    found, fooled = in_turn(FIVE.select(torch.tensor([], dtype=torch.int64)), [attempt(1.0, set(), seen)])
    assert not seen
    assert found.shape == (0, 1, 2, 2)
    assert fooled.shape == (0,)


def test_targets_are_the_likeliest_other_classes_in_order() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0], [-1.0, 0.0, -3.0, -2.0]])
    batch = batch_of(logits, torch.tensor([0, 1]))
    assert likeliest_targets(batch, 3).tolist() == [[2, 3, 1], [0, 3, 2]]
    assert likeliest_targets(batch, 1).tolist() == [[2], [0]]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_there_are_at_most_as_many_targets_as_other_classes(classes: int) -> None:
    logits = torch.randn((20, classes), generator=torch.Generator().manual_seed(0))
    batch = batch_of(logits, logits.argmax(dim=1))
    targets = likeliest_targets(batch, 9)
    assert targets.shape == (20, min(9, classes - 1))
    assert not bool((targets == batch.labels.unsqueeze(1)).any())


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 20])
def test_the_true_class_is_no_target_even_if_another_ties_with_it(classes: int) -> None:
    logits = torch.zeros((classes, classes))
    batch = batch_of(logits, torch.zeros(classes, dtype=torch.int64))
    assert torch.equal(logits.argmax(dim=1), batch.labels)  # so each counts as right
    targets = likeliest_targets(batch, classes - 1)
    assert sorted(targets[0].tolist()) == list(range(1, classes))
