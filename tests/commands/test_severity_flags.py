"""Every option of ``covsev severity`` reaches the assessment; the two that change most are run from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dicom_series import phantom_series, save
from in_process import InProcess
from typer.main import get_command
from typer.testing import CliRunner

from covsev.batch import BatchResult
from covsev.commands.main import app
from covsev.lesions.model import load_model
from covsev.options import DEFAULT_BUNDLE, Options
from covsev.phantom import make_phantom

DEFAULTS = {
    "options": Options(),
    "bundle": DEFAULT_BUNDLE,
    "workers": 1,
    "scheduler": None,
    "overwrite": False,
    "debug": False,
}
"""What reaches ``assess_directory`` beside scans and output, without an option."""

HANDED_ON = [
    ("--lungs", ["threshold"], {"options": Options(lungs="threshold")}),
    ("--lung-restriction", [], {"options": Options(restrict_to_lungs=True)}),
    ("--no-lung-restriction", [], {"options": Options(restrict_to_lungs=False)}),
    ("--noise-floor-ml", ["2.5"], {"options": Options(noise_floor_ml=2.5)}),
    ("--probability", [], {"options": Options(save_probability=True)}),
    ("--keep-identifiers", [], {"options": Options(keep_identifiers=True)}),
    ("--uncertainty", [], {"options": Options(uncertainty=True)}),
    ("--dicom", [], {"options": Options(dicom=True)}),
    ("--report", [], {"options": Options(report=True)}),
    ("--no-report", [], {"options": Options(report=False)}),
    ("--viewer", [], {"options": Options(viewer=True)}),
    ("--bundle", ["folder"], {"bundle": Path("folder")}),
    ("--device", ["cuda:1"], {"options": Options(device="cuda:1")}),
    ("--runtime", ["torch"], {"options": Options(runtime="torch")}),
    ("--precision", ["bf16"], {"options": Options(precision="bf16")}),
    ("--workers", ["3"], {"workers": 3}),
    ("--cluster", ["local"], {"scheduler": "local"}),
    ("--scheduler", ["tcp://node:8786"], {"scheduler": "tcp://node:8786"}),
    ("--overwrite", [], {"overwrite": True}),
    ("--debug", [], {"debug": True}),
    # What concerns the terminal alone changes nothing of the assessment.
    ("--quiet", [], {}),
    ("-q", [], {}),
    ("--json", [], {}),
]
ELSEWHERE = {
    "--output": "test_the_output_is_handed_on",
    "-o": "test_the_output_is_handed_on",
    "--best-series": "test_best_series_chooses_before_the_assessment",
    "--help": "tests/commands/test_cli.py",
}
"""Options that no row of the table fits, and where they are tested."""


@pytest.fixture
def handed_on(monkeypatch):
    """What the command line hands on, in place of an assessment."""
    seen = {}

    def assess_directory(scans, output, *, on_done, on_note, **settings):
        seen.update(cases=[source.case for source in scans], output=output, settings=settings)
        return BatchResult([])

    monkeypatch.setattr("covsev.batch.assess_directory", assess_directory)
    return seen


def severity(*arguments):
    return CliRunner().invoke(app, ["severity", *map(str, arguments)])


def names_of_options():
    """Every way to write an option of the command, as click knows them."""
    command = get_command(app).commands["severity"]
    options = [option for option in command.params if option.param_type_name == "option"]
    named = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    return named | set(command.get_help_option_names(command.make_context("severity", [], resilient_parsing=True)))


def test_without_an_option_the_defaults_are_handed_on(small_scan, tmp_path, handed_on):
    assert severity(small_scan, "-o", tmp_path).exit_code == 0
    assert handed_on["settings"] == DEFAULTS


@pytest.mark.parametrize(("flag", "values", "expected"), HANDED_ON, ids=[row[0] for row in HANDED_ON])
def test_an_option_is_handed_on_and_changes_nothing_else(flag, values, expected, small_scan, tmp_path, handed_on):
    result = severity(small_scan, "-o", tmp_path, flag, *values)
    assert result.exit_code == 0, result.output
    assert handed_on["settings"] == DEFAULTS | expected


def test_every_option_of_the_command_has_a_row():
    assert names_of_options() == {row[0] for row in HANDED_ON} | set(ELSEWHERE)


@pytest.mark.parametrize("flag", ["--output", "-o"])
def test_the_output_is_handed_on(flag, small_scan, tmp_path, handed_on):
    assert severity(small_scan, flag, tmp_path / "out").exit_code == 0
    assert handed_on["output"] == tmp_path / "out"


@pytest.fixture(scope="module")
def two_series(tmp_path_factory):
    """Two series of one study: a chest, and the same chest with every other slice only."""
    scan = make_phantom((12.0, 12.0, 20.0)).scan
    folder = tmp_path_factory.mktemp("two_series")
    save(phantom_series(scan), folder / "all")
    save(phantom_series(scan, uid="1.2.826.0.1.3680043.8.498.222")[::2], folder / "half")
    return folder


@pytest.mark.parametrize(("flags", "cases"), [((), 2), (("--best-series",), 1)])
def test_best_series_chooses_before_the_assessment(flags, cases, two_series, tmp_path, handed_on):
    result = severity(two_series, "-o", tmp_path, *flags)
    assert result.exit_code == 0, result.output
    assert len(handed_on["cases"]) == cases
    assert handed_on["settings"] == DEFAULTS
    assert (tmp_path / "series.json").is_file() == bool(flags)


# ---- from end to end ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_this_process(monkeypatch):
    """Models are loaded here, which saves the seconds of a worker process."""

    def local_processes(bundle, workers, settings, *, debug, on_note):
        return InProcess(load_model(bundle, **settings))

    monkeypatch.setattr("covsev.batch.directory.LocalProcesses", local_processes)


def content_of(folder):
    (path,) = folder.glob("*_severity.json")
    return json.loads(path.read_text())


def test_uncertainty_gives_intervals(small_scan, tmp_path, bright_bundle, in_this_process):
    flags = ("--bundle", bright_bundle, "--no-report")
    for folder, more in (("without", ()), ("with", ("--uncertainty",))):
        result = severity(small_scan, "-o", tmp_path / folder, *flags, *more)
        assert result.exit_code == 0, result.output
    without, with_intervals = content_of(tmp_path / "without"), content_of(tmp_path / "with")
    assert without["uncertainty"] is None
    volume = with_intervals["uncertainty"]["regions"]["both_lungs"]["lesion_ml"]
    assert volume["low"] <= with_intervals["regions"]["both_lungs"]["lesion_ml"] <= volume["high"]
    assert set(with_intervals["uncertainty"]["scores"]) == set(with_intervals["scores"])
    assert with_intervals["regions"] == without["regions"]


def test_dicom_writes_three_objects_of_the_study(tmp_path, bright_bundle, in_this_process):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    series = phantom_series(make_phantom((5.0, 5.0, 10.0)).scan)
    save(series, tmp_path / "chest")
    result = severity(tmp_path / "chest", "-o", tmp_path / "out", "--bundle", bright_bundle, "--no-report", "--dicom")
    assert result.exit_code == 0, result.output
    written = sorted((tmp_path / "out").glob("*.dcm"))
    assert [path.name.rpartition("_")[2] for path in written] == ["sc.dcm", "seg.dcm", "sr.dcm"]
    assert {pydicom.dcmread(path).StudyInstanceUID for path in written} == {series[0].StudyInstanceUID}
    assert {path.name for path in written} <= set(content_of(tmp_path / "out")["outputs"])


def test_dicom_of_another_format_is_a_failed_scan(small_scan, tmp_path, bright_bundle, in_this_process):
    result = severity(small_scan, "-o", tmp_path, "--bundle", bright_bundle, "--dicom", "--json")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)
    assert (row["status"], row["code"]) == ("failed", "no_dicom_source")
