"""What covsev severity prints: a table, JSON rows, or nothing; and how the page is asked for."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from covsev.batch import BatchResult
from covsev.commands.main import app
from covsev.options import Options

ROWS = [
    {"case": "a", "status": "ok", "quality": "pass", "flags": "", "po_chaganti2020": 1.5, "ctss25_pan2020": None},
    {"case": "b", "status": "failed", "reason": "[why]"},
]


@pytest.fixture
def severity(small_scan, tmp_path, monkeypatch):
    """A function that runs the command with flags; the assessment is made up. Gives the result and the options."""
    seen = []

    def assess_directory(scans, output, *, options, on_done, **_):
        seen.append(options)
        for row in ROWS:
            on_done(row)
        return BatchResult(ROWS)

    monkeypatch.setattr("covsev.batch.assess_directory", assess_directory)

    def run(*flags):
        result = CliRunner().invoke(app, ["severity", str(small_scan), "-o", str(tmp_path / "out"), *flags])
        return result, seen[-1] if seen else None

    return run


def test_a_table_by_default(severity):
    result, _ = severity()
    assert result.exit_code == 1
    assert "CT severity /25" in result.stdout
    assert "1.50" in result.stdout
    assert "[why]" in result.stdout
    assert "assessing" in result.stderr


def test_json_is_the_rows_and_nothing_else(severity):
    result, _ = severity("--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == ROWS


def test_quiet_prints_nothing(severity):
    result, _ = severity("--quiet")
    assert result.exit_code == 1
    assert result.output == ""


def test_quiet_still_prints_errors(tmp_path):
    result = CliRunner().invoke(app, ["severity", str(tmp_path), "-o", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "no scans in it" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), Options(report=True, viewer=False)),
        (("--no-report",), Options(report=False)),
        (("--viewer",), Options(viewer=True)),
    ],
)
def test_the_page_is_asked_for(severity, flags, options):
    assert severity(*flags)[1] == options


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--quiet", "--json"), "choose one"), (("--viewer", "--no-report"), "leave out --no-report")],
)
def test_flags_that_contradict_each_other_are_refused(severity, flags, message):
    result, options = severity(*flags)
    assert (result.exit_code, options) == (2, None)
    assert message in " ".join(result.output.replace("│", " ").split())
