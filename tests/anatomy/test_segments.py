"""The 20 geometric regions of the lobes."""

from __future__ import annotations

import numpy as np
import pytest

from covsev.anatomy.lobes.segments import segment_regions
from covsev.labels import LOBES, SEGMENTS
from covsev.phantom import make_phantom
from covsev.scan import to_canonical

ID = {segment.name: segment.id for segment in SEGMENTS}


@pytest.fixture(scope="module")
def regions(phantom):
    """In canonical axes: x to the left, y to the back, z to the head."""
    return to_canonical(segment_regions(phantom.lobes, phantom.scan.affine), phantom.scan.affine)


def place(regions, name, axis):
    return np.nonzero(regions == ID[name])[axis].mean()


def test_ids_are_one_to_twenty_and_names_are_unique():
    assert [segment.id for segment in SEGMENTS] == list(range(1, 21))
    assert len({segment.name for segment in SEGMENTS}) == len({segment.rgb for segment in SEGMENTS}) == 20


def test_the_segments_of_a_lobe_fill_it_exactly(phantom, regions):
    lobes = to_canonical(phantom.lobes, phantom.scan.affine)
    for lobe in LOBES:
        own = [segment.id for segment in SEGMENTS if segment.lobe == lobe]
        np.testing.assert_array_equal(np.isin(regions, own), lobes == lobe.id)


def test_every_segment_has_at_least_a_tenth_of_its_lobe(phantom, regions):
    lobes = np.bincount(phantom.lobes.ravel())
    for segment in SEGMENTS:
        assert np.count_nonzero(regions == segment.id) > 0.1 * lobes[segment.lobe.id]


@pytest.mark.parametrize(
    ("lower", "higher", "axis"),
    [
        ("right_anterior", "right_posterior", 1),
        ("left_anterior", "left_posterior", 1),
        ("right_anterior", "right_apical", 2),
        ("right_posterior", "right_apical", 2),
        ("left_inferior_lingular", "left_superior_lingular", 2),
        ("left_superior_lingular", "left_anterior", 2),
        ("right_lateral", "right_medial", 0),
        ("right_lateral_basal", "right_medial_basal", 0),
        ("left_medial_basal", "left_lateral_basal", 0),
        ("right_posterior_basal", "right_lower_superior", 2),
        ("left_posterior_basal", "left_lower_superior", 2),
        ("right_anterior_basal", "right_lateral_basal", 1),
        ("right_lateral_basal", "right_posterior_basal", 1),
        ("left_anterior_basal", "left_posterior_basal", 1),
    ],
)
def test_segments_lie_as_anatomy_puts_them(regions, lower, higher, axis):
    assert place(regions, lower, axis) < place(regions, higher, axis)


@pytest.mark.parametrize("orientation", ["RAS", "SAR", "AIL", "PLI"])
def test_orientation_of_the_array_does_not_matter(orientation):
    straight, turned = (make_phantom((6, 6, 6), orientation=axes, infected=False) for axes in ("LPS", orientation))
    first, second = (
        to_canonical(segment_regions(chest.lobes, chest.scan.affine), chest.scan.affine) for chest in (straight, turned)
    )
    assert np.count_nonzero(first != second) < 0.002 * np.count_nonzero(first)


def test_an_absent_lobe_has_no_segments(phantom):
    one = np.where(phantom.lobes == LOBES[0].id, phantom.lobes, 0).astype(np.uint8)
    found = set(np.unique(segment_regions(one, phantom.scan.affine)))
    assert found == {0, *(segment.id for segment in SEGMENTS if segment.lobe == LOBES[0])}


def test_a_lobe_of_one_voxel_is_one_segment():
    lobes = np.zeros((3, 3, 3), np.uint8)
    lobes[1, 1, 1] = 5
    assert np.count_nonzero(segment_regions(lobes, np.eye(4))) == 1


@pytest.mark.parametrize(("shape", "affine"), [((4, 4), np.eye(4)), ((4, 4, 4), np.eye(3))])
def test_what_is_no_volume_is_refused(shape, affine):
    with pytest.raises(ValueError, match=r"lobes must be a volume and affine \(4, 4\); got shapes"):
        segment_regions(np.zeros(shape, np.uint8), affine)
