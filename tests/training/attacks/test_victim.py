"""The attacked model: what counts as fooled, what it costs, and averaged gradients."""

import pytest
import torch
from torch import Tensor, nn

from training.attacks.gradients import input_gradient
from training.attacks.losses import cross_entropy
from training.attacks.victim import Batch, Victim
from training.errors import TrainingError

LABELS = torch.tensor([0, 0, 0, 0])


class Fixed(nn.Module):
    """Give each image the class that its first pixel names; remember how many images came."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        named = x[:, 0, 0, 0].round().long()
        return nn.functional.one_hot(named, self.classes).float() + 0 * x.sum(dim=(1, 2, 3))[:, None]


class Noisy(nn.Module):
    """Add noise of its own to a linear net's logits: another at each pass."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.generator = torch.Generator().manual_seed(0)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        noise = self.scale * torch.randn((len(x), 3), generator=self.generator)
        logits: Tensor = self.head(x.flatten(1)) * (1 + noise)
        return logits


def images(*classes: int) -> Tensor:
    x = torch.zeros((len(classes), 1, 2, 2))
    x[:, 0, 0, 0] = torch.tensor(classes, dtype=torch.float32)
    return x


def some_images(count: int = 5) -> Tensor:
    return torch.rand((count, 1, 2, 2), generator=torch.Generator().manual_seed(1))


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_a_batch_is_taken_apart_by_positions_or_by_a_mask(index: Tensor) -> None:
    batch = Batch(images(0, 1, 2), torch.tensor([0, 1, 2]), torch.eye(3))
    part = batch.select(index)
    assert len(batch) == 3
    assert len(part) == 2
    assert torch.equal(part.images, batch.images[index])
    assert torch.equal(part.labels, batch.labels[index])
    assert torch.equal(part.logits, batch.logits[index])


# --- what counts as fooled ------------------------------------------------------------------------


def test_without_a_copy_the_logits_decide_and_no_pass_is_made() -> None:
    victim = Victim(Fixed())
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert victim.fooled(images(0, 0, 0, 0), LABELS, logits).tolist() == [False, True, False, True]
    assert victim.cost.forward == 0


