"""Intervals from mirrored inputs and a band of thresholds."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import pytest

from covsev.assessment import assess
from covsev.lesions.uncertainty import FLIPS, estimate_uncertainty, lesion_variants, score_interval, with_interval
from covsev.lesions.volume import segment_lesions
from covsev.masks.scoring import measure_masks
from covsev.options import Options
from covsev.phantom import make_phantom
from covsev.report.outputs import write
from covsev.report.tables import COLUMNS, row
from covsev.scan.writing import write_csv
from covsev.severity import ScoreResult, measure
from covsev.severity.intervals import Interval


@pytest.fixture(scope="module")
def chest():
    return make_phantom((4.0, 4.0, 8.0))


@pytest.fixture(scope="module")
def estimated(chest, bright_model):
    lesions = segment_lesions(chest.scan, chest.lungs, bright_model)
    report = measure_masks(chest.scan, chest.lungs, chest.lobes, lesions.labels)
    return report, estimate_uncertainty(chest.scan, chest.lungs, chest.lobes, bright_model, report)


def test_every_interval_holds_the_measured_value(estimated):
    report, found = estimated
    assert found.variants == 3 * len(FLIPS)
    for name, intervals in found.regions.items():
        assert set(intervals) >= {"lesion_ml", "lesion_pct", "high_opacity_pct"}
        for field, interval in intervals.items():
            assert interval.low <= getattr(report.regions[name], field) <= interval.high
    for id_, interval in found.scores.items():
        value = report.scores[id_].value
        assert interval.low is None if value is None else interval.low <= value <= interval.high
        assert bool(interval.text) == (interval.low < interval.high or bool(interval.parts))


def test_the_threshold_moves_the_lesion(estimated):
    report, found = estimated
    interval = found.regions["both_lungs"]["lesion_ml"]
    assert interval.low < interval.high
    assert interval.high < 2 * report.regions["both_lungs"].lesion_ml


def test_the_usual_threshold_without_mirroring_is_the_mask_itself(chest, bright_model):
    usual = segment_lesions(chest.scan, chest.lungs, bright_model).labels
    low, same, high = islice(lesion_variants(chest.scan, chest.lungs, bright_model), 3)
    np.testing.assert_array_equal(same, usual)
    assert ((high > 0) <= (usual > 0)).all()
    assert ((usual > 0) <= (low > 0)).all()


@pytest.mark.parametrize("orientation", ["LPS", "SAR"])
def test_mirrored_variants_lie_where_the_mask_lies(bright_model, orientation):
    """A network that looks at single voxels does not mind mirrors: all flips give nearly one mask."""
    chest = make_phantom((4.0, 4.0, 8.0), orientation=orientation)
    variants = list(lesion_variants(chest.scan, chest.lungs, bright_model))
    for variant in variants[4::3]:
        both = np.count_nonzero((variant > 0) & (variants[1] > 0))
        assert 2 * both / (np.count_nonzero(variant) + np.count_nonzero(variants[1])) > 0.97


def test_the_finding_uses_the_interval(estimated):
    report, found = estimated
    interval = found.regions["both_lungs"]["lesion_ml"]
    finding = with_interval(report, found).finding
    assert (finding.low_ml, finding.high_ml) == (interval.low, interval.high)
    wide = replace(found, regions={"both_lungs": {"lesion_ml": Interval(0.0, 500.0)}})
    assert report.finding.state == "present"
    assert with_interval(report, wide).finding.state == "uncertain"


def test_without_lungs_the_finding_stays(chest, estimated):
    none = np.zeros_like(chest.lungs)
    report = measure(chest.scan, none, none, none)
    assert with_interval(report, replace(estimated[1], regions={"both_lungs": {}})) == report


def test_a_null_score_has_no_interval(chest, bright_model):
    lesions = segment_lesions(chest.scan, chest.lungs, bright_model)
    report = measure_masks(chest.scan, chest.lungs, None, lesions.labels)
    found = estimate_uncertainty(chest.scan, chest.lungs, None, bright_model, report)
    assert found.scores["ctss25_pan2020"].low is None
    assert found.scores["po_chaganti2020"].low is not None
    assert "lesion_ml" not in found.regions["left_upper"]


def results(*points):
    """One result a variant of a score over two lobes."""
    return [ScoreResult(sum(pair), 10, dict(zip(("left_upper", "right_lower"), pair, strict=True))) for pair in points]


@pytest.mark.parametrize(
    ("points", "text", "parts"),
    [
        (((1, 2), (1, 2)), "", {}),
        (((1, 2), (1, 3)), "3 to 4; could be higher: right lower", {"right_lower": (2, 3)}),
        (((1, 2), (0, 2)), "2 to 3; could be lower: left upper", {"left_upper": (0, 1)}),
        (
            ((1, 2), (0, 3)),
            "3 to 3; could be higher: right lower; could be lower: left upper",
            {"left_upper": (0, 1), "right_lower": (2, 3)},
        ),
    ],
)
def test_what_could_be_a_band_higher_or_lower_is_said(points, text, parts):
    found = score_interval(results(*points))
    assert found.text == text
    assert {name: (interval.low, interval.high) for name, interval in found.parts.items()} == parts


def test_intervals_are_written_where_they_are_asked_for(chest, bright_model, tmp_path):
    assessment = assess(chest.scan, bright_model, Options(uncertainty=True))
    content = write(assessment, tmp_path)
    assert json.loads(json.dumps(asdict(assessment.uncertainty))) == json.loads(json.dumps(content["uncertainty"]))
    assert "uncertainty" in content["seconds"]
    write_csv([row(content)], tmp_path / "severity.csv", COLUMNS)
    with (tmp_path / "severity.csv").open(newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert float(line["po_chaganti2020_low"]) <= float(line["po_chaganti2020"]) <= float(line["po_chaganti2020_high"])


def test_without_the_option_there_are_none(chest, bright_model, tmp_path):
    content = write(assess(chest.scan, bright_model), tmp_path)
    assert content["uncertainty"] is None
    assert row(content)["po_chaganti2020_low"] is None
