"""The page of one scan, without a browser: what it says, what it never says, and that it stands alone."""

from __future__ import annotations

import base64
import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import FAILED, PROVENANCE, WARNED, content_of, content_without_lobes, maps_of, text_of, visible

from covsev import labels
from covsev.errors import CovsevError
from covsev.report.page import niivue
from covsev.report.page.charts import density_histogram, distribution, lobe_colours
from covsev.report.page.page import report_page, write_report
from covsev.report.page.slices import AXIAL, CORONAL, picture_slices
from covsev.report.page.words import NO_VALUE, findings, interval_text, number, plain_tree, score_text
from covsev.scan import make_scan

NEVER = re.compile(r"\b(nan|NaN|None|inf|Infinity|undefined|null)\b")  # "CT-0, none" is a reading


@pytest.fixture(scope="module")
def pages(phantom, healthy):
    contents = {
        "perfect": (content_of(phantom), phantom),
        "warned": (content_of(phantom, WARNED), phantom),
        "failed": (content_of(phantom, FAILED), phantom),
        "healthy": (content_of(healthy), healthy),
        "no lobes": (content_without_lobes(phantom), phantom),
    }
    return {
        name: (content, report_page(content, chest.scan, *maps_of(chest)))
        for name, (content, chest) in contents.items()
    }


