"""Each finding arises from a small made-up input, and from nothing else; every code of the table is provoked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from covsev.anatomy.lobes.segment import LobeSegmentation
from covsev.anatomy.lungs.segment import LungSegmentation
from covsev.quality.result import FAIL, PASS, WARN, Flag, check, check_scan, failure, worst_level
from covsev.quality.table import CHECKS
from covsev.scan import load_scan, make_scan
from covsev.severity import REGION_NAMES, RegionMeasures

SHAPE = (20, 20, 24)
SPACING_MM = (2.0, 2.0, 3.0)
HEALTHY = RegionMeasures(volume_ml=2000.0, mean_hu=-850.0)
REGIONS = dict.fromkeys(REGION_NAMES, HEALTHY) | {"both_lungs": replace(HEALTHY, volume_ml=4000.0)}
ABSENT = RegionMeasures(reason="not found")


def hu_of(shape=SHAPE, values=(-1000, -850, 40, 110)):
    """Noise in which every slice differs from the next about as much as any other."""
    return np.random.default_rng(0).choice(np.array(values, np.int16), shape)


def scan_of(shape=SHAPE, spacing_mm=SPACING_MM, hu=None):
    affine = np.diag([-1, -1, 1, 1]) @ np.diag([*spacing_mm, 1])
    return make_scan(hu_of(shape) if hu is None else hu, affine, case="case")


def lungs_of(shape=SHAPE, at=(), **changed):
    labels = np.zeros(shape, np.uint8)
    labels[5:-5, 5:-5, 5:-5] = 1
    for index in at:
        labels[index] = 1
    found = LungSegmentation(
        labels,
        recovered_mask=np.zeros(labels.shape, dtype=bool),
        recovered_ml=100.0,
        airways_ml=40.0,
        leak_suspected_ml=0.0,
        possible_effusion_ml=0.0,
        flags=(),
    )
    return replace(found, **changed)


def lobes_of(method="fissures", shape=SHAPE):
    seen = dict.fromkeys(("left_oblique", "right_oblique", "right_horizontal"), 0.5)
    return LobeSegmentation(np.zeros(shape, np.uint8), method, seen, "because")


def found(scan=None, lungs=None, lobes=None, lesions=None, **regions):
    scan, lungs = scan or scan_of(), lungs or lungs_of()
    lesions = np.zeros(lungs.labels.shape, np.uint8) if lesions is None else lesions
    lobes = lobes or lobes_of(shape=lungs.labels.shape)
    return check(scan, lungs, lobes, lesions, REGIONS | regions)


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
    scan = make_scan(hu_of((19, 20, 24)), sagittal, case="sagittal")
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
    scan = make_scan(hu_of(), np.diag([2.0, 2.0, -3.0, 1.0]), case="head_first")
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
    assert not codes or flags[0].text == "401 ml of the lungs are dense: a threshold alone would have dropped them"


def test_lungs_by_a_threshold_are_flagged_with_the_reason():
    lungs = lungs_of(flags=("lungs_by_threshold",), method="threshold, since the network finds 3 % of the aerated lung")
    flag = only(found(lungs=lungs))
    assert (flag.level, flag.code) == (WARN, "lungs_by_threshold")
    assert flag.text == f"dense lung may be missing: {lungs.method}"


def test_lobes_from_the_prior_alone_are_flagged():
    flag = only(found(lobes=lobes_of("prior")))
    assert (flag.level, flag.code) == (WARN, "lobes_prior_only")


def test_one_absent_lung_raises_no_finding_of_its_own():
    assert found(left_lung=ABSENT) == ()


@pytest.mark.parametrize(("both", "codes"), [(ABSENT, ["no_chest"]), (300.0, []), (299.0, ["no_chest"])])
def test_hardly_any_lung_fails(both, codes):
    measures = both if both is ABSENT else replace(HEALTHY, volume_ml=both)
    flags = found(left_lung=ABSENT, right_lung=ABSENT, both_lungs=measures)
    assert [flag.code for flag in flags if flag.code != "much_recovered"] == codes
    assert all(flag.level == FAIL for flag in flags if flag.code == "no_chest")


def test_findings_add_up():
    shape = (20, 20, 12)
    flags = found(scan_of(shape, (2, 2, 8)), lungs_of(shape, at=[(9, 9, 0)]), lobes_of("prior", shape))
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


# ---- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "code", "text"),
    [
        ((0, 90, 255), "eight_bit", "values run from 0 to 255: an 8-bit picture, not HU"),
        ((0, 90, 256), "not_hu", "values run from 0 to 256: no air"),
        ((-19, 40, 900), "not_hu", "no air"),
        ((-849, 40, 300), "windowed", "values run from -849 to 300: clipped"),
        ((-1000, -500, 99), "windowed", "clipped to a window"),
    ],
)
def test_values_that_are_not_those_of_a_ct_fail(values, code, text):
    flag = only(found(scan_of(hu=hu_of(values=values))))
    assert (flag.level, flag.code) == (FAIL, code)
    assert text in flag.text
    assert flag.numbers == {"min": values[0], "max": values[-1]}


@pytest.mark.parametrize("values", [(-850, 40, 300), (-1024, -500, 100), (-3024, 0, 3071)])
def test_values_at_the_limit_pass(values):
    assert found(scan_of(hu=hu_of(values=values))) == ()


def test_a_map_from_0_to_1_is_not_hu():
    hu = hu_of(values=(0, 1)).astype(np.float32) + 0.5 * (hu_of() == 40)
    assert only(found(scan_of(hu=hu.astype(np.float32)))).code == "not_hu"


# ---- slices -------------------------------------------------------------------------------------------------------


def test_a_blank_slice_inside_the_scan_is_flagged_and_at_its_end_is_not():
    inside, outside = hu_of(), hu_of()
    inside[:, :, 10] = -1024
    outside[:, :, [0, -1]] = -1024
    flag = only(found(scan_of(hu=inside)))
    assert (flag.level, flag.code, flag.numbers) == (WARN, "blank_slices", {"slices": 1})
    assert found(scan_of(hu=outside)) == ()


def test_a_repeated_slice_is_flagged():
    hu = hu_of()
    hu[:, :, 11] = hu[:, :, 10]
    flag = only(found(scan_of(hu=hu)))
    assert (flag.level, flag.code, flag.numbers) == (WARN, "repeated_slices", {"slices": 1})


def test_missing_slices_are_flagged(phantom):
    """Take 32 mm out of the phantom's middle."""
    keep = np.r_[:30, 38 : phantom.scan.hu.shape[2]]
    scan = replace(phantom.scan, hu=phantom.scan.hu[:, :, keep])
    flag = only(check_scan(scan))
    assert (flag.level, flag.code) == (WARN, "slices_missing")
    assert flag.numbers["slice"] == 29
    assert "slices 29 and 30 from below differ" in flag.text
    assert check_scan(phantom.scan, phantom.lungs) == ()


