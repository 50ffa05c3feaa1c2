"""DICOM out: the segmentation holds the very masks, the report the very numbers, and both stand DICOM's checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_series import UID, ct_series, phantom_series, save
from PIL import Image
from pydicom.sr._concepts_dict import concepts

from covsev.assessment import assess
from covsev.errors import ScanError
from covsev.labels import LESIONS, LOBES, LUNGS
from covsev.options import Options
from covsev.phantom import make_phantom
from covsev.quality.result import WARN, Flag
from covsev.report.dicom import terms as dicom_terms
from covsev.report.dicom.objects import require_dicom_source, source_headers, write_dicom
from covsev.report.dicom.terms import PRIVATE_SCHEME, Term, private
from covsev.report.outputs import write
from covsev.scan import find_scans, load_scan, make_scan, read_labels
from covsev.severity import SCORES, measure, withhold

VERSIONS = {"lungs": "1", "lobes": "1", "lesions": "abc"}
FLAG = Flag(WARN, "thick_slices", "slices of 4.0 mm are thicker than 3 mm", {})
FINDING_CATEGORY = "276214006"
NAMES = ("seg", "sr", "sc")


def maps_of(phantom):
    return {"lungs": phantom.lungs, "lobes": phantom.lobes, "lesions": phantom.lesions}


def written(scan, maps, folder, *, lobes_known=True, flags=(FLAG,), failure=None):
    """The three objects, read back."""
    report = measure(scan, maps["lungs"], maps["lobes"] if lobes_known else None, maps["lesions"])
    report = withhold(report, failure) if failure else report
    folder.mkdir(parents=True, exist_ok=True)
    overlay = folder / "overlay.png"
    Image.new("RGB", (40, 20), (10, 200, 30)).save(overlay)
    paths = write_dicom(scan, maps, report, flags, folder, versions=VERSIONS, overlay=overlay)
    return report, dict(zip(NAMES, (pydicom.dcmread(path) for path in paths), strict=True)), paths


@pytest.fixture(scope="module")
def series(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "chest"
    save(phantom_series(phantom.scan), folder)
    return load_scan(folder)


@pytest.fixture(scope="module")
def results(series, phantom, tmp_path_factory):
    return written(series, maps_of(phantom), tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A chest of 30 x 22 x 15 voxels, as phantom and as series."""
    phantom = make_phantom((12.0, 12.0, 20.0))
    folder = tmp_path_factory.mktemp("small") / "small"
    save(phantom_series(phantom.scan), folder)
    return phantom, load_scan(folder)


