"""The check of the imports' direction: it passes covsev, and fails a package that breaks one of its rules."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")

ROOT = Path(__file__).parents[1]
SECTION = "importlinter"
# As the command lint-imports does, but of the Python that runs the tests.
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def rules():
    """The part of ``setup.cfg`` that import-linter reads."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for section in config.sections():
        if not section.startswith(SECTION):
            config.remove_section(section)
    return config


RULES = rules()
NAMES = {section.rpartition(":")[2]: RULES[section]["name"] for section in RULES.sections() if section != SECTION}


def lint(folder):
    """What import-linter says of the package ``covsev`` in a folder with a ``setup.cfg``, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr, done.returncode


@pytest.fixture
def package(tmp_path):
    """A package with all of covsev's layers, each empty, below covsev's own rules."""
    with (tmp_path / "setup.cfg").open("w") as stream:
        RULES.write(stream)
    layers = re.findall(r"\w+", RULES[f"{SECTION}:contract:layers"]["layers"])
    for folder in ("", *layers):
        (tmp_path / "covsev" / folder).mkdir()
        (tmp_path / "covsev" / folder / "__init__.py").touch()
    return tmp_path / "covsev"


def test_covsev_keeps_every_rule():
    said, code = lint(ROOT)
    assert code == 0, said
    for name in NAMES.values():
        assert f"{name} KEPT" in said


def test_empty_layers_keep_every_rule(package):
    said, code = lint(package.parent)
    assert code == 0, said


BROKEN = {
    "layers": {"labels/__init__.py": "import covsev.scan\n"},
    "circles": {"scan/first.py": "import covsev.scan.second\n", "scan/second.py": "import covsev.scan.first\n"},
    "light": {"scan/first.py": "import torch\n"},
}


@pytest.mark.parametrize("rule", NAMES)
def test_what_breaks_one_rule_is_named(package, rule):
    for path, text in BROKEN[rule].items():
        (package / path).write_text(text)
    said, code = lint(package.parent)
    assert code == 1, said
    for other, name in NAMES.items():
        assert f"{name} {'BROKEN' if other == rule else 'KEPT'}" in said
