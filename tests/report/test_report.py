"""What leaves covsev: strict JSON, a CSV with all columns, and a picture the right way round."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from covsev import __version__
from covsev.labels import DISCLAIMER, LOBES, Label
from covsev.phantom import make_phantom
from covsev.quality.result import Flag
from covsev.report.overlay import write_overlay
from covsev.report.tables import COLUMNS, failed_row, row, severity_json
from covsev.scan.writing import write_csv, write_json
from covsev.severity import REGION_NAMES, SCORES, measure

PROVENANCE = {
    "source": "scans/a.nii.gz",
    "weights": "0123abcd",
    "recovered_ml": 12.0,
    "po_without_recovery_pct": None,
    "method": {"lungs": "how"},
}
WARNING = Flag("warn", "thick_slices", "slices are 8.0 mm apart", {"mm": 8.0})
TILE_PX = 300


@pytest.fixture(scope="module")
def report(phantom):
    return measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions)


@pytest.fixture(scope="module")
def one_lung_report(phantom):
    right = np.where(phantom.lungs == 1, 1, 0).astype(np.uint8)
    return measure(phantom.scan, right, right * phantom.lobes, phantom.lesions)


def content_of(report, flags=()):
    return severity_json(report, flags, PROVENANCE)


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# ---- JSON ------------------------------------------------------------------------------------------------------


def test_json_survives_the_file(tmp_path, report):
    content = content_of(report, [WARNING])
    write_json(content, tmp_path / "a.json")
    assert strict(tmp_path / "a.json") == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_says_what_who_and_how(report):
    content = content_of(report, [WARNING])
    assert content["case"] == "phantom"
    assert content["covsev_version"] == __version__
    assert content["disclaimer"] == DISCLAIMER
    assert content["quality"] == "warn"
    assert content["flags"] == [{"level": "warn", "code": "thick_slices", "text": WARNING.text, "numbers": {"mm": 8.0}}]
    assert {key: content[key] for key in PROVENANCE} == PROVENANCE


def test_json_holds_every_score_with_its_source_and_every_region(report):
    content = content_of(report)
    assert list(content["scores"]) == [score.id for score in SCORES]
    assert list(content["regions"]) == list(REGION_NAMES)
    for id_, result in report.scores.items():
        assert content["scores"][id_]["value"] == result.value
        assert re.search(r"\d{4}", content["scores"][id_]["source"])
    assert content["regions"]["left_lower"]["lesion_ml"] == report.regions["left_lower"].lesion_ml
    assert content["quality"] == "pass"


def test_absent_regions_are_null_with_a_reason_never_zero(tmp_path, one_lung_report):
    write_json(content_of(one_lung_report), tmp_path / "a.json")
    content = strict(tmp_path / "a.json")
    region = content["regions"]["left_upper"]
    assert region.pop("reason") == "left upper lobe not found: less than 1 ml"
    assert set(region.values()) == {None}
    score = content["scores"]["ctss25_pan2020"]
    assert score["value"] is None
    assert score["parts"]["left_upper"] is None
    assert score["parts"]["right_lower"] >= 1
    assert "left upper lobe not found" in score["reason"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_not_json_and_leaves_no_file(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"value": value}, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


# ---- CSV -------------------------------------------------------------------------------------------------------


def test_columns_are_unique_and_name_every_score_and_region():
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert {score.id for score in SCORES} < set(COLUMNS)
    assert {f"{region}_lesion_pct" for region in REGION_NAMES} < set(COLUMNS)


def test_a_row_of_numbers_has_every_column_but_those_of_failure(report):
    assert set(COLUMNS) - set(row(content_of(report))) == {"code", "reason"}


def test_csv_holds_the_numbers(tmp_path, report):
    write_csv([row(content_of(report, [WARNING, replace(WARNING, code="fused")]))], tmp_path / "severity.csv", COLUMNS)
    (line,) = read_csv(tmp_path / "severity.csv")
    assert tuple(line) == COLUMNS
    assert (line["case"], line["status"], line["quality"]) == ("phantom", "ok", "warn")
    assert line["flags"] == "thick_slices fused"
    assert float(line["ctss25_pan2020"]) == report.scores["ctss25_pan2020"].value
    assert float(line["both_lungs_volume_ml"]) == pytest.approx(report.regions["both_lungs"].volume_ml, rel=1e-5)
    assert line["recovered_ml"] == "12"
    assert line["disclaimer"] == DISCLAIMER


def test_null_is_an_empty_cell_and_zero_is_zero(tmp_path, one_lung_report):
    write_csv([row(content_of(one_lung_report))], tmp_path / "severity.csv", COLUMNS)
    (line,) = read_csv(tmp_path / "severity.csv")
    assert line["left_upper_lesion_ml"] == ""
    assert line["ctss25_pan2020"] == ""
    assert line["right_upper_consolidation_ml"] == "0"


def test_failed_rows_carry_code_and_reason_and_no_numbers(tmp_path, report):
    failed = failed_row("b", "scans/b.nii.gz", "no_lungs", 'scan b: no "lung", or so')
    write_csv([row(content_of(report)), failed], tmp_path / "severity.csv", COLUMNS)
    good, bad = read_csv(tmp_path / "severity.csv")
    assert (good["code"], good["reason"]) == ("", "")
    assert (bad["status"], bad["code"], bad["reason"]) == ("failed", "no_lungs", 'scan b: no "lung", or so')
    assert (bad["case"], bad["source"], bad["disclaimer"]) == ("b", "scans/b.nii.gz", DISCLAIMER)
    assert {bad[score.id] for score in SCORES} == {""}


def test_csv_of_no_scan_is_its_header(tmp_path):
    write_csv([], tmp_path / "severity.csv", COLUMNS)
    assert (tmp_path / "severity.csv").read_text().strip().split(",") == list(COLUMNS)


def test_csv_refuses_an_unknown_column_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "severity.csv"
    write_csv([], path, COLUMNS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="fields not in fieldnames: 'surprise'"):
        write_csv([{"surprise": 1}], path, COLUMNS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- overlay -----------------------------------------------------------------------------------------------------


def overlay(folder, phantom, lesions=None):
    """The picture as (rows, columns, 3)."""
    lesions = phantom.lesions if lesions is None else lesions
    write_overlay(phantom.scan, phantom.lungs, phantom.lobes, lesions, folder / "a.png", caption="phantom, größer")
    assert [path.name for path in folder.iterdir()] == ["a.png"]
    with Image.open(folder / "a.png") as picture:
        return np.array(picture).astype(int)


def tile(picture, number):
    top, left = (TILE_PX * n for n in divmod(number, 4))
    return picture[top : top + TILE_PX, left : left + TILE_PX]


def near(pixels, label: Label):
    """Rows and columns of the pixels in the colour of ``label``."""
    found = np.argwhere(np.abs(pixels - np.array(label.rgb)).max(axis=2) <= 12)
    assert len(found) > 5
    return found.T


@pytest.fixture(scope="module")
def picture(phantom, tmp_path_factory):
    return overlay(tmp_path_factory.mktemp("overlay"), phantom)


def test_overlay_is_a_sheet_of_eight_tiles_with_a_legend(picture):
    assert picture.shape == (2 * TILE_PX + 48, 4 * TILE_PX, 3)
    legend = picture[2 * TILE_PX :]
    for label in LOBES:
        near(legend, label)


def test_every_slice_says_its_number_and_where_right_is(picture):
    for number in range(8):
        name, right = (
            tile(picture, number)[4:18, 6:90],
            tile(picture, number)[TILE_PX // 2 - 8 : TILE_PX // 2 + 8, 4:18],
        )
        assert (name.min(axis=2) > 200).sum() > 60
        assert (right.min(axis=2) > 200).sum() > 8
    names = [tile(picture, number)[4:18, 6:110] for number in range(8)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(names) for b in names[:i])


LEFT_UPPER, LEFT_LOWER, RIGHT_UPPER, RIGHT_MIDDLE, RIGHT_LOWER = LOBES
CORONAL = 6


@pytest.mark.parametrize("caption", ["plain", "größer", "肺炎 12"])
def test_any_caption_can_be_written(caption, phantom, tmp_path):
    maps = (phantom.lungs, phantom.lobes, phantom.lesions)
    write_overlay(phantom.scan, *maps, tmp_path / "a.png", caption=caption)
    with Image.open(tmp_path / "a.png") as picture:
        line = np.array(picture).astype(int)[2 * TILE_PX + 4 : 2 * TILE_PX + 20]
    assert (line.min(axis=2) > 150).sum() > 200


def test_the_patients_right_is_at_the_left_of_the_picture(picture):
    for number in (2, 3):
        assert near(tile(picture, number), RIGHT_LOWER)[1].max() < TILE_PX / 2
        assert near(tile(picture, number), LEFT_LOWER)[1].min() > TILE_PX / 2


def test_the_front_is_at_the_top_of_axial_slices(picture):
    assert near(tile(picture, 3), LEFT_UPPER)[0].mean() < near(tile(picture, 3), LEFT_LOWER)[0].mean()


def test_the_head_is_at_the_top_of_coronal_slices(picture):
    coronal = tile(picture, CORONAL)
    assert near(coronal, RIGHT_UPPER)[0].mean() < near(coronal, RIGHT_MIDDLE)[0].mean()
    assert near(coronal, RIGHT_LOWER)[1].mean() < TILE_PX / 2


def test_orientation_of_the_array_does_not_matter(tmp_path, picture):
    turned = make_phantom((3, 3, 4), orientation="SAR")
    np.testing.assert_array_equal(overlay(tmp_path, turned), picture)


def test_the_slice_with_most_lesion_is_shown(tmp_path, phantom):
    lesions = np.zeros_like(phantom.lesions)
    lesions[40:50, 40:50, 45] = 2
    with_lesion, without = (overlay(_sub(tmp_path, name), phantom, lesions * n) for n, name in ((1, "one"), (0, "no")))
    red, no_red = ((p[: 2 * TILE_PX, :, 0] - p[: 2 * TILE_PX, :, 2] > 60).sum() for p in (with_lesion, without))
    assert red > no_red + 400


def _sub(folder, name):
    (folder / name).mkdir()
    return folder / name
