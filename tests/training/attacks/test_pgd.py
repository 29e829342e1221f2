"""PGD: in the ball, honest flags, batches that do not matter."""

import numpy as np
import pytest
import torch

from training.attacks.gradients import frozen
from training.attacks.losses import cross_entropy
from training.attacks.norms import Norm
from training.attacks.pgd import Ascent, ascend, keyed_start, pgd
from training.errors import TrainingError
from training.models.classifier import Classifier
from training.validation import LabelledImages

ASCENTS = [Ascent("Linf", 0.1, 0.02, 10), Ascent("L2", 0.5, 0.1, 10)]
CPU = torch.device("cpu")


@pytest.mark.parametrize("ascent", ASCENTS)
def test_images_stay_in_the_ball_and_flags_are_what_the_model_says(
    trained: Classifier, unseen: LabelledImages, ascent: Ascent
) -> None:
    x, y = unseen.batch(0, 96, CPU)
    with frozen(trained), torch.no_grad():
        found, fooled = pgd(trained, x, y, np.arange(96), ascent, 0)
        assert torch.equal(fooled, trained(found).argmax(dim=1) != y)
    delta = (found - x).flatten(1)
    sizes = delta.abs().amax(dim=1) if ascent.norm == "Linf" else delta.norm(dim=1)
    assert float(sizes.max()) <= ascent.epsilon * (1 + 1e-5)
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert 0 < int(fooled.sum()) < 96


@pytest.mark.parametrize("ascent", ASCENTS)
def test_an_outcome_does_not_depend_on_the_batch(
    trained: Classifier, unseen: LabelledImages, ascent: Ascent
) -> None:
    x, y = unseen.batch(0, 24, CPU)
    rows = np.arange(24) + 500
    with frozen(trained):
        whole, fooled = pgd(trained, x, y, rows, ascent, 0)
        for pick in ([5], [9, 3], list(range(12, 24))):
            part, fell = pgd(trained, x[pick], y[pick], rows[pick], ascent, 0)
            assert torch.equal(fell, fooled[pick])
            assert torch.allclose(part, whole[pick], atol=1e-6)


def test_what_the_start_fools_is_left_at_the_start(trained: Classifier, unseen: LabelledImages) -> None:
    x, y = unseen.batch(0, 8, CPU)
    wrong = (y + 1) % 10
    with frozen(trained):
        found, fooled = pgd(trained, x, wrong, np.arange(8), ASCENTS[0], 0)
    assert bool(fooled.all())
    assert torch.equal(found, keyed_start(x, np.arange(8), ASCENTS[0], 0))


def test_another_seed_starts_elsewhere(unseen: LabelledImages) -> None:
    x, _ = unseen.batch(0, 4, CPU)
    starts = [keyed_start(x, np.arange(4), ASCENTS[0], seed) for seed in (0, 1)]
    assert not torch.equal(*starts)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_loss_climbs(trained: Classifier, unseen: LabelledImages, norm: Norm) -> None:
    x, y = unseen.batch(0, 32, CPU)
    loss = cross_entropy(y)
    with frozen(trained), torch.no_grad():
        values = [
            float(loss(trained(ascend(trained, x, x, loss, Ascent(norm, 0.1, 0.02, steps)))).mean())
            for steps in (0, 1, 3, 8)
        ]
    assert values == sorted(values)
    assert values[-1] > 1.5 * values[0]


def test_no_gradient_is_left_on_parameters(trained: Classifier, unseen: LabelledImages) -> None:
    x, y = unseen.batch(0, 8, CPU)
    with frozen(trained):
        pgd(trained, x, y, np.arange(8), ASCENTS[0], 0)
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
    model = NanAwayFrom(x)
    with pytest.raises(TrainingError, match="NaN or infinity"):
        pgd(model, x, torch.tensor([0]), np.arange(1), ASCENTS[0], 0)