def read_masks(segmentation, shape):
    """(X, Y, Z) mask by segment number; frames are placed by their positions alone, as a viewer does."""
    positions = sorted({float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in frames(segmentation)})
    lowest, step = positions[0], np.diff(positions).min() if len(positions) > 1 else 1.0
    masks = {}
    for pixels, frame in zip(segmentation.pixel_array, frames(segmentation), strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        mask = masks.setdefault(number, {})
        mask[round((height - lowest) / step)] = pixels.T
    return masks, lowest


def frames(segmentation):
    return segmentation.PerFrameFunctionalGroupsSequence


# ---- segmentation ------------------------------------------------------------------------------------------------


def test_segments_are_the_masks_voxel_for_voxel(results, phantom, series):
    """Placed by pydicom and the frames' own positions, without highdicom."""
    segmentation = results[1]["seg"]
    masks, lowest = read_masks(segmentation, phantom.lungs.shape)
    bottom_mm = float((series.affine @ [0, 0, 0, 1])[2])
    offset = round((lowest - bottom_mm) / series.spacing_mm[2])
    expected = [phantom.lungs == label.id for label in LUNGS]
    expected += [phantom.lobes == label.id for label in LOBES]
    expected += [phantom.lesions == label.id for label in LESIONS]
    for number, mask in enumerate(expected, start=1):
        found = np.zeros(mask.shape, bool)
        for z, pixels in masks.get(number, {}).items():
            found[:, :, z + offset] = pixels
        np.testing.assert_array_equal(found, mask)


def test_highdicom_reads_the_same_by_source_slice(results, phantom, series):
    segmentation = hd.seg.segread(results[2][0])
    headers, _ = source_headers(series)
    for known, label_map, first in (
        (LUNGS, phantom.lungs, 1),
        (LOBES, phantom.lobes, 3),
        (LESIONS, phantom.lesions, 8),
    ):
        numbers = [first + i for i in range(len(known))]
        pixels = segmentation.get_pixels_by_source_instance(
            [header.SOPInstanceUID for header in headers],
            segment_numbers=numbers,
            combine_segments=True,
            relabel=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(pixels.transpose(2, 1, 0), label_map)


def test_segments_are_named_coloured_and_coded(results):
    segments = results[1]["seg"].SegmentSequence
    assert [s.SegmentLabel for s in segments] == [label.text for label in (*LUNGS, *LOBES, *LESIONS)]
    right_lung, right_middle, consolidation = segments[0], segments[5], segments[8]
    what = right_lung.SegmentedPropertyTypeCodeSequence[0]
    assert (what.CodeValue, what.CodingSchemeDesignator) == ("39607008", "SCT")
    assert what.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert "SegmentedPropertyTypeModifierCodeSequence" not in right_middle.SegmentedPropertyTypeCodeSequence[0]
    assert consolidation.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert consolidation.AnatomicRegionSequence[0].CodeMeaning == "Lung"
    for segment, label in zip(segments, (*LUNGS, *LOBES, *LESIONS), strict=True):
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(colour.to_rgb(), label.rgb, atol=2)


def test_every_standard_term_is_in_the_standard():
    """pydicom carries the context groups of PS3.16; RadLex's term and covsev's own are not among them."""
    terms = [v for v in vars(dicom_terms).values() if isinstance(v, Term)]
    terms += [site.term for site in dicom_terms.SITES.values()] + list(dicom_terms.FINDINGS.values())
    terms += list(dicom_terms.FAMILIES.values())
    checked = {term for term in terms if term.scheme in ("SCT", "DCM", "UCUM")}
    for term in checked:
        known = [entry[term.value] for entry in concepts[term.scheme].values() if term.value in entry]
        assert any(meaning == term.meaning and groups for meaning, groups in known), term
    assert len(checked) >= 18


def test_private_meanings_are_cut_to_what_dicom_allows():
    assert len(private("a", "word " * 30).meaning) <= 64
    assert private("a", "b") == Term("a", PRIVATE_SCHEME, "b")


# ---- references --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_all_belong_to_the_patient_and_study(results, name):
    dataset = results[1][name]
    assert (dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID) == ("Phantom^Chest", "P-1", f"{UID}.9")
    assert dataset.SeriesInstanceUID != UID
    assert "research use only" in dataset.SeriesDescription


def test_segmentation_and_report_refer_to_the_source_slices(results, series):
    headers, _ = source_headers(series)
    slices = {header.SOPInstanceUID for header in headers}
    _, objects, _ = results
    (referenced,) = objects["seg"].ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == UID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == slices
    evidence = [
        item.ReferencedSOPInstanceUID
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in objects["sr"].get(name, [])
        for one_series in study.ReferencedSeriesSequence
        for item in one_series.ReferencedSOPSequence
    ]
    assert set(evidence) == slices | {objects["seg"].SOPInstanceUID}


# ---- report ------------------------------------------------------------------------------------------------------


def groups(path):
    """{tracking identifier: ({(name, derivation): value}, {name: meaning}, segment)}"""
    report = hd.sr.srread(path).content
    found = {}
    for group in (
        *report.get_image_measurement_groups(),
        *report.get_volumetric_roi_measurement_groups(),
    ):
        numbers = {
            (m.name.meaning, m.derivation.meaning if m.derivation else None): m.value for m in group.get_measurements()
        }
        evaluations = [e for e in group.get_qualitative_evaluations() if e.name.value != FINDING_CATEGORY]
        statements = [(e.name.value, e.value.meaning) for e in evaluations]
        reference = getattr(group, "referenced_segment", None)
        segment = None if reference is None else reference[0].referenced_segment_numbers[0]
        found[group.tracking_identifier] = (numbers, statements, segment)
    return found


def test_the_report_holds_the_numbers_of_every_region(results):
    report, _, paths = results
    found = groups(paths[1])
    for label in (*LUNGS, *LOBES):
        numbers, statements, _ = found[label.text]
        measures = report.regions[label.name]
        assert numbers["Volume", None] == pytest.approx(measures.volume_ml)
        assert numbers["Volume of lesion in the region", None] == pytest.approx(measures.lesion_ml)
        assert numbers["Attenuation Coefficient", "Mean"] == pytest.approx(measures.mean_hu)
        assert numbers["Attenuation Coefficient", "Standard Deviation"] == pytest.approx(measures.sd_hu)
        assert statements == []
    assert found["consolidation"][0]["Volume", None] == pytest.approx(report.regions["both_lungs"].consolidation_ml)
    assert found["ground-glass opacity"][0]["Volume", None] == pytest.approx(report.regions["both_lungs"].ggo_ml)


def test_the_report_holds_scores_finding_quality_and_flags(results):
    report, _, paths = results
    numbers, statements, _ = groups(paths[1])["both lungs"]
    for score in SCORES:
        value, title = report.scores[score.id].value, private(score.id, score.title).meaning
        if value is None:
            assert dict(statements)[score.id].startswith("No score: ")
        else:
            assert numbers[title, None] == pytest.approx(value)
    assert dict(statements)["finding"] == report.finding.state
    assert dict(statements)["quality"] == WARN
    assert ("quality_flag", FLAG.text) in statements


def test_each_region_refers_to_its_segment(results):
    found = groups(results[2][1])
    assert [found[label.text][2] for label in (*LUNGS, *LOBES, *LESIONS)] == list(range(1, 10))
    assert found["both lungs"][2] is None


def test_a_failed_scan_has_no_score_and_says_why(small, tmp_path):
    phantom, series = small
    _, _, paths = written(series, maps_of(phantom), tmp_path, failure="quality check failed: no lung in it")
    numbers, statements, _ = groups(paths[1])["both lungs"]
    titles = {private(score.id, score.title).meaning for score in SCORES}
    assert not titles & {name for name, _ in numbers}
    assert dict(statements)["po_chaganti2020"] == "No score: quality check failed: no lung in it"


def test_an_unmeasured_lobe_has_no_number_and_says_why(small, tmp_path):
    phantom, series = small
    _, _, paths = written(series, maps_of(phantom), tmp_path, lobes_known=False)
    numbers, statements, _ = groups(paths[1])["right middle lobe"]
    assert numbers == {}
    assert statements == [("measured", "No: no lobe map was given")]
    assert not {"nan", "None", "inf"} & set(str(pydicom.dcmread(paths[1])).split())


def test_a_healthy_scan_has_empty_lesion_segments(small, tmp_path):
    phantom, series = small
    healthy = maps_of(phantom) | {"lesions": np.zeros_like(phantom.lesions)}
    _, objects, paths = written(series, healthy, tmp_path)
    assert {f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in frames(objects["seg"])} == set(
        range(1, 8)
    )
    assert len(objects["seg"].SegmentSequence) == 9
    assert groups(paths[1])["consolidation"][0]["Volume", None] == 0
    valid(paths)


def test_masks_without_a_voxel_are_written(small, tmp_path):
    phantom, series = small
    empty = {name: np.zeros_like(label_map) for name, label_map in maps_of(phantom).items()}
    _, objects, _ = written(series, empty, tmp_path)
    assert not objects["seg"].pixel_array.any()


# ---- the picture -------------------------------------------------------------------------------------------------


def test_the_picture_is_the_overlay(results):
    picture = results[1]["sc"]
    assert picture.pixel_array.shape == (20, 40, 3)
    assert (picture.pixel_array == (10, 200, 30)).all()
    assert (picture.SOPClassUID.name, picture.BurnedInAnnotation) == ("Secondary Capture Image Storage", "YES")


# ---- validity ----------------------------------------------------------------------------------------------------

needs_dicom3tools = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy of Debian's dicom3tools")


def valid(paths):
    """No error from dciodvfy, where it is installed."""
    for path in paths if shutil.which("dciodvfy") else ():
        messages = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr.splitlines()
        assert [line for line in messages if line.startswith("Error")] == [], path.name


@needs_dicom3tools
def test_dciodvfy_finds_no_error(results):
    valid(results[2])


@needs_dicom3tools
def test_dcentvfy_finds_the_study_consistent(results, series):
    paths = [*results[2], *sorted(series.source.iterdir())]
    checked = subprocess.run(["dcentvfy", *paths], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


# ---- refusals and odd sources ------------------------------------------------------------------------------------


def test_a_nifti_source_is_refused(small_scan):
    with pytest.raises(ScanError, match=r"small\.nii\.gz: is no DICOM series, .* leave out --dicom") as caught:
        require_dicom_source(load_scan(small_scan))
    assert caught.value.code == "no_dicom_source"


def test_an_array_is_refused(phantom, tmp_path):
    scan = make_scan(phantom.scan.hu, phantom.scan.affine, case="a")
    report = measure(scan, phantom.lungs, phantom.lobes, phantom.lesions)
    with pytest.raises(ScanError, match="memory: is no DICOM series"):
        write_dicom(scan, maps_of(phantom), report, (), tmp_path, versions=VERSIONS, overlay=tmp_path / "o.png")


def test_without_highdicom_the_extra_is_named(series, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ScanError, match=r"DICOM output needs highdicom: pip install 'covsev\[dicom\]'"):
        require_dicom_source(series)


def test_headers_without_patient_are_enough(tmp_path):
    """Anonymizers drop what the standard wants; the results then say nothing of it either."""
    save(ct_series(stored=np.zeros((20, 24, 6), np.int16)), tmp_path / "chest")
    scan = load_scan(tmp_path / "chest")
    labels = np.ones(scan.hu.shape, np.uint8)
    _, objects, _ = written(scan, dict.fromkeys(("lungs", "lobes", "lesions"), labels), tmp_path / "out")
    assert all(not dataset.PatientID for dataset in objects.values())
    assert objects["seg"].FrameOfReferenceUID == source_headers(scan)[0][0].FrameOfReferenceUID


def test_headers_without_a_study_are_refused(tmp_path):
    datasets = ct_series(stored=np.zeros((20, 24, 6), np.int16))
    for dataset in datasets:
        del dataset.StudyInstanceUID
    save(datasets, tmp_path / "chest")
    scan = load_scan(tmp_path / "chest")
    labels = np.ones(scan.hu.shape, np.uint8)
    with pytest.raises(ScanError, match=r"DICOM results need more of its headers .*StudyInstanceUID") as caught:
        written(scan, dict.fromkeys(("lungs", "lobes", "lesions"), labels), tmp_path / "out")
    assert caught.value.code == "bad_header"


def test_results_beside_the_scan_are_no_scans(series, results, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(series.source, folder)
    for number, path in enumerate(results[2]):
        shutil.copy(path, folder / path.name)
        shutil.copy(path, folder / f"renamed{number}.dcm")
    (found,) = find_scans(folder)
    assert load_scan(replace(found, case="x")).hu.shape == series.hu.shape


def test_assessing_nifti_with_dicom_output_is_refused_before_any_work(small_scan, bright_model):
    with pytest.raises(ScanError, match="is no DICOM series"):
        assess(small_scan, bright_model, Options(dicom=True))


# ---- a real series -----------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif("COVSEV_TEST_DATA" not in os.environ, reason="set COVSEV_TEST_DATA to the folder of real scans")
def test_results_of_a_real_series(tmp_path, bright_model):
    """A tumour patient's 30 slices; the lesion labels of the quick model mean nothing, but are many."""
    scan = load_scan(Path(os.environ["COVSEV_TEST_DATA"]) / "dicom" / "A0002")
    content = write(assess(scan, bright_model, Options(dicom=True)), tmp_path, Options(dicom=True))
    paths = [tmp_path / f"{scan.case}_{name}.dcm" for name in NAMES]
    assert {path.name for path in paths} <= set(content["outputs"])
    segmentation = hd.seg.segread(paths[0])
    uids = [header.SOPInstanceUID for header in source_headers(scan)[0]]
    for known, name, first in ((LUNGS, "lungs", 1), (LOBES, "lobes", 3), (LESIONS, "lesions", 8)):
        expected, _, _ = read_labels(tmp_path / f"{scan.case}_{name}.nii.gz")
        pixels = segmentation.get_pixels_by_source_instance(
            uids,
            segment_numbers=range(first, first + len(known)),
            combine_segments=True,
            relabel=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(pixels.transpose(2, 1, 0), expected)
        assert expected.any()
    valid(paths)
