"""Five lobes from the lungs, with and without fissures to be seen."""

from __future__ import annotations

import numpy as np
import pytest
from measures import ORIENTATIONS, dice

from covsev.anatomy.lobes.fissure_model import FISSURES
from covsev.anatomy.lobes.segment import segment_lobes
from covsev.errors import GridMismatchError
from covsev.labels import LEFT_LOBES, LEFT_LUNG, LOBES, RIGHT_LOBES, RIGHT_LUNG
from covsev.phantom import make_phantom
from covsev.scan import from_canonical, make_scan, to_canonical

LU, LL, RU, RM, RL = (lobe.id for lobe in LOBES)
R, L = RIGHT_LUNG.id, LEFT_LUNG.id


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
    with pytest.raises(GridMismatchError, match=r"the lung label map has shape \(120, 90, 74\), but scan healthy has"):
        segment_lobes(healthy.scan, healthy.lungs[:, :, 1:])


@pytest.mark.parametrize("kept", ["lower half", "upper half"])
def test_lungs_cut_in_half_have_no_lobes_rather_than_wrong_ones(kept, phantom):
    occupied = np.flatnonzero(phantom.lungs.any(axis=(0, 1)))
    middle = int(occupied.mean())
    half = slice(None, middle) if kept == "lower half" else slice(middle, None)
    scan = make_scan(phantom.scan.hu[:, :, half], phantom.scan.affine, case="half")
    lobes = segment_lobes(scan, np.ascontiguousarray(phantom.lungs[:, :, half]))
    assert lobes.method == "none"
    assert not lobes.labels.any()
    assert "cuts the lungs" in lobes.reason
    assert set(lobes.fissure_support.values()) == {0.0}


# ---- fissures in the scan ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_fissures():
    """A chest of 2.5 mm voxels whose lobes are parted by sheets 80 HU brighter than lung, and its truth."""
    chest = make_phantom((2.5, 2.5, 2.5), infected=False, case="fissures")
    hu = to_canonical(chest.scan.hu, chest.scan.affine).copy()
    lobes = to_canonical(chest.lobes, chest.scan.affine)
    step = np.abs(np.diff(lobes.astype(int), axis=2)) > 0
    hu[:, :, 1:][step & (lobes[:, :, 1:] > 0) & (lobes[:, :, :-1] > 0)] += 80
    scan = make_scan(from_canonical(hu, chest.scan.affine), chest.scan.affine, case="fissures")
    return scan, chest


@pytest.fixture(scope="module")
def fitted(with_fissures):
    scan, chest = with_fissures
    return segment_lobes(scan, chest.lungs)


def test_visible_fissures_are_found_and_said_to_be(fitted):
    assert fitted.method == "fissures"
    assert min(fitted.fissure_support.values()) > 0.4
    assert "left oblique on" in fitted.reason


def test_visible_fissures_bring_the_lobes_nearer_the_truth_than_the_prior(with_fissures, fitted):
    scan, chest = with_fissures
    prior = segment_lobes(scan, chest.lungs, use_fissures=False)
    assert prior.method == "prior"
    assert "grey values were not used" in prior.reason
    for lobe in LOBES:
        truth = chest.lobes == lobe.id
        assert dice(fitted.labels == lobe.id, truth) > dice(prior.labels == lobe.id, truth)
        assert dice(fitted.labels == lobe.id, truth) > 0.9  # plane fissures are unlike people's


def test_lobes_are_the_same_each_time(with_fissures, fitted):
    scan, chest = with_fissures
    np.testing.assert_array_equal(segment_lobes(scan, chest.lungs).labels, fitted.labels)


def test_no_fissure_is_sought_in_disease(with_fissures):
    """With all lung marked as disease there is nothing left to search."""
    scan, chest = with_fissures
    lobes = segment_lobes(scan, chest.lungs, lesions=chest.lungs)
    prior = segment_lobes(scan, chest.lungs, use_fissures=False)
    np.testing.assert_array_equal(lobes.labels, prior.labels)
    assert lobes.method == "prior"


def test_a_chest_without_fissures_keeps_the_prior_and_says_so():
    chest = make_phantom((2.5, 2.5, 2.5), infected=False)
    lobes = segment_lobes(chest.scan, chest.lungs)
    assert lobes.method == "prior"
    assert "no fissure could be made out in the right lung" in lobes.reason
    assert "no fissure could be made out in the left lung" in lobes.reason
    assert max(lobes.fissure_support.values()) < 0.1


def test_thick_voxels_keep_the_prior_and_say_so(phantom_lobes):
    assert phantom_lobes.method == "prior"
    assert "voxels of 4.0 mm are too thick" in phantom_lobes.reason
    assert tuple(phantom_lobes.fissure_support) == FISSURES


def test_lesions_of_another_grid_are_refused(healthy):
    with pytest.raises(GridMismatchError, match=r"the lesion label map has shape \(120, 90, 74\)"):
        segment_lobes(healthy.scan, healthy.lungs, lesions=healthy.lungs[:, :, 1:])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_left_and_right_are_never_swapped(orientation):
    chest = make_phantom((6, 6, 6), orientation=orientation, infected=False)
    lobes = segment_lobes(chest.scan, chest.lungs, use_fissures=False).labels
    np.testing.assert_array_equal(np.isin(lobes, [lobe.id for lobe in LEFT_LOBES]), chest.lungs == L)
