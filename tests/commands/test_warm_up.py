"""``covsev warm-up`` prepares the shipped networks and says where they are kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from covsev import assessment
from covsev.commands.main import app
from covsev.errors import BundleError


@pytest.mark.parametrize(
    ("runs_on", "expected"),
    [
        ("openvino in f32 on cpu", "kept in"),
        ("torch in f32 on cpu", "nothing to prepare; install covsev[openvino] for a fast start"),
    ],
)
def test_both_models_are_made_and_the_place_is_named(monkeypatch, tmp_path, runs_on, expected):
    monkeypatch.setenv("COVSEV_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(assessment, "shipped_model", lambda: made.append("lesions") or SimpleNamespace(runs_on=runs_on))
    monkeypatch.setattr(assessment, "lung_model_for", lambda options: made.append(options.lungs))
    result = CliRunner().invoke(app, ["warm-up"])
    assert result.exit_code == 0
    assert made == ["lesions", "network"]
    output = " ".join(result.output.split())  # wrapped at the terminal's width
    assert output.startswith(f"the networks run on {runs_on}")
    assert expected in output


def test_a_bundle_that_cannot_be_read_is_one_line(monkeypatch):
    def refuse():
        raise BundleError("model.pt: no weights there")

    monkeypatch.setattr(assessment, "shipped_model", refuse)
    result = CliRunner().invoke(app, ["warm-up"])
    assert result.exit_code == 2
    assert "error: model.pt: no weights there" in result.output
