"""A directory of scans: tables, resuming, manifest, page, and what of a patient is written."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from in_process import InProcess
from result_files import contents, table

from covsev import labels
from covsev.batch import assess_directory, directory, work
from covsev.batch.job import Job, finished_report, make_job, remove_results
from covsev.errors import ScanError
from covsev.options import Options
from covsev.scan import ScanSource, find_scans


@pytest.fixture
def workforce(bright_model, monkeypatch):
    """Work in this process; says which scans were done."""
    workforce = InProcess(bright_model)
    monkeypatch.setattr(directory, "_workforce", lambda *_, **__: workforce)
    return workforce


@pytest.fixture
def folder(small_scan, tmp_path):
    """Two good scans, one without lungs, and a broken one."""
    fill(tmp_path / "scans", small_scan)
    return tmp_path / "scans"


def fill(scans, small_scan):
    (scans / "sub").mkdir(parents=True)
    shutil.copy(small_scan, scans / "good.nii.gz")
    shutil.copy(small_scan, scans / "sub" / "good.nii.gz")
    nib.save(nib.Nifti1Image(np.full((40, 40, 20), 40, np.int16), np.eye(4)), scans / "no_lung.nii.gz")
    (scans / "corrupt.nii.gz").write_bytes(b"not a scan")


# ---- tables ------------------------------------------------------------------------------------------------------


def test_bad_scans_become_rows_and_the_others_go_on(folder, tmp_path, workforce):
    done = []
    result = assess_directory(folder, tmp_path / "out", on_done=done.append)
    rows = table(tmp_path / "out" / "severity.csv")
    assert list(rows) == ["corrupt", "good", "no_lung", "sub_good"]
    assert {case: row["status"] for case, row in rows.items()} == {
        "corrupt": "failed", "good": "ok", "no_lung": "failed", "sub_good": "ok",
    }  # fmt: skip
    assert (rows["corrupt"]["code"], rows["no_lung"]["code"]) == ("unreadable", "no_lungs")
    assert str(folder) in rows["corrupt"]["reason"]
    assert float(rows["good"]["both_lungs_volume_ml"]) == pytest.approx(4180, rel=0.05)
    assert rows["good"]["weights"] == workforce.model["weights"]
    assert (result.failed, result.skipped, len(done)) == (2, 0, 4)


def test_the_table_grows_with_every_scan(folder, tmp_path, workforce):
    path = tmp_path / "out" / "severity.csv"
    lengths = []
    assess_directory(folder, tmp_path / "out", on_done=lambda _: lengths.append(len(table(path))))
    assert lengths == [1, 2, 3, 4]


def test_no_temporary_file_is_left(folder, tmp_path, workforce):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".covsev-00000000-good_lungs.nii.gz").write_text("of a killed run")
    assess_directory(folder, out)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), "out_of_memory", "not enough memory"),
        (ZeroDivisionError("x"), "unexpected", "ZeroDivisionError: x"),
    ],
)
@pytest.mark.parametrize("step", ["load_scan", "assess", "write"])
def test_unexpected_errors_are_isolated_too(
    step, error, code, reason, small_scan, tmp_path, workforce, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(work, step, fail)
    (row,) = assess_directory(small_scan, tmp_path).rows
    assert row["code"] == code
    assert reason in row["reason"]
    assert "Traceback" not in capsys.readouterr().err
    assess_directory(small_scan, tmp_path, debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_without_scans_is_refused(tmp_path, workforce):
    with pytest.raises(ScanError, match=r"no scans in it \(NIfTI, NRRD, MetaImage or DICOM\)"):
        assess_directory(tmp_path, tmp_path / "out")
    with pytest.raises(ScanError, match=r"\[\]: no scans in it"):
        assess_directory([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fewer_than_one_worker_is_refused(small_scan, tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        assess_directory(small_scan, tmp_path, workers=0)


# ---- manifest and page -------------------------------------------------------------------------------------------


def test_run_json_says_how_it_was_made_and_not_where(folder, tmp_path, workforce):
    assess_directory(folder, tmp_path / "out", Options(noise_floor_ml=2.5))
    text = (tmp_path / "out" / "run.json").read_text()
    run = json.loads(text)
    assert run["weights"] == workforce.model["weights"]
    assert run["options"]["noise_floor_ml"] == 2.5
    assert run["options"]["device"] == "cpu"
    assert run["runs_on"] == "torch in f32 on cpu"
    assert (run["scans"], run["failed"]) == (4, 2)
    assert run["packages"].keys() >= {"torch", "monai", "numpy"}
    assert run["disclaimer"] == labels.DISCLAIMER
    assert run["times"].keys() == {"started", "seconds"}
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


def test_the_page_shows_every_scan_and_runs_nothing_of_theirs(small_scan, tmp_path, workforce):
    scans = tmp_path / "<script>alert(1)<"
    scans.mkdir()
    shutil.copy(small_scan, scans / "good.nii.gz")
    (scans / "bad.nii.gz").write_bytes(b"bad")
    assess_directory(tmp_path, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "2 scans, 1 without a result" in page
    assert 'href="script_alert_1__good_overlay.png"' in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert 'href="script_alert_1__good_report.html"' in page
    assert "<script>alert" not in page
    assert "http" not in page


# ---- resuming ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(small_scan, bright_model, tmp_path_factory):
    """Scans as in ``folder``, and what a run made of them."""
    root = tmp_path_factory.mktemp("finished")
    fill(root / "scans", small_scan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory, "_workforce", lambda *_, **__: InProcess(bright_model))
        assess_directory(root / "scans", root / "out")
    return root


@pytest.fixture
def resumed(finished, tmp_path, workforce):
    """A function that runs again into a finished folder and says which scans were done."""
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)

    def run(options=None, **settings):
        workforce.jobs_done.clear()
        result = assess_directory(finished / "scans", out, options, **settings)
        assert result.skipped + len(workforce.jobs_done) == len(result.rows)
        return sorted(workforce.jobs_done)

    return run


FAILED = ["corrupt", "no_lung"]
ALL = ["corrupt", "good", "no_lung", "sub_good"]


def test_what_is_done_is_not_done_again(resumed, tmp_path):
    before = contents(tmp_path / "out")
    assert resumed() == FAILED
    assert contents(tmp_path / "out") == before


def test_overwrite_does_all_again(resumed):
    assert resumed(overwrite=True) == ALL


def test_other_options_do_all_again(resumed):
    assert resumed(Options(noise_floor_ml=3.0)) == ALL
    assert resumed(Options(noise_floor_ml=3.0, precision="f32")) == ALL


def test_another_model_does_all_again(resumed, workforce):
    workforce.model = workforce.model | {"weights": "other"}
    assert resumed() == ALL


def test_a_changed_scan_is_done_again(resumed, finished):
    state = (finished / "scans" / "good.nii.gz").stat()
    os.utime(finished / "scans" / "good.nii.gz", (1, 1))
    assert resumed() == ["corrupt", "good", "no_lung"]
    os.utime(finished / "scans" / "good.nii.gz", ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "good_lesions.nii.gz").unlink(),
        lambda path: (path / "good_overlay.png").write_bytes(b""),
        lambda path: (path / "good_severity.json").unlink(),
        lambda path: (path / "good_severity.json").write_text("{"),
        lambda path: (path / "good_severity.json").write_text('{"outputs": 1}'),
        lambda path: (path / "good_severity.json").write_text("[]"),
    ],
)
def test_an_incomplete_result_is_done_again(resumed, tmp_path, damage):
    before = contents(tmp_path / "out")
    damage(tmp_path / "out")
    assert resumed() == ["corrupt", "good", "no_lung"]
    assert contents(tmp_path / "out") == before


def test_a_scan_that_fails_now_leaves_no_older_result(resumed, tmp_path, monkeypatch):
    def fail(*_):
        raise ScanError("bad now")

    monkeypatch.setattr(work, "assess", fail)
    (tmp_path / "out" / "good_severity.json").write_bytes(
        (tmp_path / "out" / "good_severity.json").read_bytes().replace(b'"fingerprint": "', b'"fingerprint": "x')
    )
    assert resumed() == ["corrupt", "good", "no_lung"]
    assert not list((tmp_path / "out").glob("good_*"))
    assert list((tmp_path / "out").glob("sub_good_*"))


def test_an_earlier_report_cannot_remove_other_files(tmp_path, bright_model):
    (tmp_path / "out").mkdir()
    job = make_job(ScanSource("a", tmp_path / "a.nii"), tmp_path / "out", Options(), {}, debug=False)
    for name in ("out/other.txt", "a_outside.txt"):
        (tmp_path / name).write_text("keep")
    job.report.write_text(json.dumps({"outputs": {"other.txt": 4, "../a_outside.txt": 4, "a_gone.png": 1}}))
    remove_results(job)
    assert (tmp_path / "out" / "other.txt").exists()
    assert (tmp_path / "a_outside.txt").exists()


def test_a_job_travels_as_text(tmp_path):
    options = Options(
        restrict_to_lungs=False,
        noise_floor_ml=2.0,
        save_probability=True,
        keep_identifiers=True,
        device="cuda:1",
        precision="bf16",
    )
    job = Job(ScanSource("ä\udcff", tmp_path / "ä\udcff.nii", "1.2"), tmp_path, options, "f" * 64, debug=True)
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_the_data_of_a_header_belong_to_its_fingerprint(tmp_path, name):
    def fingerprint():
        return make_job(ScanSource("a", tmp_path / name), tmp_path, Options(), {}, debug=False).fingerprint

    (tmp_path / name).touch()
    (tmp_path / "a.raw").write_bytes(b"1")
    first = fingerprint()
    (tmp_path / "b.raw").write_bytes(b"1")
    assert fingerprint() == first
    (tmp_path / "a.raw").write_bytes(b"12")
    assert fingerprint() != first


def test_a_job_without_a_report_is_not_finished(tmp_path):
    assert finished_report(make_job(ScanSource("a", tmp_path / "a.nii"), tmp_path, Options(), {}, debug=False)) is None


# ---- identifiers -------------------------------------------------------------------------------------------------


@pytest.fixture
def named_series(small_scan, tmp_path):
    """The small scan as a DICOM series of a patient with a name."""
    import SimpleITK as sitk

    folder = tmp_path / "series"
    folder.mkdir()
    image = sitk.ReadImage(str(small_scan))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        piece = image[:, :, k]
        position = "\\".join(f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, k)))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0008|0008": "ORIGINAL", "0020|0032": position}
        tags |= {"0020|0037": "1\\0\\0\\0\\1\\0", "0008|0018": f"1.2.3.{k}", "0010|0010": "Geheim^Nora"}
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(piece)
    return folder


def everything_in(folder):
    """Names and bytes of all files, unpacked."""
    for path in folder.rglob("*"):
        yield path.name.encode()
        yield gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_a_patients_name_is_written_only_when_asked_for(named_series, tmp_path, workforce, capfd):
    assess_directory(named_series, tmp_path / "out", debug=True)
    assert json.loads((tmp_path / "out" / "series_severity.json").read_text())["case"] == "series"
    assert not [part for part in everything_in(tmp_path / "out") if b"Geheim" in part]
    printed = capfd.readouterr()
    assert "Geheim" not in printed.out + printed.err
    options = dataclasses.replace(Options(), keep_identifiers=True)
    assess_directory(named_series, tmp_path / "kept", options)
    report = json.loads((tmp_path / "kept" / "series_severity.json").read_text())
    assert report["identifiers"].items() >= {"PatientName": "Geheim^Nora", "SeriesInstanceUID": "1.2.3"}.items()


def test_a_damaged_series_does_not_tell_the_name_either(named_series, tmp_path, workforce, capfd):
    for path in sorted(named_series.iterdir())[::3]:
        path.write_bytes(path.read_bytes()[:600])
    result = assess_directory(named_series, tmp_path / "out", debug=True)
    assert result.failed == len(result.rows) > 0
    assert not [part for part in everything_in(tmp_path / "out") if b"Geheim" in part]
    printed = capfd.readouterr()
    assert "Geheim" not in printed.out + printed.err


def test_found_scans_may_be_given_in_place_of_a_path(finished, tmp_path, workforce):
    sources = [source for source in find_scans(finished / "scans") if source.case == "good"]
    assess_directory(sources, str(tmp_path))
    assert table(tmp_path / "severity.csv")["good"] == table(finished / "out" / "severity.csv")["good"]


def test_all_settings_of_a_model_but_those_of_single_slices_are_described(bright_model):
    """Else results of other settings would count as done."""
    described = work.describe(bright_model)
    json.dumps(described, allow_nan=False)
    others = {"hu_window": (-300.0, 100.0), "network_size": (96, 96)}
    for field in dataclasses.fields(bright_model.preprocessing):
        changed = dataclasses.replace(bright_model.preprocessing, **{field.name: others.get(field.name, 0.25)})
        assert work.describe(bright_model.with_slice_network(preprocessing=changed)) != described, field.name
    for field in dataclasses.fields(bright_model.postprocessing):
        changed = dataclasses.replace(bright_model.postprocessing, **{field.name: 0.25})
        model = dataclasses.replace(bright_model, postprocessing=changed)
        assert (work.describe(model) == described) == (field.name == "min_consolidation_share"), field.name
