"""Many scans: isolation of failures, and tables."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from covsev import batch, labels
from covsev.batch import assess_sources
from covsev.options import Options
from covsev.phantom import make_phantom
from covsev.scan import find_scans

COARSE_MM = (5.0, 5.0, 10.0)


@pytest.fixture(scope="module")
def good_scan(tmp_path_factory):
    scan = make_phantom(COARSE_MM).scan
    path = tmp_path_factory.mktemp("good") / "good.nii.gz"
    nib.save(nib.Nifti1Image(scan.hu, scan.affine), path)
    return path


@pytest.fixture
def folder(good_scan, tmp_path):
    """A good scan among bad ones."""
    scans = tmp_path / "scans"
    (scans / "sub").mkdir(parents=True)
    shutil.copy(good_scan, scans / "good.nii.gz")
    shutil.copy(good_scan, scans / "sub" / "good.nii.gz")
    (scans / "corrupt.nii.gz").write_bytes(b"not a scan")
    (scans / "truncated.nii.gz").write_bytes(good_scan.read_bytes()[:2000])
    (scans / "empty.nii").write_bytes(b"")
    tissue = np.full((40, 40, 20), 40, np.int16)
    nib.save(nib.Nifti1Image(tissue, np.eye(4)), scans / "no_lung.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 20, 3), np.int16), np.eye(4)), scans / "four_d.nii.gz")
    return scans


def _table(path):
    with path.open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_bad_scans_become_rows_and_the_others_go_on(folder, tmp_path, bright_model):
    out = tmp_path / "out"
    seen = []
    result = assess_sources(find_scans(folder), out, bright_model, on_start=seen.append)
    rows = _table(out / "severity.csv")
    assert result.failed == 5
    assert set(seen) == set(rows) == {
        "good", "sub_good", "corrupt", "truncated", "empty", "no_lung", "four_d",
    }  # fmt: skip
    assert {rows[case]["status"] for case in ("good", "sub_good")} == {"ok"}
    assert rows["no_lung"]["code"] == "no_lungs"
    for case in ("corrupt", "truncated", "empty", "four_d"):
        assert rows[case]["code"] == "unreadable"
        assert str(folder) in rows[case]["reason"]
    assert float(rows["good"]["both_lungs_volume_ml"]) == pytest.approx(4180, rel=0.05)
    assert rows["good"]["weights"] == bright_model.weights


def test_run_json_says_how_it_was_made(good_scan, tmp_path, bright_model):
    assess_sources(find_scans(good_scan), tmp_path, bright_model, Options(noise_floor_ml=2.5))
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["weights"] == bright_model.weights
    assert run["options"] == {"restrict_to_lungs": True, "noise_floor_ml": 2.5, "save_probability": False}
    assert run["scans"] == 1
    assert run["failed"] == 0
    assert run["packages"]["torch"] == torch.__version__
    assert run["disclaimer"] == labels.DISCLAIMER


def test_no_temporary_file_is_left(folder, tmp_path, bright_model):
    out = tmp_path / "out"
    assess_sources(find_scans(folder), out, bright_model)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), "out_of_memory", "not enough memory"),
        (ZeroDivisionError("x"), "unexpected", "ZeroDivisionError: x"),
    ],
)
def test_unexpected_errors_are_isolated_too(error, code, reason, good_scan, tmp_path, bright_model, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(batch, "assess", fail)
    row = assess_sources(find_scans(good_scan), tmp_path, bright_model).rows[0]
    assert row["code"] == code
    assert reason in row["reason"]


def test_the_table_can_be_read_while_the_batch_runs(folder, tmp_path, bright_model):
    out = tmp_path / "out"
    lengths = []
    assess_sources(
        find_scans(folder), out, bright_model, on_done=lambda _: lengths.append(len(_table(out / "severity.csv")))
    )
    assert lengths == list(range(1, 8))


def test_a_scan_that_fails_now_leaves_no_older_result(tmp_path, bright_model):
    (tmp_path / "bad.nii.gz").write_bytes(b"bad")
    old = tmp_path / "out" / f"bad{labels.SEVERITY_SUFFIX}"
    old.parent.mkdir()
    old.write_text("{}")
    assess_sources(find_scans(tmp_path / "bad.nii.gz"), old.parent, bright_model)
    assert not old.exists()
