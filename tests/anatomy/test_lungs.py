"""Lungs of a synthetic chest with known truth, whole, cut, fused, diseased, turned and absent."""

from __future__ import annotations

import numpy as np
import pytest
from measures import ORIENTATIONS, dice

from covsev.anatomy.lungs.box import lung_box
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.errors import LungsNotFoundError
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.phantom import make_phantom
from covsev.scan import make_scan, to_canonical

R, L = RIGHT_LUNG.id, LEFT_LUNG.id
TISSUE_HU, LUNG_HU = 40, -850


def lps_mm(phantom):
    """Millimetres to the left, to the back and to the head of the middle of the chest, of every voxel."""
    index = np.indices(phantom.scan.hu.shape)
    x, y, z = np.tensordot(phantom.scan.affine[:3, :3], index, axes=1) + phantom.scan.affine[:3, 3, None, None, None]
    return -x, -y, z


def ball(phantom, centre, radius_mm):
    return sum((axis - c) ** 2 for axis, c in zip(lps_mm(phantom), centre, strict=True)) <= radius_mm**2


def lungs_of(phantom, hu, affine=None):
    affine = phantom.scan.affine if affine is None else affine
    return segment_lungs(make_scan(hu, affine, case="changed"))


def with_hu(phantom, where, hu):
    return np.where(where, hu, phantom.scan.hu).astype(np.int16)


def assert_close(labels, truth, sides=(R, L), least_dice=0.97, tolerance=0.03):
    for side in sides:
        assert dice(labels == side, truth == side) > least_dice
        assert np.count_nonzero(labels == side) == pytest.approx(np.count_nonzero(truth == side), rel=tolerance)


# ---- whole lungs ---------------------------------------------------------------------------------------------------


def test_lungs_of_an_infected_chest_are_found(phantom, phantom_lungs):
    assert_close(phantom_lungs.labels, phantom.lungs, least_dice=0.99)
    assert phantom_lungs.labels.dtype == np.uint8
    assert phantom_lungs.labels.shape == phantom.scan.hu.shape
    assert phantom_lungs.flags == ()


def test_right_and_left_are_not_swapped(phantom, phantom_lungs):
    to_the_left_mm = lps_mm(phantom)[0]
    assert to_the_left_mm[phantom_lungs.labels == R].max() < 0
    assert to_the_left_mm[phantom_lungs.labels == L].min() > 0


def test_airways_are_measured_and_are_not_lung(phantom, phantom_lungs):
    x, y, z = lps_mm(phantom)
    trachea = (np.hypot(x, y - 15) <= 8) & (z > 30)
    assert not phantom_lungs.labels[trachea].any()
    assert np.count_nonzero(trachea) * phantom.scan.voxel_ml < phantom_lungs.airways_ml < 150


def test_ground_glass_and_vessels_are_lung(phantom, phantom_lungs):
    inside = phantom_lungs.labels > 0
    assert inside[phantom.lesions == 1].mean() > 0.99
    vessels = (phantom.lungs > 0) & (phantom.lesions == 0) & (phantom.scan.hu > -400)
    assert inside[vessels].mean() > 0.85


def test_the_spine_the_heart_and_the_skin_are_not_lung(phantom, phantom_lungs):
    x, y, z = lps_mm(phantom)
    for organ in (np.hypot(x, y - 78) < 17, ball(phantom, (18, -38, -45), 40), np.abs(x) > 150, z < -100):
        assert not phantom_lungs.labels[organ].any()


def test_same_scan_gives_same_labels(phantom, phantom_lungs):
    again = segment_lungs(phantom.scan)
    np.testing.assert_array_equal(again.labels, phantom_lungs.labels)
    assert (again.recovered_ml, again.airways_ml) == (phantom_lungs.recovered_ml, phantom_lungs.airways_ml)


