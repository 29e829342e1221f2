"""PGD: in the ball, honest flags, batches that do not matter."""

import numpy as np
import pytest
import torch

from training.attacks.draws import KeyedDraws
from training.attacks.gradients import PerExampleLoss, frozen
from training.attacks.losses import cross_entropy
from training.attacks.norms import Norm, keyed_start, size
from training.attacks.pgd import Ascent, ascend, pgd
from training.attacks.victim import Batch, Victim
from training.errors import TrainingError
from training.models.classifier import Classifier
from training.validation import LabelledImages

ASCENTS = [Ascent("Linf", 0.1, 0.02, 10), Ascent("L2", 0.5, 0.1, 10), Ascent("L1", 2.0, 0.4, 10)]
CPU = torch.device("cpu")


def batch_of(model: Classifier, data: LabelledImages, count: int) -> Batch:
    x, y = data.batch(0, count, CPU)
    with torch.no_grad():
        return Batch(x, y, model.eval()(x))


def keyed(count: int, seed: int = 0) -> KeyedDraws:
    return KeyedDraws(seed, np.arange(count))


@pytest.mark.parametrize("ascent", ASCENTS)
def test_images_stay_in_the_ball_and_flags_are_what_the_model_says(
    trained: Classifier, unseen: LabelledImages, ascent: Ascent
) -> None:
    batch = batch_of(trained, unseen, 96)
    with frozen(trained), torch.no_grad():
        found, fooled = pgd(Victim(trained), batch, ascent, keyed(96))
        assert torch.equal(fooled, trained(found).argmax(dim=1) != batch.labels)
    assert float(size(found - batch.images, ascent.norm).max()) <= ascent.epsilon * (1 + 1e-5)
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert 0 < int(fooled.sum()) < 96


@pytest.mark.parametrize("ascent", ASCENTS)
def test_an_outcome_does_not_depend_on_the_batch(
    trained: Classifier, unseen: LabelledImages, ascent: Ascent
) -> None:
    batch, rows = batch_of(trained, unseen, 24), np.arange(24) + 500
    with frozen(trained):
        whole, fooled = pgd(Victim(trained), batch, ascent, KeyedDraws(0, rows), restarts=2)
        for pick in ([5], [9, 3], list(range(12, 24))):
            part = batch.select(torch.tensor(pick))
            found, fell = pgd(Victim(trained), part, ascent, KeyedDraws(0, rows[pick]), restarts=2)
            assert torch.equal(fell, fooled[pick])
            assert torch.allclose(found, whole[pick], atol=1e-6)


def test_what_the_start_fools_is_left_at_the_start(trained: Classifier, unseen: LabelledImages) -> None:
    right = batch_of(trained, unseen, 8)
    batch = Batch(right.images, (right.labels + 1) % 10, right.logits)
    with frozen(trained):
        found, fooled = pgd(Victim(trained), batch, ASCENTS[0], keyed(8))
    assert bool(fooled.all())
    assert torch.equal(found, keyed_start(batch.images, torch.arange(8), 0.1, "Linf", keyed(8)))


def test_another_seed_starts_elsewhere(unseen: LabelledImages) -> None:
    x, _ = unseen.batch(0, 4, CPU)
    starts = [keyed_start(x, torch.arange(4), 0.1, "Linf", keyed(4, seed)) for seed in (0, 1)]
    assert not torch.equal(*starts)


def test_a_restart_starts_elsewhere_and_keeps_what_the_first_fooled(
    trained: Classifier, unseen: LabelledImages
) -> None:
    batch, weak = batch_of(trained, unseen, 96), Ascent("Linf", 0.1, 0.02, 1)
    with frozen(trained):
        once, first = pgd(Victim(trained), batch, weak, keyed(96))
        twice, both = pgd(Victim(trained), batch, weak, keyed(96), restarts=6)
    assert bool(both[first].all())
    assert torch.equal(twice[first], once[first])
    assert not torch.equal(twice[~first], once[~first])
    assert int(first.sum()) < int(both.sum())


def test_another_loss_is_climbed_for_the_examples_that_still_stand(
    trained: Classifier, unseen: LabelledImages
) -> None:
    batch = batch_of(trained, unseen, 24)
    target = torch.softmax(torch.randn((24, 10), generator=torch.Generator().manual_seed(0)), dim=1)
    ascent = Ascent("Linf", 0.02, 0.01, 3)
    with frozen(trained):
        found, _ = pgd(Victim(trained), batch, ascent, keyed(24), lambda at: cross_entropy(target[at]))
        start = keyed_start(batch.images, torch.arange(24), 0.02, "Linf", keyed(24))
        wanted = ascend(trained, batch.images, start, cross_entropy(target.double()), ascent)
        stands = trained(found).argmax(dim=1) == batch.labels
    assert int(stands.sum()) > 12
    assert torch.allclose(found[stands], wanted[stands], atol=1e-6)


def test_a_restart_asks_for_the_loss_of_those_that_stand_by_their_place_in_the_batch(
    trained: Classifier, unseen: LabelledImages
) -> None:
    batch, ascent = batch_of(trained, unseen, 96), Ascent("Linf", 0.1, 0.02, 4)
    asked: list[torch.Tensor] = []

    def loss_at(at: torch.Tensor) -> PerExampleLoss:
        asked.append(at)
        return cross_entropy(batch.labels[at])

    with frozen(trained):
        _, once = pgd(Victim(trained), batch, ascent, keyed(96))
        pgd(Victim(trained), batch, ascent, keyed(96), loss_at, restarts=2)
    assert torch.equal(asked[0], torch.arange(96))
    assert torch.equal(asked[ascent.steps], (~once).nonzero().squeeze(1))
    assert 0 < int(once.sum()) < 96


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_loss_climbs(trained: Classifier, unseen: LabelledImages, norm: Norm) -> None:
    x, y = unseen.batch(0, 32, CPU)
    loss = cross_entropy(y)
    scale = 5 if norm == "L1" else 1
    with frozen(trained), torch.no_grad():
        values = [
            float(loss(trained(ascend(trained, x, x, loss, ascent))).mean())
            for ascent in (Ascent(norm, 0.1 * scale, 0.02 * scale, steps) for steps in (0, 1, 3, 8))
        ]
    assert values == sorted(values)
    assert values[-1] > 1.5 * values[0]


def test_no_gradient_is_left_on_parameters(trained: Classifier, unseen: LabelledImages) -> None:
    batch = batch_of(trained, unseen, 8)
    with frozen(trained):
        pgd(Victim(trained), batch, ASCENTS[0], keyed(8))
    assert all(parameter.grad is None for parameter in trained.parameters())


class NanAwayFrom(torch.nn.Module):
    """Right on natural images; on others NaN, whose argmax is class 0."""

    def __init__(self, natural: torch.Tensor) -> None:
        super().__init__()
        self.natural = natural

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = (x - self.natural).abs().sum() + x.mean() * 0
        return torch.tensor([[1.0, 0.0]]) + spread * torch.where(spread > 0, torch.nan, 0.0)


def test_nan_on_perturbed_images_is_no_robustness() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    batch = Batch(x, torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        pgd(Victim(NanAwayFrom(x)), batch, ASCENTS[0], keyed(1))
