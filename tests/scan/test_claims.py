"""Headers that lie, headers that reach for other files, and what MetaImage headers may say."""

from __future__ import annotations

import gzip
import os
import re
import zlib

import nibabel as nib
import numpy as np
import pytest

from covsev.errors import ScanError
from covsev.scan import files_of, find_scans, load_scan, make_scan, remove_leftovers, replacing, save_labels

SHAPE = (20, 22, 8)
HU = np.random.default_rng(0).integers(-1000, 500, SHAPE).astype(np.int16)
VOXELS = HU.tobytes(order="F")
NRRD = b"NRRD0004\ntype: {type}\ndimension: 3\nsizes: {sizes}\nencoding: {encoding}\nendian: little\n{more}\n"
META = "NDims = 3\nDimSize = {sizes}\nElementType = {type}\n{more}ElementDataFile = {data}\n"
DEFAULTS = {"sizes": "20 22 8", "more": ""}


def nrrd(path, content=VOXELS, **fields):
    fields = {"type": "short", "encoding": "raw"} | DEFAULTS | fields
    path.write_bytes(NRRD.decode().format(**fields).encode() + content)
    return path


def meta(path, content=VOXELS, **fields):
    fields = {"type": "MET_SHORT", "data": "LOCAL"} | DEFAULTS | fields
    path.write_bytes(META.format(**fields).encode() + content)
    return path


def refused(path, message, code="unreadable"):
    with pytest.raises(ScanError, match=re.escape(f"{path}: ") + message) as caught:
        load_scan(path)
    assert caught.value.code == code


# ---- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [nrrd, meta])
def test_honest_headers_pass(tmp_path, write):
    np.testing.assert_array_equal(load_scan(write(tmp_path / f"a.{write.__name__[0]}ha".replace("nha", "nrrd"))).hu, HU)


@pytest.mark.parametrize(
    ("fields", "message", "code"),
    [
        ({"sizes": "20 22 9"}, r"cannot be read \(its header claims 7920 bytes of voxels", "unreadable"),
        ({"sizes": "900 900 900"}, r"cannot be read \(its header claims 1458000000 bytes", "unreadable"),
        ({"sizes": "9000 9000 9000"}, r"shape \(9000, 9000, 9000\) is larger than 2\^31 voxels", "too_large"),
        ({"sizes": "20 22 -8"}, "sizes '20 22 -8' are not whole numbers above 0", "unreadable"),
        ({"sizes": "20 22 x"}, "sizes '20 22 x' are not whole numbers above 0", "unreadable"),
        ({"sizes": ""}, "sizes '' are not whole numbers above 0", "unreadable"),
        ({"type": "block"}, "voxel type 'block' is not a number type", "unreadable"),
        ({"encoding": "hex"}, "encoding 'hex' is not raw or gzip", "unreadable"),
        ({"more": "kinds: RGB-color domain domain"}, "voxels have 20 components, not one", "not_a_volume"),
    ],
)
def test_lying_nrrd_headers_are_refused(tmp_path, fields, message, code):
    refused(nrrd(tmp_path / "a.nrrd", **fields), f".*{message}", code)


@pytest.mark.parametrize(
    ("fields", "message", "code"),
    [
        ({"sizes": "20 22 9"}, r"cannot be read \(its header claims 7920 bytes of voxels", "unreadable"),
        ({"sizes": "9000 9000 9000"}, "larger than 2", "too_large"),
        ({"sizes": "x"}, "sizes 'x' are not whole numbers above 0", "unreadable"),
        ({"type": "met_other"}, "voxel type 'MET_OTHER' is not a number type", "unreadable"),
        ({"more": "ElementNumberOfChannels = 3\n"}, "voxels have 3 components, not one", "not_a_volume"),
        ({"more": "BinaryData = False\n"}, "its voxels are written as text", "unreadable"),
        ({"more": "Offset = 1 2\n"}, "offset has 2 numbers, not 3", "unreadable"),
        ({"more": "ElementSpacing = 1 2 z\n"}, "cannot be read .*could not convert", "unreadable"),
        ({"more": "HeaderSize = 5\n"}, "it has 7035 bytes of voxels, not 7040", "unreadable"),
    ],
)
def test_lying_metaimage_headers_are_refused(tmp_path, fields, message, code):
    refused(meta(tmp_path / "a.mha", **fields), f".*{message}", code)


def test_a_packed_header_cannot_claim_more_than_deflate_can_hold(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((1024, 1024, 1000))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 10_000))
    refused(path, r"cannot be read \(its header claims 4194304000 bytes of voxels")


def test_a_scan_of_nothing_but_padding_packs_within_the_bound(tmp_path):
    """Deflate's bound is that of its best case, so that no true file is refused."""
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.full((128, 128, 100), -1024, np.int16), np.eye(4)), path)
    assert load_scan(path).hu.shape == (128, 128, 100)


def test_another_format_under_a_nifti_name_is_refused(tmp_path):
    nib.save(nib.MGHImage(HU, np.eye(4)), tmp_path / "a.mgh")
    (tmp_path / "a.mgh").rename(tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "cannot be read")


# ---- data files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["../secret.raw", "/etc/passwd", "gone.raw", "", "link.raw", "a%02d.raw 1 9 1"])
@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
def test_data_elsewhere_are_refused(tmp_path, kind, data):
    folder = tmp_path / "scans"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    if kind == "nhdr":
        path = nrrd(folder / "a.nhdr", b"", more=f"data file: {data}\n")
    else:
        path = meta(folder / "a.mhd", b"", data=data)
    refused(path, f"its data file {data!r} is not a file in the same folder")


