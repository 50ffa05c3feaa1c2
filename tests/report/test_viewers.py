"""Files for ITK-SNAP and 3D Slicer, the summary page, and the command that makes them from a results folder."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from pages import FAILED, content_of, content_without_lobes, maps_of
from PIL import Image
from pydicom.sr.codedict import codes
from typer.testing import CliRunner

from covsev import labels
from covsev.commands.main import app
from covsev.errors import CovsevError, GridMismatchError, ScanError
from covsev.report.overlay import write_overlay
from covsev.report.page import niivue
from covsev.report.page.summary import write_summary_page
from covsev.report.results import find_results, load_result
from covsev.report.viewers import (
    MAPS,
    itksnap_labels,
    slicer_colours,
    terminology,
    write_itksnap_labels,
    write_segmentation,
    write_slicer_colours,
)
from covsev.scan import save_labels
from covsev.scan.writing import write_json


def _meanings(scheme):
    """pydicom's copy of the standard's dictionary: meanings by value."""
    meanings = {}
    for term in (getattr(getattr(codes, scheme), name) for name in dir(getattr(codes, scheme))):
        if hasattr(term, "meaning"):
            meanings.setdefault(term.value, set()).add(term.meaning.lower())
    return meanings


DICTIONARY = {scheme: _meanings(scheme) for scheme in ("SCT", "DCM")}
ALL_LABELS = [label for known in MAPS.values() for label in known]


# ---- label tables ------------------------------------------------------------------------------------------------


def test_itksnap_reads_every_label():
    line = re.compile(r'^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([01](?:\.\d+)?)\s+([01])\s+([01])\s+"(.*)"$')
    rows = [line.match(text).groups() for text in itksnap_labels(labels.LOBES).splitlines() if not text.startswith("#")]
    assert rows[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    assert [(int(r[0]), tuple(map(int, r[1:4])), r[7]) for r in rows[1:]] == [
        (x.id, x.rgb, x.text) for x in labels.LOBES
    ]
    assert {r[4:7] for r in rows[1:]} == {("1", "1", "1")}


def test_slicer_reads_every_colour():
    rows = [text.split() for text in slicer_colours(labels.LESIONS).splitlines() if not text.startswith("#")]
    assert {len(row) for row in rows} == {6}
    assert [(int(r[0]), tuple(map(int, r[2:5])), r[1]) for r in rows[1:]] == [
        (x.id, x.rgb, x.text.replace(" ", "_")) for x in labels.LESIONS
    ]


def test_a_table_a_map_is_written(tmp_path):
    assert [p.name for p in write_itksnap_labels(tmp_path)] == [f"itksnap_{name}.txt" for name in MAPS]
    assert [p.name for p in write_slicer_colours(tmp_path)] == [f"slicer_{name}.ctbl" for name in MAPS]
    assert len(list(tmp_path.iterdir())) == 6


# ---- the coded segmentation --------------------------------------------------------------------------------------


def test_the_segmentation_reads_back_voxel_for_voxel_on_the_scans_grid(phantom, tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(phantom.scan, *maps_of(phantom), path)
    layers, header = nrrd.read(str(path))
    for layer, found in zip(layers, maps_of(phantom), strict=True):
        np.testing.assert_array_equal(layer, found)
    assert header["space"] == "left-posterior-superior"
    image = sitk.ReadImage(str(path))  # another reader, which knows the grid but not the layers
    lps = np.diag([-1.0, -1.0, 1.0])
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_allclose(direction, lps @ phantom.scan.affine[:3, :3], atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), lps @ phantom.scan.affine[:3, 3], atol=1e-6)
    assert image.GetNumberOfComponentsPerPixel() == len(MAPS)


def test_every_segment_has_its_name_colour_value_and_extent(phantom, tmp_path):
    write_segmentation(phantom.scan, phantom.lungs, 0 * phantom.lobes, phantom.lesions, tmp_path / "a.seg.nrrd")
    header = nrrd.read_header(str(tmp_path / "a.seg.nrrd"))
    for number, label in enumerate(ALL_LABELS):
        assert header[f"Segment{number}_ID"] == label.name
        assert header[f"Segment{number}_Name"] == label.text
        assert int(header[f"Segment{number}_LabelValue"]) == label.id
        colour = [float(part) * 255 for part in header[f"Segment{number}_Color"].split()]
        assert colour == pytest.approx(label.rgb, abs=0.01)
    assert f"Segment{len(ALL_LABELS)}_ID" not in header
    x = np.flatnonzero((phantom.lungs == 1).any(axis=(1, 2)))
    assert header["Segment0_Extent"].split()[:2] == [str(x[0]), str(x[-1])]
    assert header["Segment2_Extent"] == "0 -1 0 -1 0 -1"  # a lobe that is not there


def test_another_shape_is_refused(phantom, tmp_path):
    with pytest.raises(GridMismatchError, match="lobes has shape"):
        write_segmentation(phantom.scan, phantom.lungs, phantom.lobes[1:], phantom.lesions, tmp_path / "a.seg.nrrd")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", ALL_LABELS, ids=lambda label: label.name)
def test_codes_are_those_of_dicoms_dictionary(label):
    parts = terminology(label).split("~")
    assert len(parts) == 7
    coded = [part.split("^") for part in parts[1:4]]
    assert coded[1][0], "a label without a verified code"
    for scheme, value, meaning in (code for code in coded if code[0] in DICTIONARY):
        assert meaning.lower() in DICTIONARY[scheme][value]


# ---- results, the command and the summary page -------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(phantom, tmp_path_factory):
    """A results folder as covsev severity leaves it, with its scan; do not write into it."""
    folder = tmp_path_factory.mktemp("made")
    scan = folder / "scans" / "phantom.nii.gz"
    scan.parent.mkdir()
    nib.save(nib.Nifti1Image(phantom.scan.hu, phantom.scan.affine), scan)
    out = folder / "out"
    out.mkdir()
    for suffix, found in zip(
        (labels.LUNGS_SUFFIX, labels.LOBES_SUFFIX, labels.LESIONS_SUFFIX), maps_of(phantom), strict=True
    ):
        save_labels(found, phantom.scan, out / f"phantom{suffix}")
    write_overlay(phantom.scan, *maps_of(phantom), out / f"phantom{labels.OVERLAY_SUFFIX}", caption="phantom")
    content = content_of(phantom) | {"source": str(scan)}
    write_json(content, out / f"phantom{labels.SEVERITY_SUFFIX}")
    return folder


@pytest.fixture
def results(made, tmp_path):
    """A copy of ``made`` that a test may change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "out" / f"phantom{labels.SEVERITY_SUFFIX}"
    content = json.loads(path.read_text()) | {"source": str(tmp_path / "scans" / "phantom.nii.gz")}
    write_json(content, path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_command_makes_all_that_is_asked_for(results):
    out = results / "out"
    before = {path.name for path in out.iterdir()}
    done = run(out, "--png", "--pdf", "--slicer", "--itksnap")
    assert done.exit_code == 0, done.output
    new = {path.name for path in out.iterdir()} - before
    assert new == {
        "phantom_report.html",
        "phantom_summary.png",
        "phantom_summary.pdf",
        "phantom.seg.nrrd",
        *(f"itksnap_{name}.txt" for name in MAPS),
        *(f"slicer_{name}.ctbl" for name in MAPS),
    }
    assert all(name in done.output for name in new)
    outputs = json.loads((out / "phantom_severity.json").read_text())["outputs"]
    assert outputs["phantom_report.html"] == (out / "phantom_report.html").stat().st_size
    assert (out / "phantom_summary.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(out / "phantom_summary.png") as image:
        assert image.size[0] / image.size[1] == pytest.approx(297 / 210, rel=0.01)


def test_the_command_without_options_makes_the_page_alone(results):
    before = set((results / "out").iterdir())
    assert run(results / "out" / "phantom_severity.json").exit_code == 0
    assert {path.name for path in set((results / "out").iterdir()) - before} == {"phantom_report.html"}


def test_a_moved_scan_is_found_beside_its_results_or_missed_by_name(results):
    out = results / "out"
    (results / "scans" / "phantom.nii.gz").rename(out / "phantom.nii.gz")
    assert load_result(out / "phantom_severity.json").scan.case == "phantom"
    (out / "phantom.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"its scan is not at .*phantom\.nii\.gz; put it there, or beside the results"):
        load_result(out / "phantom_severity.json")
    done = run(out)
    assert done.exit_code == 1
    assert not (out / "phantom_report.html").exists()


def test_a_map_of_another_scan_is_refused(results):
    path = results / "out" / f"phantom{labels.LOBES_SUFFIX}"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    with pytest.raises(GridMismatchError, match=r"phantom_lobes\.nii\.gz has shape"):
        load_result(results / "out" / "phantom_severity.json")


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(CovsevError, match=r"no \*_severity\.json in it"):
        find_results(tmp_path)
    assert run(tmp_path).exit_code == 2


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[]", "names no case")])
def test_a_broken_json_file_is_refused(tmp_path, text, message):
    path = tmp_path / "a_severity.json"
    path.write_text(text)
    with pytest.raises(CovsevError, match=message):
        load_result(path)


def test_the_viewer_is_refused_before_anything_is_written(results, monkeypatch):
    monkeypatch.setattr(niivue, "find_spec", lambda _: None)
    before = set((results / "out").iterdir())
    assert run(results / "out", "--viewer").exit_code == 1
    assert set((results / "out").iterdir()) == before


@pytest.mark.parametrize("kind", ["failed", "no lobes"])
def test_a_summary_page_without_values_gives_the_reason(phantom, made, tmp_path, kind, monkeypatch):
    from matplotlib.figure import Figure

    texts = []
    write = Figure.text
    monkeypatch.setattr(Figure, "text", lambda self, x, y, s, **k: texts.append(s) or write(self, x, y, s, **k))
    content = content_of(phantom, FAILED) if kind == "failed" else content_without_lobes(phantom)
    overlay = made / "out" / f"phantom{labels.OVERLAY_SUFFIX}"
    write_summary_page(content, overlay, tmp_path / "a.png")
    said = re.sub(r"\s+", " ", " ".join(texts))
    assert "no value" in said
    assert {"failed": "quality check failed: eight_bit", "no lobes": "the lungs are cut by the scan's end"}[
        kind
    ] in said
    assert not re.search(r"\b(nan|None|inf)\b", said)


def test_equal_results_give_equal_pdfs(phantom, made, tmp_path):
    overlay = made / "out" / f"phantom{labels.OVERLAY_SUFFIX}"
    for name in ("a.pdf", "b.pdf"):
        write_summary_page(content_of(phantom), overlay, tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_a_summary_page_needs_its_picture_and_a_known_format(phantom, made, tmp_path):
    with pytest.raises(CovsevError, match=r"none\.png: missing; assess the scan again"):
        write_summary_page(content_of(phantom), tmp_path / "none.png", tmp_path / "a.png")
    with pytest.raises(CovsevError, match=r"a summary page is \.png or \.pdf"):
        write_summary_page(content_of(phantom), made / "out" / "phantom_overlay.png", tmp_path / "a.jpg")


def test_a_summary_page_needs_matplotlib(phantom, made, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(CovsevError, match="needs matplotlib"):
        write_summary_page(content_of(phantom), made / "out" / "phantom_overlay.png", tmp_path / "a.png")