def test_missing_slices_are_numbered_as_in_the_scan_with_blank_slices_below(phantom):
    keep = np.r_[:30, 38 : phantom.scan.hu.shape[2]]
    blank = np.full((*phantom.scan.hu.shape[:2], 10), -1024, np.int16)
    hu = np.concatenate([blank, phantom.scan.hu[:, :, keep]], axis=2)
    flag = only(check_scan(replace(phantom.scan, hu=hu)))
    assert flag.numbers["slice"] == 39
    assert "slices 39 and 40 from below differ" in flag.text


# ---- contrast -----------------------------------------------------------------------------------------------------


def test_contrast_medium_is_flagged(phantom):
    hu = phantom.scan.hu.copy()
    heart = (hu > 0) & (hu < 80) & (phantom.lungs == 0)
    hu[heart] += 150
    flag = only(check_scan(replace(phantom.scan, hu=hu), phantom.lungs))
    assert (flag.level, flag.code) == (WARN, "contrast")
    assert flag.numbers["share_pct"] > 50
    assert check_scan(replace(phantom.scan, hu=hu), 0 * phantom.lungs) == ()


# ---- geometry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slices", "code", "level"), [(9, "too_few_slices", FAIL), (10, "few_slices", WARN)])
def test_too_few_slices_fail(slices, code, level):
    shape = (20, 20, slices)
    labels = np.zeros(shape, np.uint8)
    labels[5:-5, 5:-5, 3:-3] = 1
    flag = only(found(scan_of(shape), replace(lungs_of(), labels=labels)))
    assert (flag.code, flag.level, flag.numbers) == (code, level, {"slices": slices})


@pytest.mark.parametrize(("spacing_mm", "flagged"), [((1, 2, 2), False), ((1, 2.1, 2), True), ((5, 1, 1), True)])
def test_coronal_and_sagittal_slices_are_flagged(spacing_mm, flagged):
    assert [flag.code for flag in found(scan_of(spacing_mm=spacing_mm))] == (["non_axial"] if flagged else [])