# ---- grids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "RPS", "SAR", "AIL", "PRS"])
def test_orientation_of_the_array_does_not_matter(phantom, phantom_lungs, orientation):
    turned = make_phantom((3, 3, 4), orientation=orientation)
    found = segment_lungs(turned.scan)
    canonical = to_canonical(found.labels, turned.scan.affine)
    np.testing.assert_array_equal(canonical, to_canonical(phantom_lungs.labels, phantom.scan.affine))
    assert found.recovered_ml == pytest.approx(phantom_lungs.recovered_ml)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_phantom_is_the_same_chest_in_all_orientations(orientation):
    expected, turned = make_phantom((12, 12, 15)), make_phantom((12, 12, 15), orientation=orientation)
    assert turned.scan.orientation == orientation
    for name in ("lungs", "lobes", "lesions"):
        canonical = to_canonical(getattr(turned, name), turned.scan.affine)
        np.testing.assert_array_equal(canonical, getattr(expected, name))
    np.testing.assert_array_equal(to_canonical(turned.scan.hu, turned.scan.affine), expected.scan.hu)


@pytest.mark.parametrize(
    ("spacing_mm", "rotation_deg"), [((2.5, 2.5, 5), 0), ((3, 3, 4), 12), ((4, 3, 2.5), -8), ((3, 3, 8), 0)]
)
def test_lungs_are_found_on_other_grids(spacing_mm, rotation_deg):
    turned = make_phantom(spacing_mm, rotation_deg=rotation_deg)
    assert_close(segment_lungs(turned.scan).labels, turned.lungs)


@pytest.mark.slow
def test_lungs_are_found_at_the_default_grid():
    fine = make_phantom()
    found = segment_lungs(fine.scan)
    assert_close(found.labels, fine.lungs, least_dice=0.99)
    assert found.flags == ()


def test_values_may_be_float(phantom, phantom_lungs):
    found = lungs_of(phantom, phantom.scan.hu.astype(np.float32) + 0.25)
    assert dice(found.labels > 0, phantom_lungs.labels > 0) > 0.999


@pytest.mark.parametrize("radius_mm", [145, 175, 190])
def test_padding_around_the_field_of_view_does_not_matter(healthy, radius_mm):
    x, y, _ = lps_mm(healthy)
    found = lungs_of(healthy, with_hu(healthy, np.hypot(x, y) > radius_mm, -3024))
    assert_close(found.labels, healthy.lungs, least_dice=0.99)


def test_lungs_cut_at_both_ends_are_found(healthy):
    middle = slice(30, 50)
    found = lungs_of(healthy, healthy.scan.hu[:, :, middle])
    assert_close(found.labels, healthy.lungs[:, :, middle])


@pytest.mark.parametrize("slice_mm", [0.3, 4.0])
def test_few_slices_give_lungs_or_a_clear_error(healthy, slice_mm):
    slab, affine = healthy.scan.hu[:, :, 36:39], healthy.scan.affine @ np.diag([1, 1, slice_mm / 4, 1])
    if slice_mm == 4.0:
        assert_close(lungs_of(healthy, slab, affine).labels, healthy.lungs[:, :, 36:39], tolerance=0.05)
        return
    with pytest.raises(LungsNotFoundError, match="no part of lung density is larger than 60 ml"):
        lungs_of(healthy, slab, affine)


# ---- one lung, fused lungs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("present", "absent"), [(R, L), (L, R)])
def test_one_lung_keeps_its_side_and_is_flagged(healthy, present, absent):
    found = lungs_of(healthy, with_hu(healthy, healthy.lungs == absent, TISSUE_HU))
    assert found.flags == ("one_lung",)
    assert not (found.labels == absent).any()
    assert_close(found.labels, healthy.lungs, sides=(present,))


@pytest.mark.parametrize("centre_mm", [(60, 0), (-60, 40)], ids=["behind", "in_front"])
@pytest.mark.parametrize("radius_mm", [8, 10])
def test_fused_lungs_are_split_and_flagged(healthy, centre_mm, radius_mm):
    x, y, z = lps_mm(healthy)
    bridge = (np.abs(x) < 60) & (np.hypot(y - centre_mm[0], z - centre_mm[1]) <= radius_mm)
    found = lungs_of(healthy, with_hu(healthy, bridge, LUNG_HU))
    assert found.flags == ("fused",)
    assert_close(found.labels, healthy.lungs)


# ---- dense disease -----------------------------------------------------------------------------------------------