class Gullible(nn.Module):
    """A copy that is wrong whenever it may be."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3) + 0 * x.sum(dim=(1, 2, 3))[:, None]


def test_what_fools_the_copy_counts_only_when_it_fools_the_model_too() -> None:
    model = Fixed()
    victim = Victim(model, search=Gullible())
    x = images(0, 1, 0, 2)
    assert victim.fooled(x, LABELS, victim.logits(x)).tolist() == [False, True, False, True]
    assert model.seen == [4]


def test_only_what_fools_the_copy_is_shown_to_the_model() -> None:
    model = Fixed()
    victim = Victim(model, search=Fixed())
    x = images(0, 1, 0, 2)
    assert victim.fooled(x, LABELS, victim.logits(x)).tolist() == [False, True, False, True]
    assert model.seen == [2]
    victim.fooled(x[:1], LABELS[:1], victim.logits(x[:1]))
    assert model.seen == [2]


def test_the_model_can_be_asked_by_itself() -> None:
    victim = Victim(Fixed(), search=Gullible())
    assert victim.fools_model(images(0, 1), LABELS[:2]).tolist() == [False, True]


# --- what it costs --------------------------------------------------------------------------------


def test_every_image_passed_is_counted_once() -> None:
    model, search = Fixed(), Fixed()
    victim = Victim(model, search=search)
    x = images(0, 1, 0, 2)
    victim.logits(x)
    victim.gradient(x, cross_entropy(LABELS))
    victim.fooled(x, LABELS, victim.logits(x))
    victim.fools_model(x[:3], LABELS[:3])
    assert victim.cost.forward == 4 + 4 + 2 + 3
    assert victim.cost.gradient == 4
    assert sum(model.seen) + sum(search.seen) == victim.cost.forward + victim.cost.gradient


def test_victims_that_average_share_the_cost() -> None:
    victim = Victim(Fixed())
    averaging = victim.averaging(5)
    averaging.gradient(images(0, 1), cross_entropy(LABELS[:2]))
    assert victim.cost.gradient == 10
    assert Victim(victim.model).cost.gradient == 0
    assert victim.passes == 1


def test_a_victim_apart_shares_nothing() -> None:
    victim = Victim(Fixed(), search=Gullible(), passes=2, hurried=True)
    other = victim.apart()
    other.logits(images(0, 1))
    assert (other.cost.forward, victim.cost.forward) == (2, 0)
    assert other.model is not victim.model
    assert other.search is not victim.search
    assert (other.passes, other.hurried, other.precise) == (2, True, None)


def test_an_attack_that_measures_distances_searches_the_precise_copy() -> None:
    quick, precise = Fixed(), Fixed()
    victim = Victim(Fixed(), search=quick, precise=precise, hurried=True)
    measuring = victim.measuring()
    measuring.logits(images(0, 1))
    assert (quick.seen, precise.seen) == ([], [2])
    assert measuring.hurried
    assert victim.cost.forward == 2
    assert Victim(Fixed(), search=quick).measuring().search is None


# --- gradients ------------------------------------------------------------------------------------


def test_one_pass_is_the_plain_gradient_of_the_searched_model() -> None:
    torch.manual_seed(0)
    model, search = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2))
    x, loss = some_images(), cross_entropy(torch.tensor([0, 1, 2, 0, 1]))
    for found, wanted in zip(
        Victim(model, search).gradient(x, loss), input_gradient(search, x, loss), strict=True
    ):
        assert torch.equal(found, wanted)


def test_several_passes_give_the_mean_gradient_and_the_last_logits() -> None:
    torch.manual_seed(0)
    x, loss = some_images(), cross_entropy(torch.tensor([0, 1, 2, 0, 1]))
    model = Noisy()
    passes = [input_gradient(model, x, loss) for _ in range(4)]
    again = Noisy()
    again.load_state_dict(model.state_dict())
    gradient, logits, losses = Victim(again).averaging(4).gradient(x, loss)
    assert torch.allclose(gradient, torch.stack([found[0] for found in passes]).mean(dim=0))
    assert torch.equal(logits, passes[-1][1])
    assert torch.equal(losses, passes[-1][2])
    assert not torch.allclose(gradient, passes[-1][0], rtol=0.1)


def test_averaging_brings_the_gradient_nearer_to_its_expectation() -> None:
    torch.manual_seed(0)
    model = Noisy()
    x, loss = some_images(), cross_entropy(torch.tensor([0, 1, 2, 0, 1]))
    expected = Victim(model, passes=4000).gradient(x, loss)[0]
    once, often = (
        torch.stack(
            [Victim(model, passes=passes).gradient(x, loss)[0] - expected for _ in range(10)]
        ).square()
        for passes in (1, 20)
    )
    assert float(often.mean()) < float(once.mean()) / 10


# --- refusals -------------------------------------------------------------------------------------


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * torch.nan


def test_nan_is_refused_whoever_gives_it() -> None:
    x, labels = some_images(4), LABELS
    wrong = torch.tensor([[0.0, 1.0, 0.0]]).expand(4, -1)
    for ask in (
        lambda: Victim(Nan()).logits(x),
        lambda: Victim(Fixed(), search=Nan()).logits(x),
        lambda: Victim(Nan()).gradient(x, cross_entropy(labels)),
        lambda: Victim(Nan(), search=Fixed()).fooled(x, labels, wrong),
        lambda: Victim(Nan()).fools_model(x, labels),
    ):
        with pytest.raises(TrainingError, match="NaN or infinity"):
            ask()


def test_answers_want_no_gradient() -> None:
    victim = Victim(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    x = some_images()
    gradient, logits, losses = victim.gradient(x, cross_entropy(torch.tensor([0, 1, 2, 0, 1])))
    assert not any(given.requires_grad for given in (victim.logits(x), gradient, logits, losses, x))