KINDS = ("perfect", "warned", "failed", "healthy", "no lobes")


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_says_nan_or_none(pages, kind):
    text = text_of(visible(pages[kind][1]))
    assert not [text[max(0, m.start() - 40) : m.end() + 40] for m in NEVER.finditer(text)]
    attributes = re.findall(r'(?:aria-label|alt|title|style|x|y|width|height)="([^"]*)"', visible(pages[kind][1]))
    assert not [value for value in attributes if NEVER.search(value)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_stands_alone_and_is_small(pages, kind):
    page = pages[kind][1]
    assert len(page) < 3_000_000
    assert "http" not in page
    assert not re.findall(r'\b(?:src|href)="(?!#|data:)[^"]*"', page)
    assert "@import" not in page
    assert labels.DISCLAIMER.capitalize() in page


@pytest.mark.parametrize("kind", KINDS)
def test_every_score_and_region_is_shown_as_in_the_json(pages, kind):
    content, page = pages[kind]
    for id_, score in content["scores"].items():
        row = text_of(re.search(rf'<tr data-score="{id_}">(.*?)</tr>', page, re.DOTALL)[1])
        assert score_text(score) in row
        assert (score["value"] is None) == (f"No value: {score['reason']}" in row)
    for name, measures in content["regions"].items():
        row = text_of(re.search(rf'<tr data-region="{name}">(.*?)</tr>', page, re.DOTALL)[1])
        if measures["volume_ml"] is None:
            assert f"no value: {measures['reason']}" in row
        else:
            assert f"{measures['volume_ml']:.1f}" in row
            assert f"{measures['lesion_pct']:.1f} %" in row


def test_quality_in_words(pages):
    assert "No check found anything amiss" in pages["perfect"][1]
    warned, failed = (text_of(visible(pages[kind][1])) for kind in ("warned", "failed"))
    assert "Slices far apart (look at it): slices are 8 mm apart." in warned
    assert "quality: failed" in failed
    assert failed.index("8-bit picture") < failed.index("Slices far apart")  # what failed comes first


def test_a_lobe_without_a_value_is_hatched_and_says_so(pages):
    diagram = pages["no lobes"][1]
    assert diagram.count('fill="url(#absent)"') == len(labels.LOBES)
    assert diagram.count(f'class="percent" style="fill:var(--ink)">{NO_VALUE}<') == len(labels.LOBES)


def test_unknown_keys_are_shown_and_escaped(phantom):
    content = content_of(phantom) | {
        "new_thing_ml": {"a": None, "b": [1.23456, True]},
        "evil": "<script>alert(1)</script>",
    }
    content["scores"]["po_chaganti2020"]["confidence"] = "low"
    content["flags"] = [{"level": "warn", "code": "brand_new", "text": "something new"}]
    page = report_page(content, phantom.scan, *maps_of(phantom))
    text = text_of(visible(page))
    assert "new thing (ml)" in text
    assert "1.235, yes" in text
    assert "Brand new (look at it): something new." in text
    assert "confidence" in text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_bare_result_of_an_older_version_can_be_shown(phantom):
    page = report_page({"case": "old"}, phantom.scan, *maps_of(phantom))
    assert not NEVER.search(text_of(visible(page)))


def test_intervals_are_shown(phantom):
    content = content_of(phantom)
    content["uncertainty"] = {
        "variants": 6,
        "method": "mirrored",
        "scores": {"po_chaganti2020": {"low": 1.04, "high": 3.1, "parts": {}, "text": "could be higher"}},
        "regions": {"left_lower": {"lesion_pct": {"low": 2.0, "high": 4.5}}},
    }
    text = text_of(visible(report_page(content, phantom.scan, *maps_of(phantom))))
    assert "interval 1.0 to 3.1 %" in text
    assert "Could be higher." in text
    assert "(2.0 to 4.5 %)" in text


def test_equal_results_give_equal_pages(phantom, pages):
    assert report_page(content_of(phantom), phantom.scan, *maps_of(phantom)) == pages["perfect"][1]


def test_the_page_is_written_whole(phantom, tmp_path):
    write_report(content_of(phantom), phantom.scan, *maps_of(phantom), tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert (tmp_path / "a.html").read_text().endswith("</html>\n")


def test_the_source_folder_is_not_told(pages):
    assert "/data/" not in pages["perfect"][1]
    assert "phantom.nii.gz" in pages["perfect"][1]
    assert PROVENANCE["source"] == "/data/phantom.nii.gz"


# ---- slices ------------------------------------------------------------------------------------------------------


def test_the_slice_with_most_lesion_is_among_the_pictures(phantom):
    pictures = picture_slices(phantom.scan, *maps_of(phantom))
    per_slice = np.count_nonzero(phantom.lesions, axis=(0, 1))  # axes LPS: slices from the feet up
    assert phantom.scan.orientation == "LPS"
    shown = {picture.number: picture for picture in pictures[AXIAL]}
    worst = shown[int(per_slice.argmax()) + 1]
    assert worst.lesion_cm2 == pytest.approx(per_slice.max() * 0.09)
    assert len(pictures[AXIAL]) <= 40
    assert len(pictures[CORONAL]) <= 24
    assert len({p.id for plane in pictures.values() for p in plane}) == sum(map(len, pictures.values()))


def test_an_outline_runs_around_its_mask(phantom):
    picture = picture_slices(phantom.scan, *maps_of(phantom))[AXIAL][20]
    for outline in (o for o in picture.outlines if o.kind == "lung"):
        start, steps = re.match(r"M(.*?)l(.*?)z", outline.path).groups()
        points = np.cumsum(
            np.vstack([np.array(start.split(), int), np.array(steps.split(), int).reshape(-1, 2)]), axis=0
        )
        x, y = points.T / 10
        enclosed_px = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        z = picture.number - 1
        label = next(lung for lung in labels.LUNGS if lung.name == outline.name)
        area_mm2 = np.count_nonzero(phantom.lungs[:, :, z] == label.id) * 9
        mm_per_px = 3 * _columns(phantom) / picture.width_px
        assert enclosed_px * mm_per_px**2 == pytest.approx(area_mm2, rel=0.03)


def _columns(phantom):
    x = np.flatnonzero((phantom.lungs > 0).any(axis=(1, 2)))
    return min(phantom.lungs.shape[0], x[-1] + 7) - max(0, x[0] - 6)


def test_maps_without_lungs_can_be_shown(phantom):
    empty = np.zeros_like(phantom.lungs)
    pictures = picture_slices(phantom.scan, empty, empty, empty)
    assert all(p.lesion_pct is None and p.outlines == () for plane in pictures.values() for p in plane)
    page = report_page(content_of(phantom), phantom.scan, empty, empty, empty)
    assert "no lung" in page


# ---- words and charts --------------------------------------------------------------------------------------------


@given(st.one_of(st.none(), st.floats(), st.integers(), st.booleans(), st.text()))
def test_a_number_is_never_odd(value):
    assert not NEVER.search(number(value))
    assert number(value) != "-0.0"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.just("a_ml"), inner),
    )
)
def test_any_json_value_has_words(value):
    assert not NEVER.search(json.dumps(plain_tree(value)))


@pytest.mark.parametrize(
    ("score", "text"),
    [
        ({"value": 18.0, "maximum": 25, "unit": "points"}, "18 of 25"),
        ({"value": 0.04, "unit": "%"}, "0.0 %"),
        ({"value": 2, "maximum": 4, "unit": "class"}, "CT-2"),
        ({"value": None, "unit": "%"}, NO_VALUE),
        ({"value": float("nan"), "unit": "%"}, NO_VALUE),
    ],
)
def test_scores_in_words(score, text):
    assert score_text(score) == text