@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
def test_data_beside_the_header_are_read(tmp_path, kind):
    (tmp_path / "a.raw").write_bytes(VOXELS)
    if kind == "nhdr":
        path = nrrd(tmp_path / "a.nhdr", b"", more="data file: a.raw\n")
    else:
        path = meta(tmp_path / "a.mhd", b"", data="a.raw")
    np.testing.assert_array_equal(load_scan(path).hu, HU)
    assert files_of(find_scans(path)[0]) == [path, tmp_path / "a.raw"]


# ---- MetaImage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "content"),
    [
        ("", VOXELS),
        ("BinaryDataByteOrderMSB = True\n", HU.astype(">i2").tobytes(order="F")),
        ("ElementByteOrderMSB = True\n", HU.astype(">i2").tobytes(order="F")),
        ("CompressedData = True\n", zlib.compress(VOXELS)),
        ("HeaderSize = 7\n", b"skipped" + VOXELS),
        ("HeaderSize = -1\n", b"anything" + VOXELS),
        ("", VOXELS + b"more than is needed"),
    ],
)
def test_voxels_of_metaimage_are_read(tmp_path, more, content):
    scan = load_scan(meta(tmp_path / "a.mha", content, more=more))
    np.testing.assert_array_equal(scan.hu, HU)
    np.testing.assert_array_equal(scan.affine, np.diag([-1, -1, 1, 1]))


@pytest.mark.parametrize(
    "names", [("TransformMatrix", "Offset", "ElementSpacing"), ("Rotation", "Position", "ElementSize")]
)
def test_geometry_of_metaimage_is_read(tmp_path, names):
    directions, offset, spacing = names
    more = f"{directions} = 0 1 0 -1 0 0 0 0 1\n{offset} = 1 2 3\n{spacing} = 0.5 0.6 2\n"
    affine = load_scan(meta(tmp_path / "a.mha", more=more)).affine
    expected = [[0, 0.6, 0, -1], [-0.5, 0, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-12)


# ---- geometry and names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing_mm", [0.001, 51.0])
def test_voxels_that_no_scanner_makes_are_refused(spacing_mm):
    with pytest.raises(ScanError, match="are no chest scan's; repair the header's geometry"):
        make_scan(HU, np.diag([spacing_mm, 1, 1, 1]), case="a")


def test_a_scan_longer_than_a_person_is_refused():
    with pytest.raises(ScanError, match="are no chest scan's"):
        make_scan(np.zeros((16, 16, 200), np.int16), np.diag([1, 1, 13, 1]), case="a")


def test_axes_far_from_right_angles_are_refused_and_a_tilted_gantry_is_not():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[1, 2] = np.tan(np.deg2rad(30))
    make_scan(HU, affine, case="a")
    affine[1, 2] = np.tan(np.deg2rad(61))
    with pytest.raises(ScanError, match="the grid's axes are far from right angles") as caught:
        make_scan(HU, affine, case="a")
    assert caught.value.code == "broken_geometry"


@pytest.mark.parametrize("case", ["../a", "a/b", "/a", "..", ""])
def test_a_case_that_is_a_path_is_refused(case):
    with pytest.raises(ScanError, match="must not be a path; it becomes part of file names"):
        make_scan(HU, np.eye(4), case=case)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Scan.nii", "scan.nii.gz"), ["Scan_nii", "scan_nii_gz"]),
        (("A.nrrd", "a.nrrd"), ["A_nrrd", "a_nrrd_2"]),
        (("u\u0308.nii", "ü.nrrd"), ["ü_nii", "ü_nrrd"]),
        (("-o.nii",), ["o"]),
        (("line\nbreak.nii",), ["line_break"]),
    ],
)
def test_names_differ_on_every_file_system(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).touch()
    assert sorted(source.case for source in find_scans(tmp_path)) == sorted(expected)


def test_long_names_are_cut_and_stay_apart(tmp_path):
    for last in "ab":
        (tmp_path / ("ä" * 100 + last + ".nii")).touch()
    cases = [source.case for source in find_scans(tmp_path)]
    assert len(set(cases)) == 2
    assert all(len(case.encode()) <= 170 for case in cases)


def test_a_name_that_is_no_text_gives_a_case_that_is(tmp_path):
    with open(os.fsencode(tmp_path) + b"/x\xffy.nii", "wb"):  # noqa: PTH123 - no text for this name
        pass
    assert [source.case for source in find_scans(tmp_path)] == ["x_y"]


def test_what_is_no_regular_file_is_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    os.mkfifo(tmp_path / "pipe.dcm")
    refused(tmp_path / "pipe.nii", "not a regular file")
    assert [source.case for source in find_scans(tmp_path)] == ["pipe"]


def test_a_folder_that_cannot_be_listed_is_a_scan_that_fails(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    (source,) = find_scans(tmp_path)
    with pytest.raises(ScanError, match="closed: the folder cannot be read; check its permissions"):
        load_scan(source)


# ---- writing -----------------------------------------------------------------------------------------------------


def test_odd_units_of_a_header_do_not_stop_writing(tmp_path):
    nib.save(nib.Nifti1Image(HU, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[123] = 0xFF  # xyzt_units
    (tmp_path / "a.nii").write_bytes(content)
    save_labels(np.zeros(SHAPE, np.uint8), load_scan(tmp_path / "a.nii"), tmp_path / "a_lungs.nii.gz")
    assert int(nib.load(tmp_path / "a_lungs.nii.gz").header["xyzt_units"]) == 0x3F


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    for name in ("kept.nii.gz", ".kept", ".covsev-1234-a.nii.gz"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".kept", "kept.nii.gz"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1
