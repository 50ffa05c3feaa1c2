"""Five lobes from the lungs, and the arithmetic of the box that the fissures are placed in."""

from __future__ import annotations

import numpy as np
import pytest

from covsev.anatomy.lobes import FISSURES, GRID, LungBox, fissure_prior, segment_lobes
from covsev.errors import GridMismatchError
from covsev.labels import LEFT_LOBES, LEFT_LUNG, LOBES, RIGHT_LOBES, RIGHT_LUNG
from covsev.phantom import make_phantom
from covsev.scan import make_scan, to_canonical

LU, LL, RU, RM, RL = (lobe.id for lobe in LOBES)
R, L = RIGHT_LUNG.id, LEFT_LUNG.id


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def height_of(labels, ids):
    """Mean place of some labels along canonical z, which grows to the head."""
    return np.nonzero(np.isin(labels, ids))[2].mean()


# ---- lobes -----------------------------------------------------------------------------------------------------


def test_all_five_lobes_are_there(phantom_lobes):
    assert np.unique(phantom_lobes.labels).tolist() == [0, LU, LL, RU, RM, RL]
    assert phantom_lobes.labels.dtype == np.uint8
    assert phantom_lobes.method == "prior"


def test_lobes_cover_exactly_their_lung(phantom_lungs, phantom_lobes):
    for side, lobes in ((R, RIGHT_LOBES), (L, LEFT_LOBES)):
        ids = [lobe.id for lobe in lobes]
        np.testing.assert_array_equal(np.isin(phantom_lobes.labels, ids), phantom_lungs.labels == side)


@pytest.mark.parametrize("id_", [LU, LL, RU, RM, RL])
def test_lobes_lie_near_those_of_the_phantom(phantom, phantom_lobes, id_):
    assert dice(phantom_lobes.labels == id_, phantom.lobes == id_) > (0.7 if id_ == RM else 0.85)


def test_upper_lobes_lie_above_lower_lobes_and_the_middle_lobe_in_front(phantom, phantom_lobes):
    labels = to_canonical(phantom_lobes.labels, phantom.scan.affine)
    assert height_of(labels, [LU]) > height_of(labels, [LL])
    assert height_of(labels, [RU]) > height_of(labels, [RM, RL])
    assert np.nonzero(labels == RM)[1].mean() < np.nonzero(labels == RL)[1].mean()  # y grows to the back


@pytest.mark.parametrize("orientation", ["RAS", "SAR", "AIL"])
def test_orientation_of_the_array_does_not_matter(phantom, orientation):
    turned = make_phantom((3, 3, 4), orientation=orientation)
    expected = to_canonical(segment_lobes(phantom.scan, phantom.lungs).labels, phantom.scan.affine)
    found = segment_lobes(turned.scan, turned.lungs).labels
    assert found.shape == turned.scan.hu.shape
    np.testing.assert_array_equal(to_canonical(found, turned.scan.affine), expected)


@pytest.mark.parametrize("spacing_mm", [(2.5, 2.5, 5), (5, 4, 3)])
def test_the_grid_hardly_matters(phantom, spacing_mm):
    volumes_ml = []
    for chest in (phantom, make_phantom(spacing_mm)):
        labels = segment_lobes(chest.scan, chest.lungs).labels
        volumes_ml.append(np.bincount(labels.ravel())[1:] * chest.scan.voxel_ml)
    np.testing.assert_allclose(*volumes_ml, rtol=0.04)


@pytest.mark.parametrize(("side", "lobes"), [(R, {RU, RM, RL}), (L, {LU, LL})])
def test_one_lung_has_the_lobes_of_its_side(healthy, side, lobes):
    one = np.where(healthy.lungs == side, side, 0).astype(np.uint8)
    assert set(np.unique(segment_lobes(healthy.scan, one).labels)) == lobes | {0}


def test_no_lung_has_no_lobes(healthy):
    assert not segment_lobes(healthy.scan, np.zeros_like(healthy.lungs)).labels.any()


