"""Batches go through a network in their order, as many at a time as it can be run."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from covsev.inference.network import SliceNetwork
from covsev.inference.slices import SlicePreprocessing


class _Meeting:
    """A runner that waits until as many calls as it allows are in it."""

    def __init__(self, at_a_time):
        self.at_a_time = at_a_time
        self.barrier = threading.Barrier(at_a_time)

    def __call__(self, images):
        self.barrier.wait(timeout=30)
        return images + 1


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_as_many_batches_as_the_runner_allows_are_in_work_at_a_time(at_a_time):
    network = SliceNetwork(_Meeting(at_a_time), SlicePreprocessing((0, 1), (32, 32)), 1, "n", "0")
    batches = [np.full((1, 1, 2, 2), number, np.float32) for number in range(6)]
    answers = list(network.over(network.logits, batches))
    assert [float(answer[0, 0, 0, 0]) for answer in answers] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_an_error_in_one_batch_comes_out(at_a_time):
    network = SliceNetwork(_Meeting(at_a_time), SlicePreprocessing((0, 1), (32, 32)), 1, "n", "0")

    def fail(number):
        raise OverflowError(number)

    with pytest.raises(OverflowError):
        list(network.over(fail, range(4)))


def test_channels_are_joined():
    seen = []

    class Runner:
        at_a_time = 1

        def __call__(self, images):
            seen.append(images.shape)
            return images

    network = SliceNetwork(Runner(), SlicePreprocessing((0, 1), (32, 32)), 1, "n", "0")
    image, prior = np.zeros((2, 1, 4, 4), np.float32), np.ones((2, 1, 4, 4), np.float32)
    assert network.logits(image) is image
    np.testing.assert_array_equal(network.logits(image, prior)[:, 1], prior[:, 0])
    assert seen == [(2, 1, 4, 4), (2, 2, 4, 4)]
