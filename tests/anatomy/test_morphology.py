"""Balls of one voxel against SimpleITK's, boxes against SciPy's, holes, and positions along x."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from covsev.anatomy.morphology import (
    box_maximum,
    counts_along_x,
    dilated,
    eroded,
    holes_in_slices,
    mean_x,
    median_of_counts,
    opened,
)


@pytest.fixture(scope="module")
def mask():
    return np.random.default_rng(0).random((11, 12, 13)) < 0.8


def image(mask):
    return sitk.GetImageFromArray(mask.astype(np.uint8).transpose())


def array(image):
    return sitk.GetArrayFromImage(image).transpose() > 0


def test_a_dilation_is_that_of_simpleitk(mask):
    few = ~mask
    np.testing.assert_array_equal(dilated(few), array(sitk.BinaryDilate(image(few), (1, 1, 1))))


@pytest.mark.parametrize("outside", [True, False])
def test_an_erosion_is_that_of_simpleitk(mask, outside):
    solid = mask.copy()
    solid[2:8, 2:8, :7] = True
    solid[0:4, 0:4, 9:] = True
    expected = array(sitk.BinaryErode(image(solid), (1, 1, 1), sitk.sitkBall, 0, 1, outside))
    assert 0 < expected.sum() < solid.sum()
    np.testing.assert_array_equal(eroded(solid, outside=outside), expected)


@pytest.mark.parametrize("reach", [(0, 0, 0), (1, 1, 1), (2, 0, 3), (20, 1, 12)])
def test_the_maximum_in_a_box_is_that_of_scipy(mask, reach):
    ids = np.random.default_rng(1).integers(0, 20, mask.shape).astype(np.uint8)
    ids[np.random.default_rng(2).random(mask.shape) < 0.9] = 0
    size = [2 * voxels + 1 for voxels in reach]
    for values in (ids, ids > 0):
        before = values.copy()
        found = box_maximum(values, reach)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, ndimage.maximum_filter(values, size, mode="constant"))
        np.testing.assert_array_equal(values, before)


def test_importing_it_takes_no_scipy_filters():
    code = "import sys, covsev.anatomy.lobes.segments, covsev.quality.result; print('scipy.ndimage' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_opening_drops_what_is_thin():
    solid = np.zeros((9, 9, 9), dtype=bool)
    solid[1:6, 1:6, 1:6] = True
    thin = solid.copy()
    thin[6:, 3, 3] = True
    np.testing.assert_array_equal(opened(thin), array(sitk.BinaryMorphologicalOpening(image(thin), (1, 1, 1))))
    assert not opened(thin)[6:].any()


def test_holes_are_found_slice_by_slice():
    ring = np.zeros((7, 7, 3), dtype=bool)
    ring[1:6, 1:6, 1] = True
    ring[2:5, 2:5, 1] = False
    expected = np.zeros_like(ring)
    expected[2:5, 2:5, 1] = True
    np.testing.assert_array_equal(holes_in_slices(ring), expected)
    ring[3, 5, 1] = False
    assert not holes_in_slices(ring).any()


def test_positions_along_x():
    mask = np.zeros((6, 2, 2), dtype=bool)
    mask[1, 0, 0] = mask[4] = True
    np.testing.assert_array_equal(counts_along_x(mask), [0, 1, 0, 0, 4, 0])
    assert mean_x(mask) == pytest.approx(17 / 5)
    assert median_of_counts(counts_along_x(mask)) == 4
    assert np.isnan(mean_x(np.zeros_like(mask)))
