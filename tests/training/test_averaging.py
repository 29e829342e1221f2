"""The moving average against its recurrence, and what it does with statistics and counters."""

import pytest
import torch
from torch import nn

from training.averaging import WeightAverage


def model_at(value: float) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with torch.no_grad():
        for tensor in [*model.parameters(), model[1].running_mean]:
            assert isinstance(tensor, torch.Tensor)
            tensor.fill_(value)
    return model


def test_the_average_follows_its_recurrence_with_a_decay_that_rises() -> None:
    average = WeightAverage(model_at(1.0), 0.5)
    wanted = 1.0
    for step, value in enumerate([2.0, -1.0, 3.0, 0.5, 4.0, 1.0, 7.0, 2.0, 5.0, 1.0, 0.0]):
        average.update(model_at(value), step)
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value
        assert float(average.state["0.weight"]) == pytest.approx(wanted, rel=1e-5)
        assert float(average.state["1.running_mean"]) == pytest.approx(wanted, rel=1e-5)


def test_counters_are_copied() -> None:
    model = model_at(1.0)
    average = WeightAverage(model, 0.9)
    model(torch.zeros(2, 1, 2, 2))
    average.update(model, 0)
    assert int(average.state["1.num_batches_tracked"]) == 1


def test_the_average_is_no_view_of_the_model() -> None:
    model = model_at(1.0)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model[0].weight.fill_(5.0)  # type: ignore[operator]
    assert float(average.state["0.weight"]) == 1.0


def test_a_restored_average_keeps_its_memory_layout() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = WeightAverage(model, 0.9)
    stride = average.state["weight"].stride()
    saved = {name: value.contiguous() + 1 for name, value in average.state.items()}
    assert saved["weight"].stride() != stride
    average.restore(saved)
    assert average.state["weight"].stride() == stride
    assert torch.equal(average.state["weight"], saved["weight"])
