"""Classifiers: shapes, seeds, normalisation inside, and users' factories that go wrong."""

import pytest
import torch
from torch import nn

from training.config import (
    Architecture,
    Factory,
    Normalisation,
    PreactResnet18,
    SmallCnn,
    SmallResnet,
    WideResnet,
)
from training.errors import TrainingError
from training.models.classifier import Classifier, build_classifier
from training.models.residual import PreActivationBlock

BUILT_IN: list[Architecture] = [
    SmallCnn(name="small_cnn", width=4),
    SmallResnet(width=4),
    PreactResnet18(name="preact_resnet18", width=4),
    WideResnet(name="wide_resnet", depth=10, width=1),
]


def build(
    architecture: Architecture,
    shape: tuple[int, int, int] = (8, 8, 1),
    seed: int = 0,
    normalisation: Normalisation | None = None,
) -> Classifier:
    return build_classifier(architecture, shape=shape, classes=7, normalisation=normalisation, seed=seed)


def factory(name: str, **arguments: float) -> Factory:
    return Factory(name="factory", factory=name, arguments=arguments)


@pytest.mark.parametrize("architecture", BUILT_IN, ids=lambda section: section.name)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (9, 5, 3)])
def test_images_of_any_shape_become_logits(architecture: Architecture, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    model = build(architecture, shape)
    assert model(torch.rand(3, channels, height, width)).shape == (3, 7)


@pytest.mark.parametrize("architecture", BUILT_IN, ids=lambda section: section.name)
def test_the_same_seed_gives_the_same_weights(architecture: Architecture) -> None:
    first, second, third = (build(architecture, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_building_leaves_the_global_generator_alone(networks: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for architecture in (BUILT_IN[1], factory(f"{networks}:lazy")):
        build(architecture)
        assert torch.equal(torch.get_rng_state(), before)


def test_lazy_layers_are_drawn_from_the_seed_too(networks: str) -> None:
    first, second = (build(factory(f"{networks}:lazy"), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(first) == 2


def test_published_sizes_have_the_published_numbers_of_parameters() -> None:
    sections = (
        (PreactResnet18(name="preact_resnet18"), 11_172_170),  # with the last BatchNorm, as Rice et al. 2020
        (WideResnet(name="wide_resnet", depth=28, width=2), 1_467_610),
    )
    for section, wanted in sections:
        model = build_classifier(section, shape=(32, 32, 3), classes=10, normalisation=None, seed=0)
        assert sum(parameter.numel() for parameter in model.parameters()) == wanted


def test_the_depth_of_a_wide_network_is_its_number_of_layers() -> None:
    model = build(WideResnet(name="wide_resnet", depth=16, width=1))
    blocks = [module for module in model.modules() if isinstance(module, PreActivationBlock)]
    # Two convolutions a block, the stem, the head, and the two shortcuts that the published count leaves in.
    assert 2 * len(blocks) + 4 == 16


def test_a_residual_block_adds_its_input() -> None:
    block = PreActivationBlock(3, 3, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(block(x), x)


def test_normalisation_is_inside_the_model() -> None:
    normalisation = Normalisation(mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 2.0))
    model = build(BUILT_IN[0], (8, 8, 3), normalisation=normalisation)
    x = torch.rand(4, 3, 8, 8)
    by_hand = torch.stack([(x[:, 0] - 0.2) / 0.5, (x[:, 1] - 0.4) / 0.25, (x[:, 2] - 0.6) / 2.0], dim=1)
    assert torch.allclose(model(x), model.network(by_hand), atol=1e-6)
    assert not torch.allclose(model(x), model.network(x), atol=1e-3)


def test_without_normalisation_pixels_pass_through() -> None:
    model = build(BUILT_IN[0])
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), model.network(x))


def test_a_factory_may_take_pixels_itself(networks: str) -> None:
    section = Factory(name="factory", factory=f"{networks}:Tied", normalise=False)
    model = build(section, normalisation=Normalisation(mean=(0.5,), std=(0.5,)))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), model.network(x))


def test_arguments_reach_a_factory(networks: str) -> None:
    model = build(factory(f"{networks}:dropout", share=0.25))
    shares = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert shares == [0.25]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("no_such_module_anywhere:net", "PYTHONPATH"),
        ("{}:absent", "has no absent"),
        ("{}:raising", "raised KeyError: 'width'"),
        ("{}:not_a_module", "returned str"),
        ("{}:stumbling", "does not take 8x8 images with 1 channels: AssertionError"),
        ("{}:pair", "output is a tuple"),
        ("{}:wrong_width", r"shape \(2, 8\), not \(2, 7\)"),
    ],
)
def test_a_factory_that_goes_wrong_is_named_with_the_reason(networks: str, name: str, wanted: str) -> None:
    with pytest.raises(TrainingError, match=wanted):
        build(factory(name.format(networks)))


def test_a_network_that_memory_cannot_hold_is_refused() -> None:
    with pytest.raises(TrainingError, match="width=100000000000000 cannot be built"):
        build(SmallCnn(name="small_cnn", width=10**14))


def test_normalisation_for_other_channels_is_refused() -> None:
    with pytest.raises(TrainingError, match="does not take 8x8 images with 1 channels"):
        build(BUILT_IN[0], normalisation=Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))


def test_the_trial_pass_leaves_modes_and_statistics_alone(networks: str) -> None:
    model = build(factory(f"{networks}:Spaced"))
    assert model.training
    assert not model.network.get_submodule("norm").training
    plain = build(BUILT_IN[1])
    assert plain.training
    counters = [value for name, value in plain.state_dict().items() if name.endswith("tracked")]
    assert counters
    assert all(int(value) == 0 for value in counters)
