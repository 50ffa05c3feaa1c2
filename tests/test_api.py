"""The package's own names, and the example of ``docs/api.md``."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import covsev

NUMBER = r"\d+(?:\.\d+)?"
API = Path(__file__).parents[1] / "docs" / "api.md"


def run(code: str, **kwargs) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    heavy = ("torch", "monai", "numpy", "SimpleITK", "typer")
    assert run(f"import covsev, sys; print([name for name in {heavy!r} if name in sys.modules])").strip() == "[]"


def test_names_are_found_whatever_was_imported_before():
    code = (
        "import covsev.assessment, covsev.batch, covsev.scan, covsev\n"
        "print([name for name in covsev.__all__ if getattr(covsev, name) is None or name not in dir(covsev)])\n"
        "print(callable(covsev.assess), callable(covsev.assess_directory))"
    )
    assert run(code).split("\n")[:2] == ["[]", "True True"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'covsev' has no attribute 'asess'"):
        covsev.asess  # noqa: B018


@pytest.mark.parametrize("name", covsev.__all__)
def test_public_names_are_documented(name):
    thing = getattr(covsev, name)
    assert name == "__version__" or inspect.getdoc(thing)
    if inspect.isfunction(thing):
        assert all(p.annotation is not p.empty for p in inspect.signature(thing).parameters.values())


def test_a_path_is_read_and_the_shipped_model_taken(small_scan, bright_model, monkeypatch):
    monkeypatch.setattr("covsev.assessment.shipped_model", lambda **_: bright_model)
    from_path = covsev.assess(small_scan)
    from_scan = covsev.assess(covsev.load_scan(small_scan), bright_model)
    assert from_path.report == from_scan.report
    assert from_path.weights == bright_model.weights


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(tmp_path):
    """As a script, so that it also shows that workers need no guard against being imported."""
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", API.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    script = tmp_path / "example.py"
    script.write_text("\nprint('---')\n".join(code for code, _ in blocks))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    printed, expected = done.stdout, "---\n".join(text for _, text in blocks)
    assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", expected)
    measured, written = ([float(number) for number in re.findall(NUMBER, text)] for text in (printed, expected))
    assert measured == pytest.approx(written, rel=0.3), "the documentation's numbers are out of date"
