"""DICOM series: what is read, in which order of files, and each reason to refuse one."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from dicom_series import (
    COLUMN_SPACING_MM,
    CORONAL,
    FEET_FIRST,
    ORIGIN_LPS_MM,
    ROW_SPACING_MM,
    SHAPE,
    STEP_MM,
    STRAIGHT,
    TURNED,
    UID,
    ct_series,
    ct_slice,
    save,
    stored_volume,
)
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage

from covsev.errors import ScanError
from covsev.scan import ScanSource, find_scans, load_scan
from covsev.scan.dicom import series as dicom


def ras_affine(orientation):
    """The affine that the standard asks for (C.7.6.2.1.1), turned from LPS+ to RAS+."""
    row, column = np.array(orientation)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * COLUMN_SPACING_MM, column * ROW_SPACING_MM
    affine[:3, 2], affine[:3, 3] = np.cross(row, column) * STEP_MM, ORIGIN_LPS_MM
    return np.diag([-1, -1, 1, 1]) @ affine


def refused(folder, message):
    with pytest.raises(ScanError, match=re.escape(f"{folder}: ") + message):
        dicom.read_series(folder, UID)


# ---- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (1, 0), (2, -1000), (0.5, -100.25)])
def test_hu_are_rescaled_pixels(tmp_path, slope, intercept):
    save(ct_series(slope=slope, intercept=intercept), tmp_path)
    scan = load_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, stored_volume() * float(slope) + intercept)
    assert scan.hu.dtype == (np.int16 if slope != 0.5 else np.float32)


@pytest.mark.parametrize(
    "orientation", [STRAIGHT, TURNED, FEET_FIRST, CORONAL], ids=["straight", "turned", "feet_first", "coronal"]
)
def test_affine_is_that_of_the_headers(tmp_path, orientation):
    save(ct_series(orientation=orientation), tmp_path)
    scan = load_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, stored_volume() - 1024)
    np.testing.assert_allclose(scan.affine, ras_affine(orientation), atol=1e-5)
    assert scan.spacing_mm == pytest.approx((COLUMN_SPACING_MM, ROW_SPACING_MM, STEP_MM))


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]], ids=["reversed", "mixed"])
def test_order_of_the_files_does_not_matter(tmp_path, order):
    series = ct_series()
    save([series[k] for k in order], tmp_path)
    scan = load_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, stored_volume() - 1024)
    np.testing.assert_allclose(scan.affine, ras_affine(STRAIGHT), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["{:03d}.dcm", "IM{:d}", "{:d}.IMA", "1.2.840.113.{:d}", "slice {:d}.DICOM", "ä{:d}.DCM"]
)
def test_series_are_found_by_content_under_any_name(tmp_path, name):
    save(ct_series(), tmp_path / "patient 1", name)
    (source,) = find_scans(tmp_path)
    assert source == ScanSource("patient_1", tmp_path / "patient 1", UID)
    np.testing.assert_array_equal(load_scan(source).hu, stored_volume() - 1024)


def test_one_file_stands_for_its_series(tmp_path):
    save(ct_series(), tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path / "003.dcm").hu, stored_volume() - 1024)


def test_several_series_in_one_folder_are_several_cases(tmp_path):
    for number in (1, 2):
        save(ct_series(stored_volume(number), uid=f"{UID}.{number}"), tmp_path / "p", f"{number}-{{}}.dcm")
    save(ct_series(stored_volume(3), uid=f"{UID}.7.2"), tmp_path / "p", "3-{}.dcm")
    sources = find_scans(tmp_path)
    assert [source.case for source in sources] == ["p_1", "p_2", "p_2_2"]
    for number, source in enumerate(sources, start=1):
        np.testing.assert_array_equal(load_scan(source).hu, stored_volume(number) - 1024)


def test_a_series_beside_nifti_files_is_found(tmp_path, write_nifti):
    write_nifti("a.nii.gz", stored_volume())
    save(ct_series(), tmp_path)
    assert [source.series_uid for source in find_scans(tmp_path)] == [None, UID]


def test_bits_above_the_value_are_left_out(tmp_path):
    """Old files keep overlays there, and a signed value of 12 bits need not be extended to 16."""
    series = ct_series(stored=stored_volume() - 700)
    for number, dataset in enumerate(series):
        dataset.BitsStored, dataset.HighBit = 12, 11
        pixels = (stored_volume()[:, :, number].T - 700) & 0x0FFF | 0x5000
        dataset.PixelData = np.ascontiguousarray(pixels.astype(np.uint16)).tobytes()
    save(series, tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, stored_volume() - 700 - 1024)


def test_a_compressed_series_is_read(tmp_path):
    series = ct_series()
    for dataset in series:
        dataset.compress(RLELossless)
    save(series, tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, stored_volume() - 1024)


# ---- what is not part of a series --------------------------------------------------------------------------------


def with_localizer(series):
    scout = ct_slice(np.zeros((64, 32), np.int16), (0, 0, 0), CORONAL)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [scout, *series]


def test_localizers_are_skipped(tmp_path):
    save(with_localizer(ct_series()), tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, stored_volume() - 1024)


def test_files_that_are_no_slices_are_skipped(tmp_path):
    series = ct_series()
    report = ct_slice(np.zeros(SHAPE[:2], np.int16), (0, 0, 0))
    report.Modality = "SR"
    save([report, *series], tmp_path)
    (tmp_path / "README").write_text("notes")
    (tmp_path / "sub").mkdir()
    np.testing.assert_array_equal(load_scan(tmp_path).hu, stored_volume() - 1024)


@pytest.mark.parametrize(
    "sop_class", [SecondaryCaptureImageStorage, "1.2.840.10008.5.1.4.1.1.7.4", "1.2.840.10008.5.1.4.1.1.66.4"]
)
def test_pictures_of_reports_and_segmentations_are_no_scans(tmp_path, sop_class):
    capture = ct_slice(np.zeros(SHAPE[:2], np.int16), (0, 0, 0), uid=f"{UID}.2")
    capture.SOPClassUID = sop_class
    save([capture], tmp_path)
    assert find_scans(tmp_path) == []


# ---- refusals ----------------------------------------------------------------------------------------------------


def only_scan_is_refused(folder, code, message):
    """What is no CT is found all the same, so that a batch can say why it has no result."""
    (source,) = find_scans(folder)
    with pytest.raises(ScanError, match=message) as caught:
        load_scan(source)
    assert caught.value.code == code


@pytest.mark.parametrize("modality", ["MR", "PT", "OT"])
def test_other_modalities_are_named(tmp_path, modality):
    series = ct_series()
    for dataset in series:
        dataset.Modality = modality
    save(series, tmp_path)
    only_scan_is_refused(tmp_path, "wrong_modality", f"series {UID} is {modality}, not CT")


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_slices_without_geometry_are_refused(tmp_path, tag):
    series = ct_series()
    for dataset in series:
        setattr(dataset, tag, None)
    save(series, tmp_path)
    only_scan_is_refused(tmp_path, "broken_geometry", f"series {UID} has no slice positions")


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM" + b"\xff" * 40], ids=["empty", "noise"])
def test_damaged_files_are_counted(tmp_path, content):
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    only_scan_is_refused(tmp_path, "unreadable", r"3 DICOM files cannot be read, the first is 0\.dcm; copy them again")


def test_a_damaged_file_beside_a_series_is_a_scan_of_its_own(tmp_path):
    save(ct_series(), tmp_path)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "003.dcm").read_bytes()[:200])
    damaged, series = find_scans(tmp_path)
    assert (damaged.series_uid, series.series_uid) == (dicom.UNREADABLE, UID)
    assert load_scan(series).hu.shape == SHAPE


def test_a_directory_of_dicom_files_is_no_damaged_file(tmp_path):
    save(ct_series(), tmp_path)
    directory = ct_slice(np.zeros(SHAPE[:2], np.int16), (0, 0, 0))
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    del directory.SeriesInstanceUID, directory.Rows
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=False)
    assert [source.series_uid for source in find_scans(tmp_path)] == [UID]


def changed(tag, value):
    series = ct_series()
    for dataset in series:
        setattr(dataset, tag, value)
    return series


@pytest.mark.parametrize(
    ("tag", "value", "code", "message"),
    [
        ("SamplesPerPixel", 3, "not_a_volume", "voxels have 3 components, not one"),
        ("BitsAllocated", 12, "unreadable", "000.dcm has 12 bits a pixel, not 8, 16 or 32"),
        ("Rows", 60000, "unreadable", "claims 2400000 bytes of voxels"),
        ("ImagePositionPatient", ["1e400", "0", "0"], "broken_geometry", "slice positions are not numbers"),
    ],
)
def test_headers_that_lie_are_refused_before_pixels_are_read(tmp_path, tag, value, code, message):
    save(changed(tag, value), tmp_path)
    only_scan_is_refused(tmp_path, code, message)


def test_one_slice_is_no_volume(tmp_path):
    save(ct_series()[:1], tmp_path)
    refused(tmp_path, rf"series {UID} has 1 CT slices; a volume needs more")


@pytest.mark.parametrize("missing", [1, 3, 4])
def test_a_missing_slice_is_named_by_its_gap(tmp_path, missing):
    series = ct_series()
    del series[missing]
    save(series, tmp_path)
    refused(tmp_path, r"slices are missing; one gap is 5\.00 mm where 2\.50 is usual")


def test_a_doubled_position_is_refused(tmp_path):
    series = ct_series()
    save([*series, ct_slice(stored_volume()[:, :, 2], series[2].ImagePositionPatient)], tmp_path)
    refused(tmp_path, "two slices lie at one position; the series is doubled or mixed")


@pytest.mark.parametrize(
    "odd",
    [ct_slice(np.zeros((20, 20), np.int16), (0, 0, 90)), ct_slice(np.zeros(SHAPE[:2], np.int16), (0, 0, 90), TURNED)],
)
def test_mixed_sizes_and_orientations_are_refused(tmp_path, odd):
    save([*ct_series(), odd], tmp_path)
    refused(tmp_path, "slices of one series differ in size or orientation")


def test_damaged_pixels_are_refused(tmp_path, capfd):
    save(ct_series(), tmp_path)
    path = tmp_path / "003.dcm"
    path.write_bytes(path.read_bytes()[:-400])
    refused(tmp_path, rf"pixels of series {UID} cannot be read; the files may be damaged")
    capfd.readouterr()  # GDCM writes to the terminal


def test_a_file_without_a_series_is_refused(tmp_path):
    dataset = ct_slice(np.zeros(SHAPE[:2], np.int16), (0, 0, 0))
    del dataset.SeriesInstanceUID
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ScanError, match=r"a\.dcm: not a DICOM file with a series"):
        load_scan(tmp_path / "a.dcm")


def test_a_file_that_is_no_dicom_has_no_series(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 200)
    with pytest.raises(ScanError, match=r"a\.dcm: not a DICOM file with a series"):
        dicom.series_uid(tmp_path / "a.dcm")


def test_headers_are_written_as_the_standard_has_them(tmp_path):
    save(ct_series(), tmp_path)
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "002.dcm").pixel_array, stored_volume()[:, :, 2].T)


def test_a_value_that_is_no_number_is_refused(tmp_path):
    """pydicom decodes values when they are read, and raises anything."""
    save(ct_series(), tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"-10.0\\-20.0", b"-x0.0\\-20.0"))
    only_scan_is_refused(tmp_path, "unreadable", "cannot be read .*-x0.0")


def test_a_value_that_cannot_be_decoded_counts_as_absent(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("odd value")

    save(ct_series(), tmp_path)
    monkeypatch.setattr(pydicom.Dataset, "get", broken)
    only_scan_is_refused(tmp_path, "unreadable", "6 DICOM files cannot be read")


# ---- identifiers -------------------------------------------------------------------------------------------------


def test_identifiers_are_read_only_when_asked_for(tmp_path):
    save(changed("PatientName", "Doe^Jane"), tmp_path)
    identifiers = dicom.read_identifiers(tmp_path, UID)
    assert identifiers == {"PatientName": "Doe^Jane", "StudyInstanceUID": f"{UID}.9", "SeriesInstanceUID": UID}
    assert dicom.read_identifiers(tmp_path, "1.2.3") == {}
