"""Boxes around masks, with margins, at the ends of the array and of nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from covsev.scan.boxes import bounding_box, box_or_whole, margin_voxels, occupied

SHAPE = (21, 30, 17)
WHOLE = tuple(slice(0, length) for length in SHAPE)


@pytest.fixture
def mask():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[5, 8:20, 4] = mask[11, 10, 16] = True
    return mask


@pytest.mark.parametrize(
    ("margin", "box"),
    [
        (0, (slice(5, 12), slice(8, 20), slice(4, 17))),
        (3, (slice(2, 15), slice(5, 23), slice(1, 17))),
        ((0, 9, 4), (slice(5, 12), slice(0, 29), slice(0, 17))),
        (99, WHOLE),
    ],
)
@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_a_box_holds_the_mask_and_its_margin_and_stays_in_the_array(mask, margin, box, dtype):
    found = bounding_box(mask.astype(dtype), margin)
    assert found == box_or_whole(mask.astype(dtype), margin) == box
    assert all(type(end) is int for side in found for end in (side.start, side.stop))


@pytest.mark.parametrize("shape", [(40,), (9, 40), (7, 8, 9)])
def test_boxes_are_those_of_scipy_in_any_number_of_axes(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(shape) < 2 / np.prod(shape)
        mask[tuple(rng.integers(0, shape))] = True
        assert bounding_box(mask) == ndimage.find_objects(mask.astype(np.uint8))[0]


@pytest.mark.parametrize("margin", [0, 5])
def test_the_box_of_nothing_is_empty_or_the_whole_array(margin):
    nothing = np.zeros(SHAPE, dtype=bool)
    assert bounding_box(nothing, margin) == (slice(0, 0),) * 3
    assert nothing[bounding_box(nothing, margin)].size == 0
    assert box_or_whole(nothing, margin) == WHOLE


def test_a_margin_for_another_number_of_axes_is_refused(mask):
    with pytest.raises(ValueError, match="zip"):
        bounding_box(mask, (1, 2))


@pytest.mark.parametrize(("axis", "places"), [(0, [5, 11]), (1, list(range(8, 20))), (2, [4, 16])])
def test_places_along_an_axis(mask, axis, places):
    assert occupied(mask, axis).tolist() == places
    assert occupied(np.zeros_like(mask), axis).tolist() == []


def test_margins_are_rounded_up_unless_told_otherwise():
    spacing_mm = (1.0, 2.0, 3.0, 12.0)
    assert margin_voxels(5.0, spacing_mm) == (5, 3, 2, 1)
    assert margin_voxels(5.0, spacing_mm, rounding=round) == (5, 2, 2, 0)
    assert margin_voxels(0.0, spacing_mm) == (0, 0, 0, 0)
