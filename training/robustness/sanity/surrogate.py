"""A surrogate: a small network that learns a model from its answers alone.

Papernot et al., "Practical black-box attacks against machine learning" (2017), section 4. In place of their
augmentation along the surrogate's Jacobian, half of each batch is moved at random inside the ball: what is
asked there tells how the model decides where the attack will search.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.attacks.draws import KeyedDraws
from training.attacks.norms import keyed_start
from training.config import SmallCnn
from training.models.classifier import build_classifier
from training.randomness import derive_seed, permutation
from training.robustness.sanity.inspection import Inspection
from training.robustness.subject import as_rows, batches, images_at
from training.validation import LabelledImages

_BATCH = 64
_LEARNING_RATE = 1e-3


def train_surrogate(inspection: Inspection, train: LabelledImages) -> nn.Module:
    """Teach a small network the model's own probabilities on training images, drawn by key."""
    height, width = train.images.shape[2:]
    surrogate = build_classifier(
        SmallCnn(name="small_cnn"),
        shape=(height, width, train.images.shape[1]),
        classes=inspection.classes,
        normalisation=None,
        seed=derive_seed(inspection.seed, "surrogate"),
    ).to(inspection.device)
    drawn = permutation(derive_seed(inspection.seed, "surrogate images"), len(train))
    rows = torch.from_numpy(drawn[: inspection.config.surrogate_examples])
    optimiser = torch.optim.Adam(surrogate.parameters(), lr=_LEARNING_RATE)
    surrogate.train()
    for epoch in range(inspection.config.surrogate_epochs):
        order = permutation(derive_seed(inspection.seed, "surrogate order", epoch), len(rows))
        for at in batches(rows[torch.from_numpy(order)], _BATCH):
            _learn(surrogate, optimiser, *_ask(inspection, train, at, epoch))
    return surrogate


def _ask(inspection: Inspection, train: LabelledImages, at: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    """Return images, shape (b, c, h, w), every other one moved, and the model's probabilities for them."""
    x, _ = images_at(train, at, inspection.device)
    threat = inspection.threat_model
    draws = KeyedDraws(derive_seed(inspection.seed, "surrogate moves", epoch), as_rows(at))
    moved = keyed_start(x, torch.arange(len(at)), threat.epsilon, threat.norm, draws)
    x[::2] = moved[::2]
    return x, F.softmax(inspection.logits(inspection.model, x), dim=1)


def _learn(surrogate: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, answers: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(F.cross_entropy(surrogate(x), answers))
    optimiser.step()
