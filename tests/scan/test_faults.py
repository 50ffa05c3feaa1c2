"""A directory of everything that can be wrong with a scan, among good ones, through the command line."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import ct_series, ct_slice, save, stored_volume
from pydicom.uid import EnhancedCTImageStorage
from result_files import contents, table

GOOD = {
    "good one.nii.gz": "good_one",
    "ünï/scan.nii.gz": "ünï_scan",
    "other/scan.nii.gz": "other_scan",
    "line\nbreak.nii.gz": "line_break",
    "a.nii.gz": "a_nii_gz",
    "a.nii": "a_nii",
}


def nifti(path, array, affine=None, header=None):
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0]) if affine is None else affine, header), path)


def volume(value=40, shape=(40, 40, 20), dtype=np.int16):
    return np.full(shape, value, dtype)


def add_bad_nifti(folder, good):
    """Broken NIfTI files; the code that each should get."""
    packed, plain = good.read_bytes(), gzip.decompress(good.read_bytes())
    (folder / "text.nii.gz").write_bytes(b"not a scan")
    (folder / "packed_text.nii.gz").write_bytes(gzip.compress(b"not a scan"))
    (folder / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "cut.nii").write_bytes(plain[: len(plain) // 2])
    (folder / "empty.nii").touch()
    (folder / "empty.nii.gz").touch()
    (folder / "flipped.nii").write_bytes(b"\xff" * 348 + plain[348:])
    nifti(folder / "flat.nii", volume(shape=(64, 64)))
    nifti(folder / "series.nii", volume(shape=(40, 40, 20, 3)))
    nifti(folder / "tiny.nii", volume(shape=(5, 5, 5)))
    nifti(folder / "nan.nii", volume(np.nan, dtype=np.float32))
    nifti(folder / "rgb.nii", np.zeros((40, 40, 20), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nifti(folder / "complex.nii", volume(dtype=np.complex64))
    nifti(folder / "padding.nii", volume(-1024))
    nifti(folder / "tissue.nii", volume(40))
    for name, affine in (("zeros", np.zeros((4, 4))), ("nan", np.full((4, 4), np.nan)), ("metres", np.eye(4) / 1000)):
        _with_affine(folder / f"affine_{name}.nii", affine)
    sheared = np.diag([2.0, 2.0, 5.0, 1.0])
    sheared[0, 1], sheared[1, 2] = 3.0, 9.0
    _with_affine(folder / "affine_sheared.nii", sheared)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    (folder / "lying.nii").write_bytes(header.binaryblock + b"\0" * 1000)
    header.set_data_shape((1024, 1024, 1000))
    (folder / "lying.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 1000))
    header.set_data_shape((2048, 2048, 1024))
    with (folder / "enormous.nii").open("wb") as stream:
        stream.write(header.binaryblock)
        stream.truncate(2048 * 2048 * 1024 * 8 + 352)  # a hole: takes no room on the disk
    codes = dict.fromkeys(("text", "packed_text", "cut_nii", "cut_nii_gz", "empty_nii", "empty_nii_gz"), "unreadable")
    codes |= dict.fromkeys(("flat", "series", "tiny", "rgb", "complex"), "not_a_volume")
    codes |= dict.fromkeys(("affine_zeros", "affine_nan", "affine_metres", "affine_sheared"), "broken_geometry")
    codes |= {"flipped": "unreadable", "nan": "no_values", "padding": "no_lungs", "tissue": "no_lungs"}
    return codes | {"lying_nii": "too_large", "lying_nii_gz": "unreadable", "enormous": "too_large"}


def _with_affine(path, affine):
    header = nib.Nifti1Header()
    header.set_data_shape((40, 40, 20))
    header.set_data_dtype(np.int16)
    header["sform_code"], header["magic"], header["vox_offset"] = 1, b"n+1", 352
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = affine[row]
    path.write_bytes(header.binaryblock + b"\0" * 4 + volume().tobytes())


def add_bad_itk(folder, secret):
    image = sitk.GetImageFromArray(volume().T)
    colour = sitk.GetImageFromArray(np.zeros((20, 40, 40, 3), np.uint8), isVector=True)
    sitk.WriteImage(colour, str(folder / "colour.nrrd"))
    sitk.WriteImage(colour, str(folder / "colour.mha"))
    sitk.WriteImage(image, str(folder / "whole.nrrd"))
    whole = (folder / "whole.nrrd").read_bytes()
    (folder / "whole.nrrd").rename(folder / "short.nrrd")
    (folder / "short.nrrd").write_bytes(whole[:2000])
    head = whole[: whole.index(b"\n\n")]
    (folder / "foreign.nhdr").write_bytes(head + f"\ndata file: {secret}\n\n".encode())
    meta = "NDims = 3\nDimSize = {}\nElementType = MET_SHORT\nElementDataFile = {}\n"
    (folder / "lying.mha").write_text(meta.format("900 900 900", "LOCAL"))
    (folder / "foreign.mhd").write_text(meta.format("40 40 20", f"../{secret.name}"))
    (folder / "lonely.mhd").write_text(meta.format("40 40 20", "gone.raw"))
    names = ("short", "foreign_nhdr", "lying_mha", "foreign_mhd", "lonely")
    return dict.fromkeys(names, "unreadable") | dict.fromkeys(("colour_nrrd", "colour_mha"), "not_a_volume")


def add_bad_dicom(folder):
    def series(name, slices):
        save(slices, folder / name)

    whole = ct_series()
    series("missing", [whole[k] for k in (0, 1, 2, 4, 5)])
    series("doubled", [*whole, ct_slice(stored_volume()[:, :, 2], whole[2].ImagePositionPatient)])
    series("sizes", [*whole, ct_slice(np.zeros((30, 30), np.int16), (0, 0, 90))])
    series("single", whole[:1])
    tilted = ct_series()
    for number, dataset in enumerate(tilted):
        dataset.ImagePositionPatient[1] += 2.5 * number
    series("tilted", tilted)
    for name, tag, value in (("mr", "Modality", "MR"), ("lost", "ImagePositionPatient", None)):
        changed = ct_series()
        for dataset in changed:
            setattr(dataset, tag, value)
        series(name, changed)
    enhanced = ct_slice(np.zeros((20, 24), np.int16), (0, 0, 0))
    enhanced.SOPClassUID, enhanced.NumberOfFrames, enhanced.ImagePositionPatient = EnhancedCTImageStorage, 40, None
    series("frames", [enhanced])
    series("pixels", whole)
    cut = folder / "pixels" / "003.dcm"
    cut.write_bytes(cut.read_bytes()[:-400])
    (folder / "headers").mkdir()
    (folder / "headers" / "1.dcm").write_bytes(cut.read_bytes()[:150])
    codes = {"missing": "missing_slices", "doubled": "duplicate_slices", "sizes": "mixed_series"}
    codes |= {"single": "few_slices", "tilted": "tilted", "mr": "wrong_modality", "lost": "broken_geometry"}
    return codes | {"frames": "broken_geometry", "pixels": "unreadable", "headers": "unreadable"}


def add_bad_paths(folder):
    (folder / "loop.nii.gz").symlink_to("loop.nii.gz")
    (folder / "dangling.nii.gz").symlink_to("gone.nii.gz")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.nii.gz")
    os.mkfifo(folder / "pipe")
    (folder / "closed.nii.gz").write_bytes(b"closed")
    (folder / "closed.nii.gz").chmod(0)
    with open(os.fsencode(folder / "bytes_") + b"\xff.nii.gz", "wb") as stream:  # noqa: PTH123 - no text for this name
        stream.write(b"bytes")
    (folder / ("long" * 60 + ".nii")).write_bytes(b"long")
    codes = {"loop": "missing", "dangling": "missing", "pipe": "unreadable", "closed": "unreadable"}
    return codes | {"bytes": "unreadable", "long": "unreadable"}


def covsev(*arguments):
    command = [sys.executable, "-m", "covsev", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_bad_scans_of_every_kind_cost_nothing_but_their_rows(small_scan, bright_bundle, tmp_path):
    folder, secret = tmp_path / "scans", tmp_path / "secret.raw"
    for name in GOOD:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = small_scan.read_bytes()
        (folder / name).write_bytes(gzip.decompress(content) if name == "a.nii" else content)
    secret.write_bytes(volume().tobytes())
    clean = covsev("severity", folder, "-o", tmp_path / "clean", "--bundle", bright_bundle)
    assert clean.returncode == 0, clean.stderr
    codes = add_bad_nifti(folder, small_scan) | add_bad_itk(folder, secret)
    codes |= add_bad_dicom(folder) | add_bad_paths(folder)
    assert len(codes) >= 25
    run = covsev("severity", folder, "-o", tmp_path / "out", "--bundle", bright_bundle, "--workers", "2")
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    rows = table(tmp_path / "out" / "severity.csv")
    failed = {case: row for case, row in rows.items() if row["status"] == "failed"}
    names = {case: "long" if case.startswith("longlong") else case for case in failed}
    assert {names[case]: row["code"] for case, row in failed.items()} == codes
    assert all(row["reason"] for row in failed.values())
    assert set(rows) - set(failed) == set(GOOD.values())
    expected = contents(tmp_path / "clean")
    results = contents(tmp_path / "out")
    tables = {"severity.csv", "run.json", "index.html"}
    assert {name: results[name] for name in results if name not in tables} == {
        name: expected[name] for name in expected if name not in tables
    }
    clean_rows = table(tmp_path / "clean" / "severity.csv")
    assert {case: rows[case] for case in GOOD.values()} == clean_rows
    shutil.rmtree(folder)
