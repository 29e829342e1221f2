"""Models and images that an evaluation cannot take are refused in one line; others pass unharmed."""

import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import Normalisation, SmallCnn, SmallResnet
from training.errors import DataError, TrainingError
from training.models.classifier import Classifier, build_classifier
from training.robustness.contract import check_contract, check_images

CLASSES = 10
SHAPE = (8, 8, 1)


class Around(nn.Module):
    """A network whose forward is given; it holds the inner network and a buffer."""

    calls: Tensor

    def __init__(self, forward: Callable[["Around", Tensor], object], channels: int = 1) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, CLASSES))
        self.batch_norm = nn.BatchNorm2d(1)
        self.register_buffer("calls", torch.zeros(()))
        self.generator = torch.Generator().manual_seed(0)
        self._given = forward

    def forward(self, x: Tensor) -> object:
        return self._given(self, x)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(name="images")
def _images() -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def refusal(model: nn.Module, images: Tensor, *, randomised: bool = False) -> str:
    with pytest.raises(TrainingError) as caught:
        check_contract(model, images, CLASSES, randomised=randomised)
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith("the model ")
    return line


# --- what passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [SmallCnn(name="small_cnn", width=4), SmallResnet(width=4)])
@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_our_own_models_pass_and_stay_as_they_were(
    architecture: SmallCnn | SmallResnet, count: int, images: Tensor
) -> None:
    normalisation = Normalisation(mean=(0.3,), std=(0.2,))
    model = build_classifier(
        architecture, shape=SHAPE, classes=CLASSES, normalisation=normalisation, seed=0
    ).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels = images.repeat(2, 1, 1, 1)[:count]
    given = pixels.clone()
    check_contract(model, pixels, CLASSES, randomised=False)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(given, pixels)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_random_generator_is_moved(images: Tensor) -> None:
    model = Around(lambda self, x: self.inner(x))
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    check_contract(model, images, CLASSES, randomised=False)
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


@pytest.mark.parametrize("precision", ["bfloat16", "inside"])
def test_low_precision_is_not_taken_for_a_fault(precision: str, images: Tensor) -> None:
    network = SmallResnet(width=8)
    inner = build_classifier(network, shape=SHAPE, classes=CLASSES, normalisation=None, seed=0)
    inner.bfloat16().eval()
    model = Around(
        lambda _, x: inner(x.bfloat16()) if precision == "bfloat16" else inner(x.bfloat16()).float()
    )
    check_contract(model, images.repeat(2, 1, 1, 1), CLASSES, randomised=False)


def test_large_equal_offsets_are_not_taken_for_a_fault(images: Tensor) -> None:
    check_contract(Around(lambda self, x: self.inner(x) + 1000.0), images, CLASSES, randomised=False)


def test_log_probabilities_are_logits(images: Tensor) -> None:
    model = Around(lambda self, x: F.log_softmax(self.inner(x), dim=1))
    check_contract(model, images, CLASSES, randomised=False)


def test_a_random_model_passes_where_it_is_said_to_be_random(images: Tensor) -> None:
    model = Around(lambda self, x: self.inner(F.dropout(x)))
    check_contract(model, images, CLASSES, randomised=True)
    line = refusal(model, images)
    assert "gives other logits for the same images from call to call" in line
    assert "set evaluation.attacks=rand" in line


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda self, x: self.inner(x) * torch.nan, "returns NaN or infinity"),
        (lambda self, x: self.inner(x) / 0.0, "returns NaN or infinity"),
        (lambda self, x: self.inner(x).softmax(1), "returns probabilities"),
        (lambda self, x: self.inner(x).softmax(1).bfloat16(), "returns probabilities"),
        (lambda self, x: self.inner(x)[:, :7], "returns 7 logits, but the data have 10 classes"),
        (lambda self, x: self.inner(x)[1:], "returns 7 rows for 8 images"),
        (lambda self, x: self.inner(x)[..., None], "returns shape (8, 10, 1) for 8 images"),
        (lambda self, x: self.inner(x).argmax(1), "returns shape (8,) for 8 images"),
        (lambda self, x: self.inner(x).round().long(), "returns int64, not float logits"),
        (lambda self, x: (self.inner(x), x), "returns a tuple, not a tensor of logits"),
        (lambda self, x: self.inner(x).detach().numpy(), "returns a ndarray, not a tensor"),
        (lambda self, x: self.inner(x.sub_(0.5)), "changes its input images in place"),
        (lambda self, x: self.inner(x.detach()), "gives no gradient to its input"),
        (lambda self, x: self.inner(x[:, :1].sign().detach()) + 0 * self.inner[1].bias, "gives no gradient"),
        (lambda self, x: x @ self.calls, "cannot take images of shape (1, 8, 8): it raised RuntimeError"),
        (lambda self, x: self.inner(x - x.mean(0)), "other logits when the other images of its batch change"),
        (lambda self, x: self.inner(x) * len(x), "in a batch of 1 than in one of 8"),
        (lambda self, x: self.inner(x).squeeze(), "returns (10,) for a batch of 1"),
    ],
)
def test_a_broken_model_is_one_line(
    forward: Callable[[Around, Tensor], object], words: str, images: Tensor
) -> None:
    assert words in refusal(Around(forward), images)


def test_a_model_that_raises_is_told_by_its_first_line(images: Tensor) -> None:
    def forward(_: Around, __: Tensor) -> Tensor:
        msg = "the first line\nthe second line"
        raise ValueError(msg)

    line = refusal(Around(forward), images)
    assert "it raised ValueError: the first line; it must take float32" in line
    assert "second" not in line


