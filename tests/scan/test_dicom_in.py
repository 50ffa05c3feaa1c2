"""DICOM in other forms than plain slices: enhanced multi-frame files, encodings, oblique and tilted stacks."""

from __future__ import annotations

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import (
    ORIGIN_LPS_MM,
    SHAPE,
    STEP_MM,
    TURNED,
    UID,
    ct_series,
    ct_slice,
    enhanced,
    phantom_series,
    save,
    stored_volume,
)
from measures import dice
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from covsev.anatomy.lobes.segment import segment_lobes
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.errors import ScanError
from covsev.phantom import make_phantom
from covsev.quality.result import check_geometry
from covsev.report.dicom.objects import write_dicom
from covsev.scan import find_scans, load_scan, save_labels
from covsev.severity import measure

GDCM = {JPEG2000Lossless: "JPEG2000", JPEGLosslessSV1: "JPEG"}
EXPECTED_HU = stored_volume() - 1024


def refused(folder, code, message):
    with pytest.raises(ScanError, match=message) as caught:
        load_scan(folder)
    assert caught.value.code == code


# ---- enhanced multi-frame ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per_frame"])
@pytest.mark.parametrize("order", [None, [3, 0, 5, 1, 4, 2]], ids=["ordered", "mixed"])
def test_an_enhanced_file_is_the_series_of_its_frames(tmp_path, shared, order):
    save([enhanced(ct_series(), order, shared=shared)], tmp_path / "enhanced")
    save(ct_series(), tmp_path / "plain")
    scan, plain = load_scan(tmp_path / "enhanced"), load_scan(tmp_path / "plain")
    np.testing.assert_array_equal(scan.hu, EXPECTED_HU)
    np.testing.assert_allclose(scan.affine, plain.affine)
    assert scan.hu.flags.f_contiguous  # slice after slice, as a file holds them
    assert plain.hu.flags.f_contiguous


def test_each_frame_has_its_own_scale(tmp_path):
    series = ct_series()
    for number, dataset in enumerate(series):
        dataset.RescaleIntercept = -1000 - number
    save([enhanced(series, shared=False)], tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, stored_volume() - 1000 - np.arange(SHAPE[2]))


def test_a_legacy_converted_file_is_read(tmp_path):
    whole = enhanced(ct_series())
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.2"
    save([whole], tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, EXPECTED_HU)


def test_several_enhanced_files_are_one_series(tmp_path):
    series = ct_series()
    save([enhanced(series[:2]), enhanced(series[2:])], tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, EXPECTED_HU)


def test_frames_that_are_localizers_are_skipped(tmp_path):
    scout = ct_slice(np.zeros(SHAPE[:2], np.int16), (0, 0, 500), TURNED)
    whole = enhanced([*ct_series(), scout], shared=False)
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    whole.PerFrameFunctionalGroupsSequence[-1].CTImageFrameTypeSequence = [kind]
    save([whole], tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, EXPECTED_HU)


def test_frames_without_description_are_refused(tmp_path):
    whole = enhanced(ct_series())
    del whole.PerFrameFunctionalGroupsSequence[-1]
    save([whole], tmp_path)
    refused(tmp_path, "broken_geometry", r"000\.dcm: has 6 frames and describes 5; export it again")


def test_frames_without_position_are_refused(tmp_path):
    whole = enhanced(ct_series())
    for group in whole.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    save([whole], tmp_path)
    refused(tmp_path, "broken_geometry", f"series {UID} has no slice positions")


def test_an_enhanced_file_that_lies_about_its_size_is_refused(tmp_path):
    whole = enhanced(ct_series())
    whole.PixelData = whole.PixelData[:-2000]
    save([whole], tmp_path)
    refused(tmp_path, "unreadable", "claims 5760 bytes of voxels")


