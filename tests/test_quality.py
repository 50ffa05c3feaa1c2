"""Each finding arises from a small made-up input, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from covsev.anatomy.lobes import LobeSegmentation
from covsev.anatomy.lungs import LungSegmentation
from covsev.quality import FAIL, PASS, WARN, Flag, check, worst_level
from covsev.scan import make_scan
from covsev.severity import REGION_NAMES, RegionMeasures

SHAPE = (20, 20, 24)
SPACING_MM = (2.0, 2.0, 3.0)
HEALTHY = RegionMeasures(volume_ml=2000.0, mean_hu=-850.0)
REGIONS = dict.fromkeys(REGION_NAMES, HEALTHY) | {"both_lungs": replace(HEALTHY, volume_ml=4000.0)}
ABSENT = RegionMeasures(reason="not found")


def scan_of(shape=SHAPE, spacing_mm=SPACING_MM):
    return make_scan(np.zeros(shape, np.int16), np.diag([-1, -1, 1, 1]) @ np.diag([*spacing_mm, 1]), case="case")


def lungs_of(shape=SHAPE, at=(), **changed):
    labels = np.zeros(shape, np.uint8)
    labels[5:-5, 5:-5, 5:-5] = 1
    for index in at:
        labels[index] = 1
    return replace(LungSegmentation(labels, recovered_ml=100.0, airways_ml=40.0, flags=()), **changed)


def lobes_of(method="fissures"):
    return LobeSegmentation(np.zeros(SHAPE, np.uint8), method)


def found(scan=None, lungs=None, lobes=None, **regions):
    return check(scan or scan_of(), lungs or lungs_of(), lobes or lobes_of(), REGIONS | regions)


def only(flags):
    (flag,) = flags
    return flag


def test_a_good_scan_has_no_findings():
    assert found() == ()


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "code", "text"),
    [
        (SHAPE, (2, 2, 5.1), "thick_slices", "slices are 5.1 mm apart"),
        ((20, 20, 19), SPACING_MM, "few_slices", "only 19 slices"),
    ],
)
def test_sparse_scans_are_flagged(shape, spacing_mm, code, text):
    flag = only(found(scan_of(shape, spacing_mm), lungs_of(shape)))
    assert (flag.level, flag.code) == (WARN, code)
    assert flag.text.startswith(text)


@pytest.mark.parametrize(("shape", "spacing_mm"), [(SHAPE, (2, 2, 5)), ((20, 20, 20), SPACING_MM), (SHAPE, (6, 6, 3))])
def test_scans_at_the_limit_are_not_flagged(shape, spacing_mm):
    assert found(scan_of(shape, spacing_mm), lungs_of(shape)) == ()


def test_slices_are_counted_along_the_patient():
    sagittal = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]] @ np.diag([6.0, 2.0, 2.0, 1.0])
    scan = make_scan(np.zeros((19, 20, 24), np.int16), sagittal, case="sagittal")
    assert {flag.code for flag in found(scan, lungs_of((19, 20, 24)))} == {"thick_slices", "few_slices"}


@pytest.mark.parametrize(
    ("index", "code"),
    [
        ((9, 9, -1), "cut_at_top"),
        ((9, 9, 0), "cut_at_bottom"),
        ((0, 9, 9), "cut_at_side"),
        ((-1, 9, 9), "cut_at_side"),
        ((9, 0, 9), "cut_at_side"),
        ((9, -1, 9), "cut_at_side"),
    ],
)
def test_lungs_at_the_border_are_flagged(index, code):
    flag = only(found(lungs=lungs_of(at=[index])))
    assert (flag.level, flag.code) == (WARN, code)
    assert flag.text == f"lung touches the scan's border ({code.replace('_', ' ')}): volumes are too small"


def test_top_is_the_head_in_any_orientation():
    scan = make_scan(np.zeros(SHAPE, np.int16), np.diag([2.0, 2.0, -3.0, 1.0]), case="head_first")
    assert only(found(scan, lungs_of(at=[(9, 9, 0)]))).code == "cut_at_top"


@pytest.mark.parametrize(
    ("code", "text"), [("fused", "touched and were split"), ("one_lung", "only one lung was found")]
)
def test_findings_of_the_lungs_are_passed_on(code, text):
    flag = only(found(lungs=lungs_of(flags=(code,))))
    assert (flag.level, flag.code) == (WARN, code)
    assert text in flag.text


@pytest.mark.parametrize("volume_ml", [499.0, 5001.0])
def test_implausible_volumes_are_flagged_with_their_number(volume_ml):
    both = replace(HEALTHY, volume_ml=volume_ml)
    flags = found(right_lung=both, left_lung=both)
    assert [flag.code for flag in flags] == ["lung_volume", "lung_volume"]
    assert flags[0].text == f"right lung has {volume_ml:.0f} ml"


@pytest.mark.parametrize(
    ("right_ml", "left_ml", "text"),
    [(2000, 999, "0.50"), (2000, 900, "0.45"), (1000, 1501, "1.50"), (1000, 2000, "2.00")],
)
def test_uneven_lungs_are_flagged(right_ml, left_ml, text):
    flag = only(found(right_lung=replace(HEALTHY, volume_ml=right_ml), left_lung=replace(HEALTHY, volume_ml=left_ml)))
    assert flag == Flag(WARN, "left_right_ratio", f"left lung / right lung is {text}")


@pytest.mark.parametrize("left_ml", [1000, 3000])
def test_lungs_at_the_limit_are_not_flagged(left_ml):
    assert found(left_lung=replace(HEALTHY, volume_ml=left_ml)) == ()


@pytest.mark.parametrize("mean_hu", [-951.0, -299.0, 174.0])
def test_values_that_are_not_hu_fail(mean_hu):
    flag = only(found(both_lungs=RegionMeasures(volume_ml=4000.0, mean_hu=mean_hu)))
    assert flag == Flag(FAIL, "not_hu", f"the lungs' mean is {mean_hu:.0f}; voxels may not be HU")


@pytest.mark.parametrize(("recovered_ml", "codes"), [(400.0, []), (401.0, ["much_recovered"])])
def test_much_recovered_lung_is_flagged(recovered_ml, codes):
    flags = found(lungs=lungs_of(recovered_ml=recovered_ml))
    assert [flag.code for flag in flags] == codes
    assert not codes or flags[0].text == "401 ml of dense lung were closed back in"


def test_lobes_from_the_prior_alone_are_flagged():
    flag = only(found(lobes=lobes_of("prior")))
    assert (flag.level, flag.code) == (WARN, "lobes_prior_only")


def test_absent_lungs_raise_no_finding_of_their_own():
    assert found(left_lung=ABSENT) == ()
    assert found(left_lung=ABSENT, right_lung=ABSENT, both_lungs=ABSENT) == ()


def test_findings_add_up():
    flags = found(scan_of((20, 20, 12), (2, 2, 8)), lungs_of((20, 20, 12), at=[(9, 9, 0)]), lobes_of("prior"))
    assert [flag.code for flag in flags] == ["thick_slices", "few_slices", "cut_at_bottom", "lobes_prior_only"]


@pytest.mark.parametrize(
    ("levels", "worst"), [((), PASS), ((WARN,), WARN), ((FAIL, WARN), FAIL), ((WARN, FAIL), FAIL), ((WARN, WARN), WARN)]
)
def test_worst_level_wins(levels, worst):
    assert worst_level(tuple(Flag(level, "code", "text") for level in levels)) == worst


@pytest.mark.parametrize(("sform", "qform", "flagged"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_a_header_without_orientation_is_flagged(sform, qform, flagged):
    header = nib.Nifti1Header()
    header["sform_code"], header["qform_code"] = sform, qform
    codes = {flag.code for flag in found(replace(scan_of(), header=header))}
    assert ("no_orientation" in codes) == flagged


def test_lobes_that_could_not_be_placed_are_flagged():
    assert only(found(lobes=lobes_of("none"))).code == "lobes_cut"