def test_another_channel_count_is_named(images: Tensor) -> None:
    line = refusal(Around(lambda self, x: self.inner(x), channels=3), images)
    assert "wants 3 channels, but the images have 1" in line
    colour = images.expand(-1, 3, -1, -1)
    assert "wants 1 channels, but the images have 3" in refusal(Around(lambda self, x: self.inner(x)), colour)


def test_channels_last_is_named(images: Tensor) -> None:
    model = Around(
        lambda self, x: self.inner(x.reshape(-1, 8, 8, 1)) if x.shape[3] == 1 else self.inner(x[:, :, :0])
    )
    assert "wants channels last" in refusal(model, images)


def test_a_fixed_batch_is_named(images: Tensor) -> None:
    model = Around(lambda self, x: self.inner(x.reshape(2, 64)))
    assert "takes a batch of 2, but not of 8" in refusal(model, images)
    model = Around(lambda self, x: self.inner(x.reshape(8, 64)))
    assert "but on a batch of 1 raises RuntimeError" in refusal(model, images)


# --- state, neighbours, modes ---------------------------------------------------------------------


def _count(self: Around, x: Tensor) -> object:
    self.calls += 1
    return self.inner(x)


def _drift(self: Around, x: Tensor) -> object:
    self.generator.manual_seed(self.generator.seed() % 2**31)
    return self.inner(x) + torch.rand(CLASSES, generator=self.generator)


def test_state_that_changes_is_named(images: Tensor) -> None:
    assert "changes its state 'calls' when called in eval mode" in refusal(Around(_count), images)


@pytest.mark.parametrize("randomised", [True, False])
def test_drifting_outputs_are_refused_whatever_was_said(images: Tensor, *, randomised: bool) -> None:
    assert "remembers earlier calls" in refusal(Around(_drift), images, randomised=randomised)


def test_a_parameter_that_appears_is_state(images: Tensor) -> None:
    def forward(self: Around, x: Tensor) -> object:
        self.late = nn.Parameter(torch.zeros(1))
        return self.inner(x)

    assert "changes its state 'late'" in refusal(Around(forward), images)


class Stuck(nn.Module):
    """In train mode whatever it is told, as an export in train mode is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "Stuck":  # noqa: FBT001, FBT002 - torch's own signature
        self.training = mode
        return self

    def forward(self, x: Tensor) -> object:
        return self.network(x)


def exported(model: nn.Module, images: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        graph: nn.Module = program.module()
    return graph


def classifier() -> Classifier:
    return build_classifier(SmallResnet(width=4), shape=SHAPE, classes=CLASSES, normalisation=None, seed=0)


@pytest.mark.parametrize("randomised", [True, False])
def test_a_graph_exported_in_train_mode_is_refused(images: Tensor, *, randomised: bool) -> None:
    model = Stuck(exported(classifier().train(), images))
    line = refusal(model, images, randomised=randomised)
    assert "when the other images of its batch change, like BatchNorm in train mode" in line
    check_contract(Stuck(exported(classifier().eval(), images)), images, CLASSES, randomised=False)


def test_a_bare_graph_has_no_eval_mode(images: Tensor) -> None:
    assert "cannot be put in eval mode" in refusal(exported(classifier().eval(), images), images)


def test_a_later_image_that_looks_at_an_earlier_one_is_refused(images: Tensor) -> None:
    model = Around(lambda self, x: self.inner(x + 0.5 * x.cumsum(0)))
    assert "other logits when the other images" in refusal(model, images, randomised=True)


def test_without_images_nothing_can_be_checked(images: Tensor) -> None:
    assert "the test set is empty" in refusal(Around(lambda self, x: self.inner(x)), images[:0])


# --- images ---------------------------------------------------------------------------------------

PIXELS = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("images", [PIXELS, PIXELS.bfloat16(), PIXELS.double(), (PIXELS * 255).byte()])
@pytest.mark.parametrize("labels", [LABELS, LABELS.int(), LABELS.byte()])
def test_right_images_pass(images: Tensor, labels: Tensor) -> None:
    check_images(images, labels, 3)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (PIXELS * 255, LABELS, "divide 0-255 by 255"),
        (PIXELS - 0.5, LABELS, "float pixels must be in [0, 1], but image 0 goes from"),
        (PIXELS * torch.tensor([1, 1, torch.nan, 1]).view(-1, 1, 1, 1), LABELS, "image 2 goes from nan"),
        (PIXELS.long(), LABELS, "images are int64"),
        (PIXELS[:, 0], LABELS, "images have shape (4, 2, 2)"),
        (PIXELS[:0], LABELS[:0], "the test set is empty"),
        (PIXELS, None, "labels are missing"),
        (PIXELS, LABELS[:3], "4 images, but labels of shape (3,)"),
        (PIXELS, LABELS[:, None], "4 images, but labels of shape (4, 1)"),
        (PIXELS, LABELS.float(), "labels are float32"),
        (PIXELS, LABELS > 0, "labels are bool"),
        (PIXELS, LABELS + 1, "label 3 of image 2 is outside 0 to 2"),
        (PIXELS, LABELS - 1, "label -1 of image 0 is outside 0 to 2"),
    ],
)
def test_wrong_images_are_one_line(images: Tensor, labels: Tensor | None, words: str) -> None:
    with pytest.raises(DataError) as caught:
        check_images(images, labels, 3)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