def phantom_results(tmp_path, series):
    """Segmentation of a phantom's truth, of a series in any form; and the truth."""
    phantom = make_phantom((12.0, 12.0, 20.0))
    save(series(phantom_series(phantom.scan)), tmp_path / "chest")
    scan = load_scan(tmp_path / "chest")
    overlay = tmp_path / "overlay.png"
    Image.new("RGB", (8, 8)).save(overlay)
    maps = {"lungs": phantom.lungs, "lobes": phantom.lobes, "lesions": phantom.lesions}
    report = measure(scan, *maps.values())
    paths = write_dicom(scan, maps, report, (), tmp_path, versions=dict.fromkeys(maps, "1"), overlay=overlay)
    return scan, phantom, hd.seg.segread(paths[0])


def test_a_segmentation_of_an_enhanced_file_refers_to_its_frames(tmp_path):
    order = list(np.random.default_rng(0).permutation(15))
    scan, phantom, segmentation = phantom_results(tmp_path, lambda series: [enhanced(series, order)])
    (path,) = (tmp_path / "chest").iterdir()
    pixels = segmentation.get_pixels_by_source_frame(
        pydicom.dcmread(path).SOPInstanceUID,
        [order.index(z) + 1 for z in range(15)],
        segment_numbers=[1, 2],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), phantom.lungs)
    assert scan.hu.shape == phantom.lungs.shape


def test_results_of_several_enhanced_files_are_refused(tmp_path):
    with pytest.raises(ScanError, match=r"lie in 2 multi-frame files, .* leave out --dicom") as caught:
        phantom_results(tmp_path, lambda series: [enhanced(series[:4]), enhanced(series[4:])])
    assert caught.value.code == "no_dicom_source"


# ---- encodings ---------------------------------------------------------------------------------------------------


def encoded(pixels, syntax, folder):
    """One frame's bytes, (columns, rows) in; encoded by GDCM, or by pydicom what GDCM does not write."""
    if syntax in GDCM:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(GDCM[syntax])
        writer.SetFileName(str(folder / "encoded.dcm"))
        writer.Execute(sitk.GetImageFromArray(np.ascontiguousarray(pixels.T)[None]))
        dataset = pydicom.dcmread(folder / "encoded.dcm")
    else:
        dataset = ct_slice(pixels, (0, 0, 0))
        dataset.compress(syntax)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    (content,) = generate_frames(dataset.PixelData, number_of_frames=1)
    return content


def compressed(dataset, planes, syntax, folder):
    """``dataset`` with compressed pixels of one or more planes."""
    dataset.PixelData = encapsulate([encoded(plane, syntax, folder) for plane in planes])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


@pytest.mark.parametrize("form", ["slices", "enhanced"])
@pytest.mark.parametrize("syntax", [*GDCM, JPEGLSLossless, RLELossless], ids=lambda syntax: syntax.keyword)
def test_lossless_compression_keeps_every_voxel(tmp_path, tmp_path_factory, syntax, form):
    folder, series, planes = tmp_path_factory.mktemp("encoded"), ct_series(), np.moveaxis(stored_volume(), -1, 0)
    if form == "slices":
        files = [compressed(d, [plane], syntax, folder) for d, plane in zip(series, planes, strict=True)]
    else:
        files = [compressed(enhanced(series), planes, syntax, folder)]
    save(files, tmp_path)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, EXPECTED_HU)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_plain_encodings_are_read(tmp_path, syntax):
    for number, dataset in enumerate(ct_series()):
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(tmp_path / f"{number}.dcm", dataset, enforce_file_format=True)
    np.testing.assert_array_equal(load_scan(tmp_path).hu, EXPECTED_HU)


def test_an_encoding_that_cannot_be_decoded_is_named(tmp_path, capfd):
    series = ct_series()
    for dataset in series:
        dataset.PixelData = encapsulate([b"\xff\x4f" + bytes(2000)])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    save(series, tmp_path)
    refused(tmp_path, "unreadable", r"\(stored as High-Throughput JPEG 2000 .*; decompress them first")
    capfd.readouterr()  # GDCM writes to the terminal


# ---- oblique and tilted ------------------------------------------------------------------------------------------


def tilted(scan_series, deg):
    """Slices that keep their places on the table, their columns turned about the left-right axis."""
    along_columns = np.array([0, np.cos(np.radians(deg)), np.sin(np.radians(deg))])
    for dataset in scan_series:
        dataset.ImageOrientationPatient = [1, 0, 0, *np.round(along_columns, 8)]
    return scan_series


