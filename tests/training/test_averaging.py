"""The running average of weights."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from covsev.training.averaging import WeightAverage


def _at(iteration):
    return SimpleNamespace(state=SimpleNamespace(iteration=iteration))


@pytest.mark.parametrize(("iteration", "expected"), [(1, 0.2), (6, 0.1), (11, 0.0 + 1e-9), (500, 1e-9)])
def test_the_momentum_falls_linearly_and_stays(iteration, expected):
    average = WeightAverage(nn.Linear(1, 1), momentum=1e-9, warmup_momentum=0.2, warmup_iterations=11)
    assert average.momentum_at(iteration) == pytest.approx(expected)


def test_weights_and_buffers_move_by_the_momentum_and_counters_are_copied():
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network, momentum=0.25, warmup_momentum=0.25)
    with torch.no_grad():
        network.weight.fill_(5.0)
        network.running_mean.fill_(8.0)
        network.num_batches_tracked.fill_(3)
    average(_at(1))
    torch.testing.assert_close(average.ema_model.weight, torch.full((2,), 2.0))
    torch.testing.assert_close(average.ema_model.running_mean, torch.full((2,), 2.0))
    assert average.ema_model.num_batches_tracked == 3
    assert not average.ema_model.training


def test_the_network_itself_is_left_alone():
    network = nn.Linear(3, 2)
    before = copy.deepcopy(network.state_dict())
    average = WeightAverage(network)
    average(_at(1))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize("name", ["momentum", "warmup_momentum"])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_momentum_outside_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \(0, 1\]"):
        WeightAverage(nn.Linear(1, 1), **{name: value})
