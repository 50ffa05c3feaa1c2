"""Thin slices that the network sees together, as their mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_networks import consolidating

from covsev.inference.slabs import Slabs
from covsev.inference.slices import SlicePreprocessing
from covsev.inference.torch_runner import TorchRunner
from covsev.lesions.volume import segment_lesions
from covsev.phantom import make_phantom


@pytest.mark.parametrize(
    ("slab_mm", "spacing_mm", "slices"),
    [(0, 1.0, 1), (2.5, 5.0, 1), (2.5, 2.5, 1), (2.5, 1.5, 1), (2.5, 1.25, 2), (2.5, 1.0, 2), (2.5, 0.625, 4)],
)
def test_a_slab_is_not_thicker_than_wanted(slab_mm, spacing_mm, slices):
    assert SlicePreprocessing((-1000, 0), (32, 32), 8.0, slab_mm).slices_per_slab(spacing_mm) == slices


@pytest.mark.parametrize(("slices", "size"), [(1, 1), (5, 1), (6, 2), (7, 3), (2, 4)])
def test_slabs_hold_every_slice_once_and_give_a_ramp_back(slices, size):
    slabs = Slabs(slices, size)
    ramp = np.arange(slices, dtype=np.float32)[:, None, None] * np.ones((2, 3), np.float32)
    every = slabs.of(np.arange(slices))
    means = slabs.mean(ramp, every, (-1100, 250))
    assert [float(mean[0, 0]) for mean in means] == [
        pytest.approx(np.arange(slices)[slab * size : (slab + 1) * size].mean()) for slab in every
    ]
    found = slabs.at_slices(means)
    assert found.shape == ramp.shape
    expected = np.clip(ramp, means[0, 0, 0], means[-1, 0, 0])  # before the first middle and after the last it stays
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_slab_of_one_slice_is_that_slice():
    stack = np.arange(24, dtype=np.int16).reshape(4, 2, 3)
    found = Slabs(4, 1).mean(stack, np.array([1, 3]), (-1100, 250))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, stack[[1, 3]])


def test_padding_in_one_slice_does_not_blacken_its_neighbour():
    stack = np.array([-3024, -200, 3000, 50], np.int16)[:, None, None]
    found = Slabs(4, 2).mean(stack, np.array([0, 1]), (-1100, 250))
    assert found.dtype == np.float32
    assert found.ravel().tolist() == [(-1100 - 200) / 2, (250 + 50) / 2]


class Counting(torch.nn.Module):
    """Counts the slices that a network gets."""

    def __init__(self, network):
        super().__init__()
        self.network, self.slices = network, 0

    def forward(self, image):
        self.slices += len(image)
        return self.network(image)


def test_thin_slices_are_seen_as_slabs_and_give_nearly_the_same_mask(bright_model):
    phantom = make_phantom((4.0, 4.0, 1.25))
    found, counted = [], []
    for slab_mm in (0, 2.5):
        network = Counting(bright_model.network)
        preprocessing = dataclasses.replace(bright_model.preprocessing, slab_mm=slab_mm)
        postprocessing = dataclasses.replace(bright_model.postprocessing, axial_smoothing_mm=3.0)
        model = bright_model.with_slice_network(runner=TorchRunner(network), preprocessing=preprocessing)
        model = dataclasses.replace(model, postprocessing=postprocessing)
        result = segment_lesions(phantom.scan, phantom.lungs, model)
        found.append(result)
        counted.append(network.slices)
        np.testing.assert_array_equal((result.probability >= 0.5) & (phantom.lungs > 0), result.labels > 0)
    assert counted[1] == -(-counted[0] // 2)
    every, slabs = (result.labels > 0 for result in found)  # the toy network is led by noise, which slabs have less of
    assert 2 * np.count_nonzero(every & slabs) > 0.92 * (np.count_nonzero(every) + np.count_nonzero(slabs))
    assert not np.array_equal(every, slabs)
    assert "the mean of" not in found[0].method
    assert "the mean of 2 slices each, smoothed across slices by 3 mm" in found[1].method


def test_slabs_divide_infection_as_slices_do(bright_model):
    phantom = make_phantom((6.0, 6.0, 1.25))
    model = consolidating(bright_model, min_consolidation_hu=-400)
    preprocessing = dataclasses.replace(model.preprocessing, slab_mm=2.5)
    model = model.with_slice_network(preprocessing=preprocessing)
    labels = segment_lesions(phantom.scan, phantom.lungs, model).labels
    assert (labels == 2).any()
    np.testing.assert_array_equal(labels[labels > 0] == 2, phantom.scan.hu[labels > 0] > -400)
