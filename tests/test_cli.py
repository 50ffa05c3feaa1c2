"""The command line: exit codes, messages, and what must not be imported for help."""

from __future__ import annotations

import csv
import subprocess
import sys

import nibabel as nib
import pytest
from typer.testing import CliRunner

from covsev import __version__
from covsev.cli import app
from covsev.phantom import make_phantom

runner = CliRunner()


@pytest.fixture(scope="module")
def scan_path(tmp_path_factory):
    scan = make_phantom((5.0, 5.0, 10.0)).scan
    path = tmp_path_factory.mktemp("scan") / "small.nii.gz"
    nib.save(nib.Nifti1Image(scan.hu, scan.affine), path)
    return path


def test_version():
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"covsev {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["severity", "--help"], ["demo", "--help"]])
def test_help(arguments):
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_heavy():
    heavy = ("torch", "monai", "SimpleITK", "numpy", "nibabel", "skimage", "scipy", "pandas")
    code = (
        "import sys; from typer.testing import CliRunner; from covsev.cli import app; "
        "assert CliRunner().invoke(app, ['severity', '--help']).exit_code == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_scan_is_assessed(scan_path, tmp_path):
    result = runner.invoke(app, ["severity", str(scan_path), "-o", str(tmp_path / "out"), "--probability"])
    assert result.exit_code == 0, result.output
    assert "not a medical device" in " ".join(result.output.split())
    with (tmp_path / "out" / "severity.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["status"] == "ok"
    assert (tmp_path / "out" / "small_infection_prob.nii.gz").is_file()


def test_some_failed_is_exit_code_1(scan_path, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"bad")
    (tmp_path / "good.nii.gz").write_bytes(scan_path.read_bytes())
    result = runner.invoke(app, ["severity", str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "failed" in result.output


@pytest.mark.parametrize(("name", "message"), [("empty", "no scans in it"), ("missing", "no such file or folder")])
def test_nothing_to_do_is_exit_code_2(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    result = runner.invoke(app, ["severity", str(tmp_path / name), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_exit_code_2():
    assert runner.invoke(app, ["severity"]).exit_code == 2
    assert runner.invoke(app, ["severity", "x", "-o", "y", "--noise-floor-ml", "-1"]).exit_code == 2


def test_a_folder_that_is_no_bundle_is_refused(scan_path, tmp_path):
    arguments = ["severity", str(scan_path), "-o", str(tmp_path / "out"), "--bundle", str(tmp_path)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "not a covsev bundle" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_demo_compares_with_the_truth(tmp_path):
    result = runner.invoke(app, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Measured against true" in result.output
    assert "right middle" in result.output


def test_python_m_covsev():
    done = subprocess.run([sys.executable, "-m", "covsev", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"covsev {__version__}"


def test_an_output_that_is_a_file_is_exit_code_2(scan_path, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = runner.invoke(app, ["severity", str(scan_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "error:" in result.stderr


def test_brackets_in_names_are_printed_as_they_are(tmp_path):
    result = runner.invoke(app, ["severity", str(tmp_path / "scans[old]"), "-o", str(tmp_path / "out")])
    assert "scans[old]" in "".join(result.stderr.split("\n"))