@pytest.mark.parametrize(
    ("interval", "unit", "text"),
    [
        ({"low": 2, "high": 4}, "points", "2 to 4"),
        ({"low": 1.0, "high": 1.0}, "%", ""),
        ({"low": None, "high": None}, "%", ""),
        ({}, "%", ""),
    ],
)
def test_intervals_in_words(interval, unit, text):
    assert interval_text(interval, unit) == text


def test_findings_sort_failures_first():
    flags = [{"level": "warn", "code": "fused", "text": "a"}, {"level": "fail", "code": "no_chest", "text": "b"}]
    assert [finding.level for finding in findings(flags)] == ["fail", "warn"]


def test_the_histogram_has_the_volume_and_the_median():
    hu = np.array([[[-900, -900, -500, 2000]]], dtype=np.int16)
    lungs, lesions = np.ones_like(hu, np.uint8), (hu == -500).astype(np.uint8)
    found = density_histogram(hu, lungs, lesions, voxel_ml=2.0)
    assert (found.lung_peak_ml, found.lesion_peak_ml) == (4.0, 2.0)
    assert found.summary == "Median density -900 HU in the lungs, -500 HU in the lesions."
    assert NO_VALUE in density_histogram(hu, lungs, 0 * lesions, voxel_ml=2.0).summary


def test_texts_on_lobes_can_be_read():
    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = {"#fff": 1.0, "#000": 0.0}
    for pct in np.linspace(0, 100, 401):
        colour = lobe_colours({"left_upper": {"lesion_pct": float(pct)}})["left_upper"]
        light, dark = sorted((luminance(colour.fill), ink[colour.ink]), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pct


def test_a_distribution_counts_every_value_once():
    found = distribution("points", [0.0, 3.0, 3.0, 25.0, None], 25, "points")
    assert [bar[4] for bar in found.bars] == ["0: 1", "3: 2", "25: 1"]
    assert found.summary == "4 of 5 scans have a value; median 3.0."
    assert distribution("%", [], 100, "%").summary == "0 of 0 scans have a value; median no value."
    assert sum(int(bar[4].split(": ")[1]) for bar in distribution("%", [0.0, 9.9, 10.0, 47.0], 100, "%").bars) == 4


# ---- the viewer --------------------------------------------------------------------------------------------------


def test_the_viewer_is_refused_without_its_package(phantom, monkeypatch):
    monkeypatch.setattr(niivue, "find_spec", lambda _: None)
    with pytest.raises(CovsevError, match=r"needs ipyniivue; install covsev\[viewer\]"):
        report_page(content_of(phantom), phantom.scan, *maps_of(phantom), viewer=True)


def test_the_viewers_ct_is_small_and_lies_where_the_scan_lies(monkeypatch, tmp_path):
    script = tmp_path / "widget.js"
    script.write_text("export default {}")
    monkeypatch.setattr(niivue, "_script", lambda: script)
    monkeypatch.setattr(niivue, "_MAX_VOXELS", 20_000)
    affine = np.array([[-1.5, 0, 0, 40], [0, 0, 2.0, -30], [0, -1.0, 0, 90], [0, 0, 0, 1]])
    index = np.indices((60, 70, 40)).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    hu = (-600 + 2 * world[0] + 3 * world[1] + world[2]).reshape(60, 70, 40).astype(np.float32)
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[15:50, 18:60, 4:36] = 1
    parts = niivue.viewer_parts(make_scan(hu, affine, case="ramp"), lungs, 5 * lungs, 2 * lungs)
    ct, lobes, lesions = (_image(volume["data"]) for volume in parts["volumes"])
    assert np.prod(ct.shape) <= 20_000
    assert ct.shape == lobes.shape == lesions.shape
    at = ct.affine[:3, :3] @ np.indices(ct.shape).reshape(3, -1) + ct.affine[:3, 3:]
    expected = -600 + 2 * at[0] + 3 * at[1] + at[2]
    np.testing.assert_allclose(ct.get_fdata().ravel(), expected, atol=3.01)
    np.testing.assert_array_equal(np.unique(lobes.dataobj), [0, 5])
    assert [volume["high"] for volume in parts["volumes"]] == [150, 5, 2]


def _image(data: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data)))
