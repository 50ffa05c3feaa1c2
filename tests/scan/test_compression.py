"""gzip with ISA-L and without it: the same voxels, whoever wrote them."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from covsev.errors import ScanError
from covsev.scan import compression, load_scan, make_scan, save_labels

LABELS = np.random.default_rng(0).integers(0, 3, (20, 18, 16), dtype=np.uint8)
SCAN = make_scan(LABELS.astype(np.int16), np.diag([2.0, 2.0, 5.0, 1.0]), case="a")


@pytest.fixture(params=["isal", "python"])
def gzip_of(request, monkeypatch):
    """Both ways to read and write, the first one only where its package is installed."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(compression, "has_isal", lambda: False)
    return request.param


def test_the_fast_way_is_taken_where_it_is_installed(tmp_path, gzip_of):
    with compression.open_gzip(tmp_path / "a.gz", "wb") as stream:
        assert type(stream).__module__ == {"isal": "isal.igzip", "python": "gzip"}[gzip_of]


def test_labels_can_be_read_by_anyone(tmp_path, gzip_of):
    save_labels(LABELS, SCAN, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").dataobj, LABELS)
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + LABELS.size


def test_memory_order_does_not_change_the_file(tmp_path, gzip_of):
    save_labels(LABELS, SCAN, tmp_path / "rows.nii.gz")
    save_labels(np.asfortranarray(LABELS), SCAN, tmp_path / "columns.nii.gz")
    assert (tmp_path / "rows.nii.gz").read_bytes() == (tmp_path / "columns.nii.gz").read_bytes()


def test_a_scan_that_others_wrote_is_read_as_it_is_in_file_order(write_nifti, gzip_of):
    hu = np.random.default_rng(1).integers(-1024, 3000, (20, 18, 16), dtype=np.int16)
    scan = load_scan(write_nifti("a.nii.gz", hu))
    np.testing.assert_array_equal(scan.hu, hu)
    assert scan.hu.dtype == np.int16
    assert scan.hu.flags.f_contiguous


def test_a_file_cut_short_is_refused(write_nifti, gzip_of):
    path = write_nifti("a.nii.gz", np.random.default_rng(1).integers(-1024, 3000, (40, 40, 40), dtype=np.int16))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ScanError, match=r"a\.nii\.gz: cannot be read"):
        load_scan(path)