def test_dense_disease_inside_the_lung_is_recovered(healthy):
    lesion = ball(healthy, (-85, 0, 20), 25)
    found = lungs_of(healthy, with_hu(healthy, lesion, TISSUE_HU))
    lesion_ml = np.count_nonzero(lesion) * healthy.scan.voxel_ml
    assert (found.labels[lesion] == R).mean() > 0.95
    assert found.recovered_ml > lesion_ml
    assert_close(found.labels, healthy.lungs)


@pytest.mark.parametrize(("side", "x_mm"), [(R, -90), (L, 90)])
def test_a_dense_band_from_the_pleura_is_recovered(healthy, side, x_mm):
    x, y, z = lps_mm(healthy)
    band = (healthy.lungs == side) & (np.abs(x - x_mm) < 8) & (y > 30) & (np.abs(z - 20) < 25)
    found = lungs_of(healthy, with_hu(healthy, band, TISSUE_HU))
    assert (found.labels[band] == side).mean() > 0.8
    assert_close(found.labels, healthy.lungs)


@pytest.mark.parametrize("centre_mm", [(-136, 0, 0), (-78, 88, 0)], ids=["lateral", "posterior"])
def test_a_small_dense_lesion_on_the_pleura_is_partly_recovered(centre_mm):
    fine = make_phantom((2, 2, 4), infected=False)
    lesion = ball(fine, centre_mm, 9) & (fine.lungs > 0)
    found = lungs_of(fine, with_hu(fine, lesion, TISSUE_HU))
    assert (found.labels[lesion] == R).mean() > 0.4


def test_a_healthy_chest_has_little_to_recover(healthy):
    vessels_ml = np.count_nonzero((healthy.lungs > 0) & (healthy.scan.hu > -400)) * healthy.scan.voxel_ml
    found = segment_lungs(healthy.scan)
    assert found.recovered_ml < 1.2 * vessels_ml


# ---- no lung -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hu", [TISSUE_HU, 0, -1000, -1024, LUNG_HU])
def test_a_volume_of_one_value_has_no_lung(hu):
    scan = make_scan(np.full((40, 40, 20), hu, np.int16), np.diag([4.0, 4.0, 5.0, 1.0]), case="flat")
    with pytest.raises(LungsNotFoundError, match="scan flat: no air inside the body; is this a chest CT in HU"):
        segment_lungs(scan)


def test_a_chest_that_is_not_in_hu_has_no_lung(healthy):
    with pytest.raises(LungsNotFoundError, match="no air inside the body"):
        lungs_of(healthy, healthy.scan.hu + np.int16(1024))


def test_a_body_with_a_little_gas_has_no_lung(healthy):
    gas = ball(healthy, (-78, 0, 0), 20)
    hu = np.where(healthy.lungs > 0, TISSUE_HU, healthy.scan.hu)
    hu = np.where(gas, LUNG_HU, hu).astype(np.int16)
    with pytest.raises(LungsNotFoundError, match="scan changed: no part of lung density is larger than 60 ml"):
        lungs_of(healthy, hu)


# ---- the box around the lungs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin_mm", "expected"),
    [
        (0, (slice(4, 7), slice(2, 3), slice(5, 6))),
        (1, (slice(3, 8), slice(1, 4), slice(4, 7))),
        (5, (slice(0, 10), slice(0, 6), slice(3, 8))),
        (100, (slice(0, 10), slice(0, 10), slice(0, 10))),
    ],
)
def test_lung_box_has_a_margin_in_mm_and_stays_in_the_volume(margin_mm, expected):
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[4:7, 2, 5] = (R, R, L)
    assert lung_box(labels, margin_mm, (1.0, 2.0, 3.0)) == expected


def test_lung_box_of_nothing_is_refused():
    with pytest.raises(LungsNotFoundError, match="the label map holds no lung"):
        lung_box(np.zeros((4, 4, 4), np.uint8), 5, (1, 1, 1))


def test_the_airway_beside_one_lung_is_not_part_of_that_lung(phantom):
    hu = phantom.scan.hu.copy()
    hu[phantom.lungs == 2] = 40
    one = segment_lungs(make_scan(hu, phantom.scan.affine, case="one"))
    both = segment_lungs(phantom.scan)
    right = np.count_nonzero(phantom.lungs == 1)
    assert np.count_nonzero(one.labels == 1) == pytest.approx(right, rel=0.03)
    assert one.airways_ml == pytest.approx(both.airways_ml, rel=0.2)