@pytest.mark.parametrize(("degrees", "flagged"), [(19, False), (21, True)])
def test_an_oblique_grid_is_flagged(degrees, flagged):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    scan = make_scan(hu_of(), turn @ np.diag([-2.0, -2.0, 3.0, 1.0]), case="tilted")
    codes = {flag.code for flag in found(scan)}
    assert codes == ({"non_axial"} if flagged else set())


# ---- masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left_first", "flagged"), [(False, False), (True, True)])
def test_swapped_sides_fail(left_first, flagged):
    """In LPS arrays the right lung comes first."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:8, 5:-5, 5:-5], labels[12:16, 5:-5, 5:-5] = (2, 1) if left_first else (1, 2)
    flags = found(lungs=replace(lungs_of(), labels=labels))
    assert [(flag.code, flag.level) for flag in flags] == ([("sides_swapped", FAIL)] if flagged else [])


@pytest.mark.parametrize(("taken", "flagged"), [(1, False), (2, True)])
def test_lobes_that_are_not_the_lungs_are_flagged(taken, flagged):
    """The lungs of ``lungs_of`` are 10 voxels wide and 14 high."""
    lungs = lungs_of()
    labels = np.where(lungs.labels > 0, 3, 0).astype(np.uint8)
    labels[5, 5 : 5 + 4 * taken, 5:-5] = 0  # 56 or 112 of 1400 voxels
    flags = found(lungs=lungs, lobes=replace(lobes_of(), labels=labels))
    assert [flag.code for flag in flags] == (["lobes_not_lungs"] if flagged else [])


@pytest.mark.parametrize(
    ("inside", "outside", "flagged"), [(0, 0, 0), (0, 83, 0), (0, 84, 1), (1400, 73, 0), (1400, 84, 1)]
)
def test_lesion_outside_the_lungs_is_flagged(inside, outside, flagged):
    """Voxels of 0.012 ml; 1 ml and 5 % of the lesion are tolerated."""
    lesions = np.zeros(SHAPE, np.uint8)
    where = np.argwhere(lungs_of().labels > 0)
    lesions[tuple(where[:inside].T)] = 1
    lesions[tuple(np.argwhere(lungs_of().labels == 0)[:outside].T)] = 2
    codes = [flag.code for flag in found(lesions=lesions)]
    assert codes == (["lesion_outside_lung"] if flagged else [])


# ---- the table ----------------------------------------------------------------------------------------------------


def test_failure_names_the_failed_checks_only():
    flags = (Flag(WARN, "fused", "x"), Flag(FAIL, "not_hu", "the mean is 5"), Flag(FAIL, "no_chest", "3 ml"))
    assert failure(flags) == "quality check failed: not_hu (the mean is 5); no_chest (3 ml)"
    assert failure(flags[:1]) is None


def test_every_code_of_the_table_stands_in_this_file():
    text = Path(__file__).read_text(encoding="utf-8")
    assert {check.code for check in CHECKS if f'"{check.code}"' not in text} == set()


# ---- how the masks were made --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "limit_ml", "code"),
    [("leak_suspected_ml", 20.0, "leak_suspected"), ("possible_effusion_ml", 10.0, "possible_effusion")],
)
def test_what_the_recovery_met_is_flagged(field, limit_ml, code):
    assert found(lungs=lungs_of(**{field: limit_ml})) == ()
    flag = only(found(lungs=lungs_of(**{field: limit_ml + 1})))
    assert (flag.level, flag.code, flag.numbers) == (WARN, code, {"ml": limit_ml + 1})


def test_fissures_that_are_hardly_seen_are_named():
    seen = {"left_oblique": 0.25, "right_oblique": 0.2, "right_horizontal": 0.5}
    flag = only(found(lobes=replace(lobes_of(), fissure_support=seen)))
    assert (flag.level, flag.code) == (WARN, "low_fissure_support")
    assert flag.text == "share of the fissure that is seen: right oblique 20 %"
    assert flag.numbers == {"right_oblique": 0.2}
    assert [f.code for f in found(lobes=replace(lobes_of("prior"), fissure_support=seen))] == ["lobes_prior_only"]


@pytest.mark.data
@pytest.mark.skipif("COVSEV_TEST_DATA" not in os.environ, reason="set COVSEV_TEST_DATA to the folder of real scans")
@pytest.mark.parametrize(
    ("name", "codes"), [("normal_N002_crop", []), ("covid_R082_crop", []), ("thick_A0002", ["thick_slices"])]
)
def test_real_scans_are_what_they_are(name, codes):
    scan = load_scan(Path(os.environ["COVSEV_TEST_DATA"]) / "volumes" / f"{name}.nii.gz")
    assert [flag.code for flag in check_scan(scan)] == codes
