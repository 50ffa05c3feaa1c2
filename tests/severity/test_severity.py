"""The severity engine: bands, sums, measures by hand, absent regions, and what must never change a number."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covsev.errors import GridMismatchError
from covsev.labels import LOBES as LABELS
from covsev.labels import SEGMENTS
from covsev.scan import make_scan
from covsev.severity import REGION_NAMES, SCORES, RegionMeasures, measure
from covsev.severity.regions import SEGMENT_NAMES, ZONE_NAMES, measure_main
from covsev.severity.scores import band, compute_scores
from covsev.severity.tallies import tally

LOBES = ("left_upper", "left_lower", "right_upper", "right_middle", "right_lower")
LUNGS = ("right_lung", "left_lung")
BY_ID = {score.id: score for score in SCORES}

# Percentage and points at, just below and just above every edge, from the papers.
FIFTHS = [
    (0, 0), (0.001, 1), (4.999, 1), (5, 2), (5.001, 2), (24.999, 2), (25, 2), (25.001, 3),
    (49.999, 3), (50, 4), (50.001, 4), (74.999, 4), (75, 4), (75.001, 5), (100, 5),
]  # fmt: skip
QUARTERS = [
    (0, 0), (0.001, 1), (24.999, 1), (25, 1), (25.001, 2), (49.999, 2), (50, 2), (50.001, 3),
    (74.999, 3), (75, 3), (75.001, 4), (100, 4),
]  # fmt: skip
MOSMED = [
    (0, 0), (0.001, 1), (24.999, 1), (25, 2), (25.001, 2), (49.999, 2), (50, 3), (50.001, 3),
    (74.999, 3), (75, 3), (75.001, 4), (100, 4),
]  # fmt: skip
HALVES = [(0, 0), (0.001, 1), (49.999, 1), (50, 2), (50.001, 2), (100, 2)]
ZONES = [
    (0, 0), (0.001, 1), (24.999, 1), (25, 2), (25.001, 2), (49.999, 2), (50, 3), (50.001, 3),
    (74.999, 3), (75, 4), (75.001, 4), (100, 4),
]  # fmt: skip
BANDED = {
    "ctss25_pan2020": ("lesion", LOBES, FIFTHS),
    "tss20_chung2020": ("lesion", LOBES, QUARTERS),
    "lss_chaganti2020": ("lesion", LOBES, QUARTERS),
    "lhos_chaganti2020": ("high_opacity", LOBES, QUARTERS),
    "mosmed_ct_worse_lung": ("lesion", LUNGS, MOSMED),
    "mosmed_ct_both_lungs": ("lesion", ("both_lungs",), MOSMED),
    "ctss40_yang2020": ("lesion", SEGMENT_NAMES, HALVES),
    "zones24": ("lesion", ZONE_NAMES, ZONES),
}
PERCENTAGES = {"po_chaganti2020", "pho_chaganti2020", "wal_colombi2020"}
MAXIMA = {
    "ctss25_pan2020": 25,
    "tss20_chung2020": 20,
    "lss_chaganti2020": 20,
    "lhos_chaganti2020": 20,
    "mosmed_ct_worse_lung": 4,
    "mosmed_ct_both_lungs": 4,
    "po_chaganti2020": 100,
    "pho_chaganti2020": 100,
    "wal_colombi2020": 100,
    "ctss40_yang2020": 40,
    "zones24": 24,
}
ALL_NAMES = (*REGION_NAMES, *ZONE_NAMES, *SEGMENT_NAMES)


def region(lesion_pct=0.0, high_opacity_pct=0.0, volume_ml=1000.0, well_aerated_pct=0.0):
    """A region without density; percentages of ``volume_ml``."""
    return RegionMeasures(
        volume_ml=volume_ml,
        lesion_ml=lesion_pct * volume_ml / 100,
        lesion_pct=lesion_pct,
        high_opacity_ml=high_opacity_pct * volume_ml / 100,
        high_opacity_pct=high_opacity_pct,
        well_aerated_pct=well_aerated_pct,
    )


def regions(**changed):
    """All regions, healthy but for those named."""
    return {name: region() for name in ALL_NAMES} | changed


def scores(*, noise_floor_ml=0.0, **changed):
    return compute_scores(regions(**changed), noise_floor_ml=noise_floor_ml)


# ---- bands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "kind", "name", "pct", "points"),
    [
        (score, kind, name, pct, points)
        for score, (kind, names, table) in BANDED.items()
        for name in names
        for pct, points in table
    ],
)
def test_points_at_every_edge(score, kind, name, pct, points):
    result = scores(**{name: region(**{f"{kind}_pct": pct})})[score]
    assert result.parts[name] == points
    assert result.value == points  # the other regions are healthy


@pytest.mark.parametrize("id_", BANDED)
def test_edges_in_code_are_those_of_the_tables(id_):
    _, names, table = BANDED[id_]
    score = BY_ID[id_]
    assert score.regions == names
    assert {edge.pct for edge in score.edges} <= {pct for pct, _ in table}
    assert len(score.edges) + 1 == max(points for _, points in table)


def test_no_score_is_untested():
    assert set(BY_ID) == set(MAXIMA) == set(BANDED) | PERCENTAGES


@pytest.mark.parametrize(("id_", "maximum"), MAXIMA.items())
def test_a_chest_full_of_consolidation_has_the_maximum(id_, maximum):
    full = dict.fromkeys(ALL_NAMES, region(100, 100, well_aerated_pct=100))
    result = compute_scores(full)[id_]
    assert result.value == result.maximum == maximum


@pytest.mark.parametrize("id_", MAXIMA)
def test_a_healthy_chest_has_zero_not_null(id_):
    result = scores()[id_]
    assert result.value == 0
    assert result.reason is None


def test_a_lobar_score_is_the_sum_of_its_lobes():
    lesions = dict(zip(LOBES, (0, 3, 10, 30, 80), strict=True))
    result = scores(**{name: region(pct) for name, pct in lesions.items()})
    assert list(result["ctss25_pan2020"].parts.values()) == [0, 1, 2, 3, 5]
    assert result["ctss25_pan2020"].value == 11
    assert result["tss20_chung2020"].value == 0 + 1 + 1 + 2 + 4


def test_the_worse_lung_counts():
    result = scores(right_lung=region(30), left_lung=region(60), both_lungs=region(44))
    assert result["mosmed_ct_worse_lung"].value == 3
    assert result["mosmed_ct_both_lungs"].value == 2


def test_percentages_are_those_of_both_lungs():
    result = scores(both_lungs=region(12.5, 3.25), right_lung=region(25), left_lung=region(0))
    assert result["po_chaganti2020"].value == 12.5
    assert result["pho_chaganti2020"].value == 3.25


def test_high_opacity_is_not_opacity():
    result = scores(right_upper=region(lesion_pct=60, high_opacity_pct=10))
    assert result["lss_chaganti2020"].value == 3
    assert result["lhos_chaganti2020"].value == 1


@pytest.mark.parametrize("pct", [-0.001, 100.001, float("nan")])
def test_a_percentage_beyond_its_range_is_refused(pct):
    with pytest.raises(ValueError, match=rf"pct must be in 0\.\.100; got {pct}"):
        band(pct, BY_ID["ctss25_pan2020"].edges)


@pytest.mark.parametrize(
    ("id_", "changed", "reading"),
    [
        ("ctss25_pan2020", dict.fromkeys(LOBES[:4], region(50)) | {"right_lower": region(1)}, None),
        ("ctss25_pan2020", dict.fromkeys(LOBES[:4], region(50)) | {"right_lower": region(5)}, "18 or more: higher"),
        ("po_chaganti2020", {}, "below 1 %"),
        ("po_chaganti2020", {"both_lungs": region(0.999)}, "below 1 %"),
        ("po_chaganti2020", {"both_lungs": region(1)}, "1 % or more"),
        ("mosmed_ct_both_lungs", {}, "CT-0, none"),
        ("mosmed_ct_both_lungs", {"both_lungs": region(1)}, "CT-1, mild"),
        ("mosmed_ct_both_lungs", {"both_lungs": region(25)}, "CT-2, moderate"),
        ("mosmed_ct_both_lungs", {"both_lungs": region(50)}, "CT-3, severe"),
        ("mosmed_ct_worse_lung", {"left_lung": region(76)}, "CT-4, critical"),
        ("tss20_chung2020", dict.fromkeys(LOBES, region(100)), None),
        ("ctss40_yang2020", dict.fromkeys(SEGMENT_NAMES[:19], region(1)), "below 19.5: mild"),
        ("ctss40_yang2020", dict.fromkeys(SEGMENT_NAMES, region(1)), "19.5 or more: severe"),
        ("wal_colombi2020", {"both_lungs": region(well_aerated_pct=70.999)}, "below 71 %"),
        ("wal_colombi2020", {"both_lungs": region(well_aerated_pct=71)}, "71 % or more"),
        ("zones24", dict.fromkeys(ZONE_NAMES, region(100)), None),
    ],
)
def test_reading_of_a_value(id_, changed, reading):
    found = scores(**changed)[id_].reading
    assert found is None if reading is None else found.startswith(reading)


# ---- noise floor -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lesion_ml", "points"), [(0.5, 0), (0.999, 0), (1.0, 1), (1.001, 1)])
def test_lesion_below_the_noise_floor_is_band_zero(lesion_ml, points):
    small = region(lesion_pct=lesion_ml, volume_ml=100.0)
    result = scores(noise_floor_ml=1.0, left_upper=small, both_lungs=small)
    assert result["ctss25_pan2020"].parts["left_upper"] == points
    assert result["mosmed_ct_both_lungs"].value == points
    assert result["po_chaganti2020"].value == lesion_ml  # the raw number stays


def test_the_noise_floor_of_high_opacity_looks_at_high_opacity():
    result = scores(noise_floor_ml=5.0, left_upper=region(lesion_pct=50, high_opacity_pct=0.4))
    assert result["lss_chaganti2020"].value == 2
    assert result["lhos_chaganti2020"].value == 0


# ---- absent regions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", LOBES)
@pytest.mark.parametrize("id_", [id_ for id_, (_, names, _) in BANDED.items() if names == LOBES])
def test_an_absent_lobe_leaves_null_with_its_reason(id_, absent):
    result = scores(**{absent: RegionMeasures(reason=f"{absent} not found")})[id_]
    assert result.value is None
    assert result.reading is None
    assert result.reason == f"{absent} not found"
    assert [name for name, points in result.parts.items() if points is None] == [absent]


def test_reasons_of_all_absent_lobes_are_given():
    absent = {name: RegionMeasures(reason=f"no {name}") for name in ("left_upper", "left_lower")}
    assert scores(**absent)["tss20_chung2020"].reason == "no left_upper; no left_lower"


def test_an_absent_lung_leaves_the_worse_lung_null_and_both_lungs_a_number():
    result = scores(left_lung=RegionMeasures(reason="no left lung"))
    assert result["mosmed_ct_worse_lung"].value is None
    assert result["mosmed_ct_both_lungs"].value == 0


# ---- measures, by hand -----------------------------------------------------------------------------------------------

R, L = 1, 2
LU, LL, RU, RM, RL = 1, 2, 3, 4, 5
GGO, CONSOLIDATION = 1, 2
VOXELS = [  # HU, lung, lobe, lesion
    (-900, R, RU, 0),
    (-800, R, RU, 0),
    (-600, R, RU, GGO),
    (-100, R, RU, CONSOLIDATION),
    (-800, R, RM, 0),
    (-820, R, RM, 0),
    (-200, R, RL, GGO),  # not above -200: not high opacity
    (-199, R, RL, GGO),
    (-850, L, LU, 0),
    (-850, L, LU, 0),
    (-850, L, LL, 0),
    (50, L, LL, 0),  # dense, but no lesion: a vessel
    (40, 0, 0, CONSOLIDATION),  # outside the lungs
]


def hand_made(voxels=VOXELS):
    """The four arrays of a table of voxels, as (N, 1, 1) volumes."""
    columns = np.array(voxels).T.reshape(4, -1, 1, 1)
    return columns[0].astype(np.int16), *(column.astype(np.uint8) for column in columns[1:])


def region_of(name, voxel_ml=1.0, voxels=VOXELS):
    return measure_main(tally(*hand_made(voxels)), voxel_ml)[name]


@pytest.mark.parametrize(
    ("name", "volume", "lesion", "ggo", "consolidation", "high"),
    [
        ("both_lungs", 12, 4, 3, 1, 2),
        ("right_lung", 8, 4, 3, 1, 2),
        ("left_lung", 4, 0, 0, 0, 0),
        ("right_upper", 4, 2, 1, 1, 1),
        ("right_middle", 2, 0, 0, 0, 0),
        ("right_lower", 2, 2, 2, 0, 1),
        ("left_upper", 2, 0, 0, 0, 0),
        ("left_lower", 2, 0, 0, 0, 0),
    ],
)
@pytest.mark.parametrize("voxel_ml", [1.0, 2.5])
def test_volumes_of_every_region(name, volume, lesion, ggo, consolidation, high, voxel_ml):
    found = region_of(name, voxel_ml)
    assert found.volume_ml == volume * voxel_ml
    assert found.lesion_ml == lesion * voxel_ml
    assert found.ggo_ml == ggo * voxel_ml
    assert found.consolidation_ml == consolidation * voxel_ml
    assert found.high_opacity_ml == high * voxel_ml
    assert found.lesion_pct == pytest.approx(100 * lesion / volume)
    assert found.high_opacity_pct == pytest.approx(100 * high / volume)
    assert found.reason is None


@pytest.mark.parametrize(
    ("name", "mean", "sd", "lesion_mean", "lesion_sd"),
    [
        ("right_upper", -600, 95_000**0.5, -350, 250),
        ("right_middle", -810, 10, None, None),
        ("right_lower", -199.5, 0.5, -199.5, 0.5),
        ("left_upper", -850, 0, None, None),
        ("left_lower", -400, 450, None, None),
        ("left_lung", -625, (3 * 225**2 + 675**2) ** 0.5 / 2, None, None),
    ],
)
def test_density_of_a_region(name, mean, sd, lesion_mean, lesion_sd):
    found = region_of(name)
    assert (found.mean_hu, found.sd_hu) == pytest.approx((mean, sd))
    assert (found.lesion_mean_hu, found.lesion_sd_hu) == pytest.approx((lesion_mean, lesion_sd))


@pytest.mark.parametrize("hu", [np.int16(-850), np.float32(-850.1)])
def test_the_spread_of_one_value_is_zero_not_nan(hu):
    lung = np.ones((40, 40, 40), np.uint8)
    found = measure_main(tally(np.full(lung.shape, hu), lung, 0 * lung, 0 * lung), 0.001)["right_lung"]
    assert found.sd_hu == pytest.approx(0, abs=1e-3)


def test_regions_are_all_there_in_order():
    found = tuple(measure_main(tally(*hand_made()), 1.0))
    assert found == REGION_NAMES
    assert found == ("both_lungs", *LUNGS, *LOBES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("left_upper", "left upper lobe"),
        ("right_middle", "right middle lobe"),
        ("left_lung", "left lung"),
        ("both_lungs", "the lungs"),
    ],
)
def test_an_absent_region_is_null_with_a_reason_never_zero(name, text):
    found = region_of(name, voxels=[(40, 0, 0, 0)])
    assert found == RegionMeasures(reason=f"{text} not found: less than 1 ml")
    assert all(value is None for field, value in asdict(found).items() if field != "reason")


@pytest.mark.parametrize(("voxel_ml", "there"), [(0.499, False), (0.5, True)])
def test_a_region_of_a_millilitre_is_there(voxel_ml, there):
    assert (region_of("right_middle", voxel_ml).volume_ml is not None) is there


@pytest.mark.parametrize(("name", "position"), [("lungs", 1), ("lobes", 2), ("lesions", 3)])
def test_labels_on_another_grid_are_refused(name, position):
    arrays = list(hand_made())
    arrays[position] = arrays[position][1:]
    with pytest.raises(GridMismatchError, match=rf"{name} has shape \(12, 1, 1\), but hu has \(13, 1, 1\)"):
        measure_main(tally(*arrays), 1.0)


@pytest.mark.parametrize(("name", "position", "known"), [("lungs", 1, 2), ("lobes", 2, 5), ("lesions", 3, 2)])
def test_unknown_labels_are_refused(name, position, known):
    arrays = hand_made()
    arrays[position][0] = known + 1
    with pytest.raises(ValueError, match=f"{name} has label {known + 1}; known are 0 to {known}"):
        measure_main(tally(*arrays), 1.0)


# ---- the report --------------------------------------------------------------------------------------------------


def segments_of(phantom):
    """A made-up division of each lobe into its segments, in stripes along the first axis."""
    segments = np.zeros_like(phantom.lobes)
    for lobe in LABELS:
        ids = np.array([s.id for s in SEGMENTS if s.lobe == lobe], np.uint8)
        x = np.nonzero(phantom.lobes == lobe.id)[0]
        segments[phantom.lobes == lobe.id] = ids[(x - x.min()) * len(ids) // (np.ptp(x) + 1)]
    return segments


def report_of(phantom, **kwargs):
    return measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions, **kwargs)


def test_report_of_the_phantom_is_that_of_its_truth(phantom):
    report = report_of(phantom)
    ml = phantom.scan.voxel_ml
    assert (report.case, report.voxel_ml, report.noise_floor_ml) == ("phantom", ml, 1.0)
    both = report.regions["both_lungs"]
    assert both.volume_ml == pytest.approx(np.count_nonzero(phantom.lungs) * ml)
    assert both.ggo_ml == pytest.approx(np.count_nonzero(phantom.lesions == GGO) * ml)
    assert both.lesion_ml == pytest.approx(both.ggo_ml + both.consolidation_ml)
    assert both.mean_hu == pytest.approx(phantom.scan.hu[phantom.lungs > 0].mean())
    assert both.sd_hu == pytest.approx(phantom.scan.hu[phantom.lungs > 0].std())
    lobes_ml = sum(report.regions[name].volume_ml for name in LOBES)
    assert lobes_ml == pytest.approx(both.volume_ml)
    assert report.scores["po_chaganti2020"].value == both.lesion_pct


def test_a_healthy_phantom_is_ct_zero(healthy):
    found = {id_: result.value for id_, result in report_of(healthy, segments=segments_of(healthy)).scores.items()}
    assert found.pop("wal_colombi2020") > 70
    assert found == dict.fromkeys(set(MAXIMA) - {"wal_colombi2020"}, 0)


def test_a_high_noise_floor_silences_the_bands_not_the_numbers(phantom):
    report = report_of(phantom, noise_floor_ml=1e6)
    assert report.scores["ctss25_pan2020"].value == 0
    assert report.scores["po_chaganti2020"].value > 1


def test_one_lung_has_values_on_its_side_only(healthy):
    one = np.where(healthy.lungs == R, R, 0).astype(np.uint8)
    report = measure(healthy.scan, one, np.where(one > 0, healthy.lobes, 0).astype(np.uint8), healthy.lesions)
    assert report.regions["left_lung"].reason == "left lung not found: less than 1 ml"
    assert report.regions["right_lung"].volume_ml > 1000
    assert report.scores["ctss25_pan2020"].reason.startswith("left upper lobe not found: less than 1 ml; left lower")


@pytest.mark.parametrize("floor", [-0.1, float("nan")])
def test_a_noise_floor_below_zero_is_refused(healthy, floor):
    with pytest.raises(ValueError, match=f"noise_floor_ml must be at least 0; got {floor}"):
        report_of(healthy, noise_floor_ml=floor)


def test_whole_numbers_are_counted_alike_in_both_types():
    hu = np.arange(-(2**15), 2**15).astype(np.int16).reshape(64, 64, 16)
    maps = [np.ones(hu.shape, np.uint8), np.full(hu.shape, 5, np.uint8), (hu > 0).astype(np.uint8)]
    whole, real = tally(hu, *maps), tally(hu.astype(np.float32), *maps)
    np.testing.assert_array_equal(whole.count, real.count)
    np.testing.assert_array_equal(whole.sum_hu2, real.sum_hu2)


def test_measure_refuses_another_grid(healthy):
    with pytest.raises(GridMismatchError, match="lobes has shape"):
        measure(healthy.scan, healthy.lungs, healthy.lobes[1:], healthy.lesions)


# ---- what must never change a number -------------------------------------------------------------------------------


def chest_of_noise(seed):
    """Random HU and labels, (6, 7, 8) voxels, some lobes thin enough to be absent at small voxels."""
    rng = np.random.default_rng(seed)
    shape = (6, 7, 8)
    lobes = rng.choice(6, shape, p=rng.dirichlet(np.ones(6))).astype(np.uint8)
    lungs = np.array([0, L, L, R, R, R], np.uint8)[lobes]
    lesions = rng.choice(3, shape, p=rng.dirichlet(np.ones(3))).astype(np.uint8)
    return rng.integers(-1000, 200, shape).astype(np.int16), lungs, lobes, lesions


def all_numbers(arrays, voxel_ml):
    found = measure_main(tally(*arrays), voxel_ml)
    return found, compute_scores(found)


def rounded(measures):
    """Measures up to the last digits, which depend on the order of a sum."""
    return {key: value if value is None or isinstance(value, str) else pytest.approx(value) for key, value in measures}


def report_of_noise(seed, affine, change=lambda array: array):
    hu, lungs, lobes, lesions = chest_of_noise(seed)
    segments = np.array([0, 11, 16, 1, 4, 6], np.uint8)[lobes]
    big = [np.pad(a.repeat(3, 0).repeat(3, 1), 1) for a in (hu, lungs, lobes, lesions, segments)]
    arrays = [change(array) for array in big]
    return measure(make_scan(arrays[0], affine, case="noise"), *arrays[1:4], segments=arrays[4])


seeds = st.integers(0, 10_000)
voxel_mls = st.sampled_from([0.01, 0.1, 1.0])


@given(seed=seeds, voxel_ml=voxel_mls, axes=st.permutations(range(3)), flips=st.sets(st.integers(0, 2)))
def test_turning_the_patient_changes_nothing(seed, voxel_ml, axes, flips):
    arrays = chest_of_noise(seed)
    turned = [np.flip(array.transpose(axes), tuple(flips)) for array in arrays]
    assert all_numbers(turned, voxel_ml) == all_numbers(arrays, voxel_ml)


@given(seed=seeds, voxel_ml=voxel_mls)
def test_adding_lesion_never_lowers_a_score(seed, voxel_ml):
    hu, lungs, lobes, lesions = chest_of_noise(seed)
    added = np.random.default_rng(seed + 1).integers(0, 3, lesions.shape).astype(np.uint8)
    more = np.where(lesions == 0, added, lesions)
    before, after = (all_numbers((hu, lungs, lobes, some), voxel_ml)[1] for some in (lesions, more))
    for id_, result in before.items():
        assert (result.value is None) == (after[id_].value is None)
        assert result.value is None or after[id_].value >= result.value


@given(seed=seeds, voxel_ml=voxel_mls)
def test_numbers_stay_in_their_ranges(seed, voxel_ml):
    found, results = all_numbers(chest_of_noise(seed), voxel_ml)
    for measures in found.values():
        assert (measures.volume_ml is None) == (measures.reason is not None)
        if measures.volume_ml is not None:
            assert 0 <= measures.high_opacity_ml <= measures.lesion_ml <= measures.volume_ml
            assert 0 <= measures.high_opacity_pct <= measures.lesion_pct <= 100
            assert measures.lesion_ml == pytest.approx(measures.ggo_ml + measures.consolidation_ml)
    for result in results.values():
        assert (result.value is None) == (result.reason is not None)
        assert result.value is None or 0 <= result.value <= result.maximum


@given(seed=seeds)
def test_lesion_outside_the_lungs_does_not_count(seed):
    hu, lungs, lobes, lesions = chest_of_noise(seed)
    inside = np.where(lungs > 0, lesions, 0).astype(np.uint8)
    assert all_numbers((hu, lungs, lobes, inside), 0.1) == all_numbers((hu, lungs, lobes, lesions), 0.1)


LPS = np.diag([-4.0, -4.0, 9.0, 1.0])


@settings(max_examples=30)
@given(seed=seeds, axes=st.permutations(range(3)), flips=st.sets(st.integers(0, 2)))
def test_storing_the_patient_otherwise_changes_nothing(seed, axes, flips):
    """Permuted and flipped arrays with the affine that says so: the same patient, zones and segments too."""
    shape = np.array(chest_of_noise(seed)[0].shape) * (3, 3, 1) + 2
    affine = LPS.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
        affine[:3, axis] *= -1
    affine[:, :3] = affine[:, list(axes)]
    turned = report_of_noise(seed, affine, lambda array: np.flip(array, tuple(flips)).transpose(axes))
    assert turned == report_of_noise(seed, LPS)


@settings(max_examples=30)
@given(seed=seeds, axis=st.integers(0, 2), times=st.integers(2, 3))
def test_thinner_voxels_of_the_same_patient_change_nothing(seed, axis, times):
    affine = LPS.copy()
    affine[:3, axis] /= times
    before = report_of_noise(seed, LPS)
    after = report_of_noise(seed, affine, lambda array: np.repeat(array, times, axis=axis))
    for name, measures in (before.regions | before.subregions).items():
        expected = asdict((after.regions | after.subregions)[name])
        assert asdict(measures) == rounded(expected.items())
    assert {id_: r.value for id_, r in before.scores.items()} == rounded(
        (id_, r.value) for id_, r in after.scores.items()
    )


@settings(max_examples=30)
@given(seed=seeds)
def test_lobes_and_zones_sum_to_the_lungs_and_right_and_left_to_both(seed):
    report = report_of_noise(seed, LPS)
    ml = {name: m.volume_ml for name, m in (report.regions | report.subregions).items()}
    parts = {
        "both_lungs": LUNGS,
        "right_lung": ("right_upper", "right_middle", "right_lower"),
        "left_lung": ("left_upper", "left_lower"),
    }
    for side in ("right", "left"):
        parts[f"{side}_lung_zones"] = tuple(name for name in ZONE_NAMES if name.startswith(side))
    for whole, names in parts.items():
        if None not in [ml[name] for name in names]:
            assert sum(ml[name] for name in names) == pytest.approx(ml[whole.removesuffix("_zones")])


def test_every_measure_is_a_number_where_lesion_is():
    found = region_of("right_upper")
    assert all(getattr(found, field.name) is not None for field in fields(found) if field.name != "reason")


def test_the_engine_imports_neither_torch_nor_monai():
    code = "import sys, covsev.severity; print([name for name in ('torch', 'monai') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_scan_in_memory_is_enough():
    arrays = [np.pad(array.repeat(16, axis=1).repeat(16, axis=2), 1) for array in hand_made()]
    scan = make_scan(arrays[0], np.diag([10.0, 10.0, 10.0, 1.0]), case="memory")
    report = measure(scan, *arrays[1:])
    assert report.voxel_ml == pytest.approx(1.0)
    assert report.regions["right_upper"].lesion_ml == pytest.approx(2 * 256)
