"""The command line: exit codes, messages, and what must not be imported for help."""

from __future__ import annotations

import csv
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import InProcess
from typer.testing import CliRunner

from covsev import __version__
from covsev.batch import BatchResult
from covsev.commands.main import app
from covsev.errors import ScanError
from covsev.lesions.model import load_model
from covsev.options import DEFAULT_BUNDLE, Options

runner = CliRunner()


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
        "import sys; from typer.testing import CliRunner; from covsev.commands.main import app; "
        "assert CliRunner().invoke(app, ['severity', '--help']).exit_code == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_instant():
    """Below half a second of work, the interpreter's start included; the best of some, as other work slows caches."""
    seconds = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "covsev", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_a_scan_is_assessed_by_the_shipped_model_and_then_skipped(small_scan, tmp_path):
    arguments = ["severity", str(small_scan), "-o", str(tmp_path / "out"), "--probability"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "not a medical device" in " ".join(result.output.split())
    with (tmp_path / "out" / "severity.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["status"] == "ok"
    assert (tmp_path / "out" / "small_infection_prob.nii.gz").is_file()
    assert "1 were done already" in runner.invoke(app, arguments).output


@pytest.fixture
def in_this_process(monkeypatch):
    """Models are loaded here, which saves the seconds of a worker process."""

    def local_processes(bundle, workers, settings, *, debug, on_note):
        return InProcess(load_model(bundle, **settings))

    monkeypatch.setattr("covsev.batch.directory.LocalProcesses", local_processes)


@pytest.fixture
def settings(monkeypatch):
    """What the command line hands on, in place of an assessment."""
    seen = {}

    def assess_directory(scans, output, *, on_done, on_note, **settings):
        seen.update(settings, cases=[source.case for source in scans])
        row = {"case": "small", "status": "failed", "reason": "[why]"}
        on_done(row)
        return BatchResult([row])

    monkeypatch.setattr("covsev.batch.assess_directory", assess_directory)
    return seen


def test_options_are_handed_on(small_scan, tmp_path, settings):
    result = runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "[why]" in result.output
    assert settings == {
        "cases": ["small"],
        "options": Options(),
        "bundle": DEFAULT_BUNDLE,
        "workers": 1,
        "scheduler": None,
        "overwrite": False,
        "debug": False,
    }
    flags = ["--no-lung-restriction", "--noise-floor-ml", "2", "--probability", "--keep-identifiers", "--bundle", "b"]
    flags += ["--workers", "2", "--cluster", "local", "--overwrite", "--debug"]
    flags += ["--device", "cuda:1", "--runtime", "torch", "--precision", "bf16", "--lungs", "threshold"]
    runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path), *flags])
    assert settings == {
        "cases": ["small"],
        "options": Options(
            lungs="threshold",
            restrict_to_lungs=False,
            noise_floor_ml=2.0,
            save_probability=True,
            keep_identifiers=True,
            device="cuda:1",
            runtime="torch",
            precision="bf16",
        ),
        "bundle": Path("b"),
        "workers": 2,
        "scheduler": "local",
        "overwrite": True,
        "debug": True,
    }
    runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path), "--scheduler", "tcp://a:1"])
    assert settings["scheduler"] == "tcp://a:1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cluster", "slurm"], "'slurm' is not 'local'; name another cluster by --scheduler"),
        (["--scheduler", "tcp://a:1", "--cluster", "local"], "--scheduler brings its own workers"),
        (["--scheduler", "tcp://a:1", "--workers", "2"], "--scheduler brings its own workers"),
        (["--workers", "0"], "Input should be greater than or equal to 1"),
        (["--noise-floor-ml", "-1"], "Input should be greater than or equal to 0"),
    ],
)
def test_contradictions_are_refused(flags, message, small_scan, tmp_path, settings):
    result = runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path), *flags], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert settings == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "no scans in it"),
        ("missing", "no such file or folder"),
        ("pictures", "PNG and JPG slices have no volume to measure: `python -m monai.bundle run` with inference.yaml"),
    ],
)
def test_nothing_to_do_is_exit_code_2(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "pictures" / "deep" / "slice.PNG").touch()
    result = runner.invoke(app, ["severity", str(tmp_path / name), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_how_to_go_on(small_scan, tmp_path, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("covsev.batch.assess_directory", interrupted)
    result = runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path)])
    assert result.exit_code == 130
    assert "finished scans are kept: the same command goes on" in " ".join(result.output.split())


def test_wrong_usage_is_exit_code_2():
    assert runner.invoke(app, ["severity"]).exit_code == 2


def test_debug_lets_the_error_through(tmp_path):
    result = runner.invoke(app, ["severity", str(tmp_path / "gone"), "-o", str(tmp_path / "out"), "--debug"])
    assert isinstance(result.exception, ScanError)


def test_a_folder_that_is_no_bundle_is_refused(small_scan, tmp_path):
    arguments = ["severity", str(small_scan), "-o", str(tmp_path / "out"), "--bundle", str(tmp_path)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "not a covsev bundle" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "gpu"], "device must be cpu, cuda, or one GPU such as cuda:1; got 'gpu'"),
        (["--device", "cuda:99"], r"device cuda:99: torch .* CUDA GPU here; use device cpu"),
        (["--runtime", "onnx"], "runtime must be one of auto, torch, openvino; got 'onnx'"),
        (["--precision", "int8"], "precision must be one of f32, bf16; got 'int8'"),
    ],
)
def test_what_the_machine_cannot_do_is_exit_code_2(flags, message, small_scan, tmp_path, in_this_process):
    result = runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path / "out"), *flags])
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split()))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_demo_compares_with_the_truth(tmp_path):
    result = runner.invoke(app, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Measured against true" in result.output
    assert "right middle" in result.output


def test_python_m_covsev():
    done = subprocess.run([sys.executable, "-m", "covsev", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"covsev {__version__}"


def test_an_output_that_is_a_file_is_exit_code_2(small_scan, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = runner.invoke(app, ["severity", str(small_scan), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "error:" in result.stderr


def test_brackets_in_names_are_printed_as_they_are(tmp_path):
    result = runner.invoke(app, ["severity", str(tmp_path / "scans[old]"), "-o", str(tmp_path / "out")])
    assert "scans[old]" in "".join(result.stderr.split("\n"))
