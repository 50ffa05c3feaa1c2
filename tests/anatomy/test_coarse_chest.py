"""The coarse grid on which fissures are sought, and the division of lungs at given surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from covsev.anatomy.lobes.coarse_chest import CoarseChest, CoarseGrid
from covsev.anatomy.lobes.division import divide_lungs, falling_forward
from covsev.anatomy.lobes.fissure_fit import Surfaces
from covsev.anatomy.lobes.fissure_model import SPLINES, LungFrame
from covsev.labels import LEFT_LOWER, LEFT_LUNG, LEFT_UPPER, RIGHT_LOWER, RIGHT_LUNG, RIGHT_MIDDLE, RIGHT_UPPER

R, L = RIGHT_LUNG.id, LEFT_LUNG.id


def lung_mask(shape=(21, 30, 17)):
    mask = np.zeros(shape, dtype=bool)
    mask[5:12, 8:20, 4:17] = True
    return mask


# ---- the grid --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing_mm", "block"),
    [((0.75, 0.75, 2.0), (2, 2, 1)), ((1.5, 1.5, 2.5), (1, 1, 1)), ((0.5, 0.8, 1.0), (3, 2, 1))],
)
def test_blocks_have_at_most_about_a_millimetre_and_a_half(spacing_mm, block):
    grid = CoarseGrid.around(lung_mask(), spacing_mm)
    assert grid.block == block
    assert grid.spacing_mm == pytest.approx([a * b for a, b in zip(spacing_mm, block, strict=True)])


def test_the_grid_holds_the_lungs_with_a_margin_but_no_more_than_the_scan():
    grid = CoarseGrid.around(lung_mask(), (0.75, 0.75, 2.0))
    assert grid.box == (slice(1, 17), slice(4, 24), slice(2, 17))


def test_means_and_middles_lie_where_the_origin_says():
    places = np.moveaxis(np.indices((21, 30, 17)), 0, -1) * (0.75, 0.75, 2.0)
    grid = CoarseGrid.around(lung_mask(), (0.75, 0.75, 2.0))
    for axis in range(3):
        mean_mm = grid.mean(places[..., axis])
        expected = grid.origin_mm[axis] + np.arange(mean_mm.shape[axis]) * grid.spacing_mm[axis]
        np.testing.assert_allclose(np.moveaxis(mean_mm, axis, -1)[0, 0], expected, rtol=1e-6)
    assert grid.mean(places[..., 0]).dtype == np.float32


def test_a_block_with_any_disease_is_diseased_with_a_margin():
    grid = CoarseGrid.around(lung_mask(), (0.75, 0.75, 2.0))
    sides = np.ones_like(grid.middle(lung_mask().astype(np.uint8)))
    lesions = np.zeros((21, 30, 17), dtype=bool)
    lesions[8, 14, 10] = True
    chest = CoarseChest.on(grid, np.zeros(lesions.shape, np.int16), sides, lesions)
    lost = np.argwhere(chest.searched != chest.sides)
    centre = (np.array([8, 14, 10]) - [1, 4, 2]) // grid.block
    np.testing.assert_array_equal(lost.min(axis=0), centre - 2)
    np.testing.assert_array_equal(lost.max(axis=0), centre + 2)
    assert CoarseChest.on(grid, np.zeros(lesions.shape, np.int16), sides, None).searched is sides


# ---- the division ------------------------------------------------------------------------------------------------


def test_lungs_are_cut_at_the_surfaces_of_the_lungs_that_have_them():
    sides = np.zeros((20, 6, 20), np.uint8)
    sides[1:9, 1:5, 2:18], sides[11:19, 1:5, 2:18] = R, L
    frame = LungFrame(np.array([10.0, 3.0, 10.0]), np.array([20.0, 6.0, 20.0]))
    heights = np.array([9.5, 5.5, 11.5])  # left oblique, right oblique, right horizontal
    coefficients = np.broadcast_to((heights / 20)[:, None, None], (3, SPLINES, SPLINES))
    lobes = divide_lungs(sides, (1.0, 1.0, 1.0), Surfaces({R: frame, L: frame}, coefficients, {}))
    expected = np.zeros_like(sides)
    expected[11:19, 1:5, 2:10], expected[11:19, 1:5, 10:18] = LEFT_LOWER.id, LEFT_UPPER.id
    expected[1:9, 1:5, 2:6], expected[1:9, 1:5, 6:12] = RIGHT_LOWER.id, RIGHT_MIDDLE.id
    expected[1:9, 1:5, 12:18] = RIGHT_UPPER.id
    np.testing.assert_array_equal(lobes, expected)
    assert not divide_lungs(sides, (1.0, 1.0, 1.0), Surfaces({L: frame}, coefficients, {}))[:10].any()


@pytest.mark.parametrize(
    ("height", "middle", "expected"),
    [
        ([1, 2, 3, 4], 2, [1, 2, 3, 4]),  # as anatomy has it
        ([5, 2, 3, 4], 2, [2, 2, 3, 4]),  # no wedge at the front
        ([1, 9, 3, 2], 2, [1, 3, 3, 2]),  # behind the middle it may do what it likes
        ([5, 4, 3, 2], 9, [2, 2, 2, 2]),  # a box before the middle
        ([5, 4, 3, 2], 0, [5, 4, 3, 2]),
    ],
)
def test_an_oblique_fissure_falls_from_the_middle_forward(height, middle, expected):
    given = np.array([height, height], float)
    np.testing.assert_array_equal(falling_forward(given, middle), [expected, expected])
    np.testing.assert_array_equal(given, [height, height])