def test_a_lung_of_one_voxel_gets_one_lobe():
    scan = make_scan(np.zeros((16, 16, 16), np.int16), np.eye(4), case="tiny")
    lungs = np.zeros(scan.hu.shape, np.uint8)
    lungs[3, 4, 5] = R
    assert np.count_nonzero(segment_lobes(scan, lungs).labels) == 1


def test_lungs_of_another_grid_are_refused(healthy):
    with pytest.raises(GridMismatchError, match=r"the lung labels has shape \(120, 90, 74\), but scan healthy has"):
        segment_lobes(healthy.scan, healthy.lungs[:, :, 1:])


# ---- the prior -----------------------------------------------------------------------------------------------------


def test_prior_holds_heights_within_the_box():
    assert tuple(fissure_prior()) == FISSURES
    for heights in fissure_prior().values():
        assert heights.shape == (len(GRID), len(GRID))
        assert np.isfinite(heights).all()
        assert (heights >= -0.5).all()
        assert (heights <= 1.5).all()


@pytest.mark.parametrize("fissure", ["left_oblique", "right_oblique"])
def test_oblique_fissures_climb_to_the_back(fissure):
    profile = fissure_prior()[fissure].mean(axis=0)
    assert profile[-1] > profile[0] + 0.3


# ---- the box -----------------------------------------------------------------------------------------------------


def brick(shape, *limits):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*limit) for limit in limits)] = True
    return mask


def test_box_of_a_brick_is_the_brick_in_mm():
    box = LungBox.around(brick((20, 20, 20), (2, 12), (5, 9), (0, 20)), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(box.lower_mm, (2, 10, 0))
    np.testing.assert_allclose(box.upper_mm, (11, 16, 57))


def test_a_spur_does_not_stretch_the_box():
    mask = brick((60, 20, 20), (20, 30), (5, 15), (5, 15))
    expected = LungBox.around(mask, (1.0, 1.0, 1.0))
    mask[30:34, 10, 10] = True
    np.testing.assert_allclose(LungBox.around(mask, (1.0, 1.0, 1.0)).upper_mm, expected.upper_mm)


def test_a_flat_mask_has_a_box_of_one_voxel():
    box = LungBox.around(brick((9, 9, 9), (4, 5), (4, 5), (4, 5)), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(box.upper_mm - box.lower_mm, (1, 2, 3))
    assert np.isfinite(box.to_unit(np.zeros((1, 3)))).all()


def test_box_coordinates_run_from_zero_to_one():
    box = LungBox(np.array([10.0, 20.0, 30.0]), np.array([20.0, 40.0, 60.0]))
    points = np.array([[10, 20, 30], [20, 40, 60], [15, 30, 45], [5, 50, 30]], float)
    np.testing.assert_allclose(box.to_unit(points), [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [-0.5, 1.5, 0]])


def test_a_shifted_box_gives_shifted_points_the_same_coordinates():
    box, offset = LungBox(np.zeros(3), np.array([1.0, 2.0, 4.0])), np.array([3.0, -4.0, 5.0])
    point = np.array([[0.25, 1.0, 3.0]])
    np.testing.assert_allclose(box.shifted(offset).to_unit(point + offset), box.to_unit(point))


@pytest.mark.parametrize("kept", ["lower half", "upper half"])
def test_lungs_cut_in_half_have_no_lobes_rather_than_wrong_ones(kept, phantom):
    occupied = np.flatnonzero(phantom.lungs.any(axis=(0, 1)))
    middle = int(occupied.mean())
    half = slice(None, middle) if kept == "lower half" else slice(middle, None)
    scan = make_scan(phantom.scan.hu[:, :, half], phantom.scan.affine, case="half")
    lobes = segment_lobes(scan, np.ascontiguousarray(phantom.lungs[:, :, half]))
    assert lobes.method == "none"
    assert not lobes.labels.any()
