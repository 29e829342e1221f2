"""Accuracy on validation: plain counts, in batches that do not matter."""

import numpy as np
import torch

from training.attacks.draws import KeyedDraws
from training.attacks.gradients import frozen
from training.attacks.pgd import Ascent, pgd
from training.attacks.victim import Batch, Victim
from training.models.classifier import Classifier
from training.validation import LabelledImages, natural_accuracy, pgd_accuracy

CPU = torch.device("cpu")
ASCENT = Ascent("Linf", 0.08, 0.02, 4)
MOSTLY_NOISE = Ascent("Linf", 0.4, 0.01, 1)


def test_natural_accuracy_is_the_share_that_is_right(trained: Classifier, digits: LabelledImages) -> None:
    data = LabelledImages(digits.images[1200:1500], digits.labels[1200:1500])
    with torch.no_grad():
        right = trained.eval()(data.images.double() / 255).argmax(dim=1) == data.labels
    assert natural_accuracy(trained, data, CPU) == float(right.double().mean())
    assert 0.7 < natural_accuracy(trained, data, CPU) < 1.0


def test_pgd_accuracy_is_the_share_that_pgd_does_not_fool(
    trained: Classifier, digits: LabelledImages
) -> None:
    data = LabelledImages(digits.images[1200:1500], digits.labels[1200:1500])  # more than one batch
    x, y = data.batch(0, 300, CPU)
    with frozen(trained):
        batch = Batch(x, y, trained(x))
        for ascent in (ASCENT, MOSTLY_NOISE):
            _, fooled = pgd(Victim(trained), batch, ascent, KeyedDraws(5, np.arange(300)))
            found = pgd_accuracy(trained, data, ascent, 5, CPU)
            assert found == int((~fooled).sum()) / 300
            assert 0.0 < found < natural_accuracy(trained, data, CPU)


def test_validation_leaves_the_model_as_it_was(trained: Classifier, unseen: LabelledImages) -> None:
    trained.train()
    pgd_accuracy(trained, unseen, ASCENT, 0, CPU)
    natural_accuracy(trained, unseen, CPU)
    assert all(module.training for module in trained.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in trained.parameters())


def test_a_batch_is_pixels_from_0_to_1_and_labels(unseen: LabelledImages) -> None:
    x, y = unseen.batch(90, 10, CPU)
    assert x.shape == (6, 1, 8, 8)
    assert x.dtype == torch.float32
    assert torch.equal(x, unseen.images[90:].float() / 255)
    assert torch.equal(y, unseen.labels[90:])
    assert len(unseen) == 96