@pytest.mark.parametrize("deg", [-30, -12.5, 5, 29])
def test_a_tilted_gantry_gives_the_grid_that_the_headers_say(tmp_path, deg):
    save(tilted(ct_series(), deg), tmp_path)
    scan = load_scan(tmp_path)
    np.testing.assert_array_equal(np.sort(scan.hu, axis=None), np.sort(EXPECTED_HU, axis=None))
    assert scan.tilt_deg == pytest.approx(abs(deg), abs=1e-3)
    assert scan.voxel_ml == pytest.approx(0.9 * 0.7 * STEP_MM * np.cos(np.radians(deg)) / 1000)
    place = scan.affine @ [0, 0, 3, 1]
    np.testing.assert_allclose(
        place[:3], np.diag([-1, -1, 1]) @ (ORIGIN_LPS_MM + np.array([0, 0, 3 * STEP_MM])), atol=1e-5
    )


def test_more_than_a_gantry_can_is_refused(tmp_path):
    save(tilted(ct_series(), 35), tmp_path)
    refused(tmp_path, "tilted", "tilted by 35 deg, more than a gantry can; resample the series first")


def test_a_slice_beside_the_others_is_refused(tmp_path):
    series = ct_series()
    series[2].ImagePositionPatient[0] += 4
    save(series, tmp_path)
    refused(tmp_path, "mixed_series", r"a slice lies 4\.0 mm beside the line of the others; the series is mixed")


def test_tilt_is_flagged_and_written_as_sform_only(tmp_path):
    save(tilted(ct_series(), 10), tmp_path / "tilted")
    scan = load_scan(tmp_path / "tilted")
    (flag,) = (flag for flag in check_geometry(scan) if flag.code == "tilted")
    assert "tilted by 10 deg" in flag.text
    save_labels(np.zeros(scan.hu.shape, np.uint8), scan, tmp_path / "labels.nii.gz")
    image = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


def test_straight_scans_have_no_tilt(phantom):
    assert phantom.scan.tilt_deg == 0
    assert "tilted" not in {flag.code for flag in check_geometry(phantom.scan)}


@pytest.mark.slow
def test_a_tilted_chest_is_segmented_nearly_as_well(phantom, tmp_path, monkeypatch):
    """The phantom, drawn as a gantry tilted by 15 degrees would: lungs as before, lobes a little worse."""
    from covsev import phantom as drawing

    affine, turn = phantom.scan.affine.copy(), np.radians(15)
    step_mm = abs(affine[1, 1])
    affine[:3, 1] = [0, -step_mm * np.cos(turn), step_mm * np.sin(turn)]
    middle = [*(np.array(phantom.scan.hu.shape) - 1) / 2, 1]
    affine[:3, 3] += (phantom.scan.affine @ middle - affine @ middle)[:3]
    monkeypatch.setattr(drawing, "_lps_affine", lambda *_: affine)
    sheared = make_phantom((3.0, 3.0, 4.0))
    lungs = segment_lungs(sheared.scan).labels
    lobes = segment_lobes(sheared.scan, lungs).labels
    assert dice(lungs > 0, sheared.lungs > 0) > 0.99
    assert all(dice(lobes == label, sheared.lobes == label) > 0.75 for label in range(1, 6))


def test_a_segmentation_of_tilted_slices_lies_where_they_do(tmp_path):
    _, phantom, segmentation = phantom_results(tmp_path, lambda series: tilted(series, 12))
    uids = [d.SOPInstanceUID for d in sorted(map(pydicom.dcmread, (tmp_path / "chest").iterdir()), key=height)]
    pixels = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=[1, 2], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), phantom.lungs)


def height(dataset):
    return float(dataset.ImagePositionPatient[2])


def test_folders_of_enhanced_files_hold_a_scan_each(tmp_path):
    for name in ("a", "b"):
        save([enhanced(ct_series())], tmp_path / name)
    assert [source.case for source in find_scans(tmp_path)] == ["a", "b"]
