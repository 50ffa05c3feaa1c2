"""A study from a real DICOM server and results back to it: Orthanc, started and stopped by these tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pydicom
import pytest
from dicom_series import UID, phantom_series, save
from typer.testing import CliRunner

from covsev.commands.main import app
from covsev.errors import DicomWebError
from covsev.labels import LESIONS, LOBES, LUNGS
from covsev.phantom import make_phantom
from covsev.scan import load_scan, read_labels
from covsev.scan.dicom import web as dicomweb

STUDY = f"{UID}.9"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
needs_orthanc = pytest.mark.skipif(
    not (ORTHANC and PLUGIN.exists()), reason="needs Debian's packages orthanc and orthanc-dicomweb"
)
START_S, STEP_S = 60, 0.2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """The address of a fresh, empty server that answers to this machine only."""
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([ORTHANC, path], stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/system", server, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for(url, server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except URLError:
            time.sleep(STEP_S)
    pytest.fail(f"Orthanc did not start:\n{log.read_text()[-2000:]}")


def ask(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def study(orthanc, tmp_path_factory):
    """A phantom's CT series and a series of another modality, in the server."""
    phantom = make_phantom((5.0, 5.0, 10.0))
    slices = phantom_series(phantom.scan)
    other = phantom_series(phantom.scan, uid=f"{UID}.77")[0]
    other.Modality = "MR"
    dicomweb_url = f"{orthanc}/dicom-web"
    folder = tmp_path_factory.mktemp("sent")
    save([*slices, other], folder)
    dicomweb.store(dicomweb_url, sorted(folder.iterdir()))
    return dicomweb_url, phantom


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@needs_orthanc
@pytest.mark.slow
def test_round_trip(orthanc, study, bright_bundle, tmp_path):
    """Fetch, assess, store: the server then shows SEG and SR in the study, and gives the very masks back."""
    url, phantom = study
    run("fetch", url, STUDY, "-o", tmp_path / "study")
    assert [folder.name for folder in (tmp_path / "study").iterdir()] == [UID]
    np.testing.assert_array_equal(load_scan(tmp_path / "study" / UID).hu, phantom.scan.hu)

    run("severity", tmp_path / "study", "-o", tmp_path / "out", "--dicom", "--bundle", bright_bundle)
    content = json.loads((tmp_path / "out" / f"{UID}_severity.json").read_text())
    assert {f"{UID}_seg.dcm", f"{UID}_sr.dcm", f"{UID}_sc.dcm"} <= set(content["outputs"])
    assert "3 DICOM files stored" in run("store", url, tmp_path / "out")

    (in_server,) = ask(f"{orthanc}/studies")
    series = [ask(f"{orthanc}/series/{name}") for name in ask(f"{orthanc}/studies/{in_server}")["Series"]]
    instances = {one["MainDicomTags"]["Modality"]: one["Instances"] for one in series}
    assert sorted(instances) == ["CT", "MR", "OT", "SEG", "SR"]
    back = tmp_path / "back.dcm"
    with urllib.request.urlopen(f"{orthanc}/instances/{instances['SEG'][0]}/file", timeout=30) as answer:
        back.write_bytes(answer.read())
    equals_nifti(back, tmp_path / "out")


def equals_nifti(path, folder):
    import highdicom as hd

    segmentation = hd.seg.segread(path)
    files = sorted((folder.parent / "study" / UID).iterdir())
    headers = sorted((pydicom.dcmread(p, stop_before_pixels=True) for p in files), key=lambda d: d.InstanceNumber)
    first = 1
    for name, known in (("lungs", LUNGS), ("lobes", LOBES), ("lesions", LESIONS)):
        expected, _, _ = read_labels(folder / f"{UID}_{name}.nii.gz")
        pixels = segmentation.get_pixels_by_source_instance(
            [header.SOPInstanceUID for header in headers],
            segment_numbers=range(first, first + len(known)),
            combine_segments=True,
            relabel=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(pixels.transpose(2, 1, 0), expected)
        assert expected.any()
        first += len(known)


@needs_orthanc
def test_what_is_there_is_not_fetched_again(study, tmp_path):
    (folder,) = dicomweb.fetch_study(study[0], STUDY, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(times) == 30
    assert dicomweb.fetch_study(study[0], STUDY, tmp_path) == [folder]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


@needs_orthanc
def test_an_unknown_study_is_refused(study, tmp_path):
    with pytest.raises(DicomWebError, match=r"has no CT series of study 1\.2\.3; check the UID"):
        dicomweb.fetch_study(study[0], "1.2.3", tmp_path)


@needs_orthanc
def test_an_address_without_dicomweb_is_refused(orthanc, tmp_path):
    output = run("fetch", f"{orthanc}/nothing", STUDY, "-o", tmp_path, code=2)
    assert "from the DICOMweb server" in " ".join(output.split())


# ---- without a server --------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named(tmp_path):
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    with pytest.raises(DicomWebError, match=rf"{url}: .*Connection.* from the DICOMweb server"):
        dicomweb.fetch_study(url, STUDY, tmp_path)


@pytest.mark.parametrize("uid", ["../../etc", "", "1..2", "1.2.", "1" * 65])
def test_what_is_no_uid_never_becomes_a_path(uid, tmp_path):
    with pytest.raises(DicomWebError, match="is no DICOM UID, so not a study"):
        dicomweb.fetch_study("http://127.0.0.1:1", uid, tmp_path)


def test_a_folder_without_results_has_nothing_to_store(tmp_path):
    output = run("store", "http://127.0.0.1:1", tmp_path, code=2)
    assert "no DICOM results in it; covsev severity --dicom writes them" in " ".join(output.split())


def test_without_the_client_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "dicomweb_client.api", None)
    with pytest.raises(DicomWebError, match=r"pip install 'covsev\[dicom\]'"):
        dicomweb.fetch_study("http://127.0.0.1:1", STUDY, tmp_path)


class Broken:
    """A server that breaks off in the middle of a series."""

    def set_http_retry_params(self, **_):
        pass

    def search_for_series(self, *_, **__):
        return [{"0020000E": {"vr": "UI", "Value": [UID]}}]

    def iter_series(self, *_, **__):
        yield phantom_series(make_phantom((12.0, 12.0, 40.0)).scan)[0]
        raise ConnectionError("gone")


def test_half_a_series_is_never_left(monkeypatch, tmp_path):
    monkeypatch.setattr("dicomweb_client.api.DICOMwebClient", lambda url: Broken())
    with pytest.raises(DicomWebError, match="ConnectionError from the DICOMweb server: gone"):
        dicomweb.fetch_study("http://127.0.0.1:1", STUDY, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Refusing:
    """A server that takes the first object only."""

    def set_http_retry_params(self, **_):
        pass

    def store_instances(self, datasets):
        answer = pydicom.Dataset()
        answer.FailedSOPSequence = [pydicom.Dataset() for _ in datasets[1:]]
        for item, dataset in zip(answer.FailedSOPSequence, datasets[1:], strict=True):
            item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
        return answer


def test_what_a_server_does_not_take_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("dicomweb_client.api.DICOMwebClient", lambda url: Refusing())
    save(phantom_series(make_phantom((12.0, 12.0, 40.0)).scan)[:2], tmp_path)
    with pytest.raises(DicomWebError, match=r"did not take 001\.dcm; its log says why"):
        dicomweb.store("http://127.0.0.1:1", sorted(tmp_path.iterdir()))
