"""Zones, segments, aeration, cut-off regions, missing inputs, near edges, the finding, withheld scores."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from covsev.errors import GridMismatchError
from covsev.scan import make_scan
from covsev.severity import SCORES, RegionMeasures, measure, withhold
from covsev.severity.finding import find_infection
from covsev.severity.regions import AERATION_HU, SEGMENT_NAMES, ZONE_NAMES, cut_share, measure_main
from covsev.severity.scores import NO_CT, compute_scores
from covsev.severity.tallies import tally

BY_ID = {score.id: score for score in SCORES}
R, L = 1, 2


# ---- density bands -----------------------------------------------------------------------------------------------

AERATION_EDGES = [  # HU, and the bands that hold it
    (-1001, ()),
    (-1000, ("hyperinflated",)),
    (-951, ("hyperinflated",)),
    (-950, ("hyperinflated", "well_aerated")),
    (-901, ("hyperinflated", "well_aerated")),
    (-900, ("normally_aerated", "well_aerated")),
    (-701, ("normally_aerated", "well_aerated")),
    (-700, ("normally_aerated",)),
    (-501, ("normally_aerated",)),
    (-500, ("poorly_aerated",)),
    (-101, ("poorly_aerated",)),
    (-100, ("non_aerated",)),
    (99, ("non_aerated",)),
    (100, ()),
    (3000, ()),
]


@pytest.mark.parametrize(("hu", "bands"), AERATION_EDGES)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_edge_of_the_density_bands(hu, bands, dtype):
    lung = np.ones((2, 2, 2), np.uint8)
    found = measure_main(tally(np.full(lung.shape, hu, dtype), lung, 0 * lung, 0 * lung), 1.0)["right_lung"]
    for name in AERATION_HU:
        assert getattr(found, f"{name}_ml") == (8 if name in bands else 0)
    assert found.well_aerated_pct == (100 if "well_aerated" in bands else 0)


@pytest.mark.parametrize(("hu", "high"), [(-200, False), (-199.999, True), (-199, True), (-1000, False), (400, True)])
def test_high_opacity_is_above_minus_200(hu, high):
    lung = np.ones((2, 2, 2), np.uint8)
    found = measure_main(tally(np.full(lung.shape, hu, np.float32), lung, 0 * lung, lung), 1.0)["right_lung"]
    assert found.high_opacity_pct == (100 if high else 0)


# ---- zones -------------------------------------------------------------------------------------------------------


def column(slices, *, lesion_in=(), first=0, total=None):
    """A right lung of ``slices`` slices from ``first``, lesion in some; each slice holds 20 * 20 voxels of 0.1 ml."""
    shape = (20, 20, total or slices)
    lungs = np.zeros(shape, np.uint8)
    lungs[2:-2, 2:-2, first : first + slices] = R
    lesions = np.zeros(shape, np.uint8)
    for z in lesion_in:
        lesions[2:-2, 2:-2, z] = 1
    scan = make_scan(np.full(shape, -850, np.int16), np.diag([-10.0, -10.0, 1.0, 1.0]), case="column")
    return measure(scan, lungs, np.zeros(shape, np.uint8), lesions)


def test_zones_are_thirds_of_the_lungs_own_height():
    report = column(9, lesion_in=[8 + 4], first=4, total=20)  # the topmost slice of the lung
    zones = {name: report.subregions[f"right_{name}_zone"] for name in ("upper", "middle", "lower")}
    assert {name: m.volume_ml for name, m in zones.items()} == dict.fromkeys(zones, pytest.approx(3 * 16 * 16 * 0.1))
    assert zones["upper"].lesion_pct == pytest.approx(100 / 3)
    assert zones["middle"].lesion_ml == zones["lower"].lesion_ml == 0


def test_a_slice_on_the_limit_of_two_zones_counts_in_both():
    report = column(10, lesion_in=[3], first=5, total=20)
    report_of_slice = column(10, lesion_in=[8], first=5, total=20)  # slice 3 of the lung: limit at 3 1/3
    assert report.subregions["right_lower_zone"].lesion_ml == 0
    lower, middle = (report_of_slice.subregions[f"right_{name}_zone"].lesion_ml for name in ("lower", "middle"))
    assert lower == pytest.approx(16 * 16 * 0.1 / 3)
    assert middle == pytest.approx(16 * 16 * 0.1 * 2 / 3)


def test_zones_of_an_absent_lung_are_null():
    report = column(9, first=4, total=20)
    assert report.subregions["left_upper_zone"].reason == "upper zone of the left lung not found: less than 1 ml"
    assert report.scores["zones24"].value is None
    assert report.scores["zones24"].reason.startswith("upper zone of the left lung not found")


# ---- what was not given -------------------------------------------------------------------------------------------


def test_without_segments_the_score_over_them_is_null(phantom):
    report = measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions)
    assert report.scores["ctss40_yang2020"].value is None
    assert report.scores["ctss40_yang2020"].reason == "no map of the 20 segments was given"
    assert set(report.subregions) == {*ZONE_NAMES, *SEGMENT_NAMES}


def test_without_a_ct_densities_are_null_and_volumes_are_the_same(phantom):
    maps = (phantom.lungs, phantom.lobes, phantom.lesions)
    known, unknown = measure(phantom.scan, *maps), measure(phantom.scan, *maps, hu_known=False)
    for name, measures in unknown.regions.items():
        for field in ("volume_ml", "lesion_ml", "lesion_pct", "ggo_ml", "consolidation_ml"):
            assert getattr(measures, field) == getattr(known.regions[name], field)
        for field in ("mean_hu", "sd_hu", "high_opacity_pct", "well_aerated_pct", "non_aerated_ml"):
            assert getattr(measures, field) is None
    for id_, result in unknown.scores.items():
        if BY_ID[id_].measure == "lesion_pct":
            assert result == known.scores[id_]
        else:
            assert (result.value, result.reason) == (None, NO_CT)


def test_lesion_kinds_that_are_not_known_are_null(phantom):
    report = measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions, kinds_known=False)
    for measures in (report.regions | report.subregions).values():
        assert measures.ggo_ml is None
        assert measures.consolidation_ml is None
    assert report.regions["both_lungs"].lesion_ml > 1


def test_maps_of_different_shape_are_refused_without_a_ct():
    lung = np.ones((3, 3, 3), np.uint8)
    with pytest.raises(GridMismatchError, match=r"lobes has shape \(2, 3, 3\), but lungs has \(3, 3, 3\)"):
        measure_main(tally(None, lung, lung[1:], lung), 1.0)


def test_an_empty_lesion_mask_gives_zero_and_an_empty_lung_mask_null(healthy):
    none = np.zeros_like(healthy.lungs)
    empty = measure(healthy.scan, healthy.lungs, healthy.lobes, none)
    assert empty.scores["ctss25_pan2020"].value == 0
    assert empty.regions["left_upper"].lesion_ml == 0
    no_lungs = measure(healthy.scan, none, none, none)
    assert {result.value for result in no_lungs.scores.values()} == {None}
    assert no_lungs.scores["po_chaganti2020"].reason == "the lungs not found: less than 1 ml"


# ---- cut off by the border ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "share"),
    [((0, 4, 4, 0), 0), ((4, 4, 4, 0), 1), ((1, 4, 4, 0), 0.25), ((0, 4, 4, 3), 0.75), ((2, 4, 4, 3), 0.75)],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_share_that_a_border_cuts(sections, share, axis):
    labels = np.zeros((4, 6, 6), np.uint8)
    for z, section in enumerate(sections):
        labels[z].ravel()[[7, 8, 13, 14][:section]] = 3
    assert cut_share(np.moveaxis(labels, 0, axis), 3) == share
    assert cut_share(labels, 2) == 0


def test_a_lobe_cut_in_half_is_null_with_the_reason_everywhere(phantom):
    top = np.flatnonzero((phantom.lobes == 3).any(axis=(0, 1)))  # right upper lobe; LPS: the last axis is height
    keep = slice(0, int(top.mean()))
    scan = make_scan(phantom.scan.hu[:, :, keep], phantom.scan.affine, case="cut")
    maps = [array[:, :, keep] for array in (phantom.lungs, phantom.lobes, phantom.lesions)]
    report = measure(scan, *maps)
    reason = report.regions["right_upper"].reason
    assert reason.startswith("right upper lobe is cut off: ")
    assert all(value is None for key, value in asdict(report.regions["right_upper"]).items() if key != "reason")
    assert report.regions["right_lower"].volume_ml > 100
    assert reason in report.scores["ctss25_pan2020"].reason
    assert report.scores["ctss25_pan2020"].value is None
    assert report.scores["zones24"].reason.startswith("right lung is cut off")


# ---- near an edge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pct", "near"), [(3.99, False), (4.0, True), (5.9, True), (6.1, False), (24.5, True), (26.5, False), (76, True)]
)
def test_regions_near_an_edge_are_named(pct, near):
    regions = {name: RegionMeasures(volume_ml=1e4, lesion_ml=pct * 100, lesion_pct=pct) for name in ("left_upper",)}
    result = compute_scores(regions)["ctss25_pan2020"]
    assert result.near_edge == (("left_upper",) if near else ())


@pytest.mark.parametrize(("ml", "near"), [(0.49, False), (0.5, True), (1.99, True), (2.0, False)])
def test_regions_near_the_noise_floor_are_named(ml, near):
    regions = {"both_lungs": RegionMeasures(volume_ml=4000, lesion_ml=ml, lesion_pct=ml / 40)}
    assert compute_scores(regions)["mosmed_ct_both_lungs"].near_edge == (("both_lungs",) if near else ())
    assert compute_scores(regions)["po_chaganti2020"].near_edge == ()


def test_a_region_that_nobody_measured_is_null_with_its_name():
    result = compute_scores({})["po_chaganti2020"]
    assert (result.value, result.reason) == (None, "both_lungs was not measured")


# ---- the table ----------------------------------------------------------------------------------------------------


def test_rules_in_words():
    assert BY_ID["ctss40_yang2020"].rule == "0: none; 1: < 50; 2: >= 50"
    assert BY_ID["tss20_chung2020"].rule == "0: none; 1: <= 25; 2: > 25 and <= 50; 3: > 50 and <= 75; 4: > 75"
    assert BY_ID["po_chaganti2020"].rule == ""
    assert {score.unit for score in SCORES} == {"%", "points", "class"}


def test_scores_over_made_up_regions_say_approximate():
    assert {score.id for score in SCORES if score.approximate} == {"ctss40_yang2020", "zones24"}


# ---- the finding --------------------------------------------------------------------------------------------------


def lungs(lesion_ml, volume_ml=4000.0):
    return RegionMeasures(volume_ml=volume_ml, lesion_ml=lesion_ml)


@pytest.mark.parametrize(
    ("lesion_ml", "interval", "state"),
    [
        (0.0, None, "absent"),
        (0.99, None, "absent"),
        (1.0, None, "uncertain"),
        (39.9, None, "uncertain"),
        (40.0, None, "present"),
        (500.0, None, "present"),
        (0.5, (0.2, 0.9), "absent"),
        (0.5, (0.2, 1.0), "uncertain"),
        (60.0, (39.0, 90.0), "uncertain"),
        (60.0, (40.0, 90.0), "present"),
    ],
)
def test_the_finding_at_every_limit(lesion_ml, interval, state):
    found = find_infection(lungs(lesion_ml), noise_floor_ml=1.0, interval_ml=interval)
    assert found.state == state
    assert found.lesion_ml == lesion_ml
    assert (found.low_ml, found.high_ml) == (interval or (lesion_ml, lesion_ml))
    assert found.text.endswith("A finding on the image, not a diagnosis")


def test_more_than_healthy_lungs_show_is_not_called_as_little():
    below, above = (find_infection(lungs(ml), noise_floor_ml=1.0, interval_ml=(30.0, 90.0)) for ml in (35.0, 60.0))
    assert below.text.startswith("opacities of 35.0 ml (30.0 to 90.0): as little as healthy lungs can show (40.0 ml)")
    assert above.text.startswith("opacities of 60.0 ml (30.0 to 90.0): perhaps as little as healthy lungs can show")


def test_no_lesion_at_all_is_absent_whatever_the_floor():
    assert find_infection(lungs(0.0), noise_floor_ml=0.0).state == "absent"


def test_a_floor_above_what_healthy_lungs_show_is_the_limit():
    assert find_infection(lungs(50.0), noise_floor_ml=60.0).state == "absent"
    assert find_infection(lungs(60.0), noise_floor_ml=60.0).state == "present"


def test_without_lungs_there_is_no_finding():
    found = find_infection(RegionMeasures(reason="the lungs not found"), noise_floor_ml=1.0)
    assert (found.state, found.text, found.lesion_ml) == ("uncertain", "no finding: the lungs not found", None)


# ---- withheld -----------------------------------------------------------------------------------------------------


def test_a_failed_quality_check_stops_the_scores_not_the_volumes(phantom):
    report = measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions)
    stopped = withhold(report, "quality check failed: not_hu")
    assert stopped.regions == report.regions
    assert replace(stopped, scores=report.scores, finding=report.finding) == report
    for id_, result in stopped.scores.items():
        assert (result.value, result.reason) == (None, "quality check failed: not_hu")
        assert set(result.parts) == set(report.scores[id_].parts)
        assert set(result.parts.values()) == {None}
    assert stopped.finding.state == "uncertain"
    assert stopped.finding.text == "no finding: quality check failed: not_hu"
