"""Damaged files of every format: see ``fuzz_readers.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FORMATS = ("a.nii", "a.nii.gz", "two.nii", "raw.nrrd", "gzip.nrrd", "raw.mha", "zlib.mha", "a.nhdr", "a.mhd", "dicom")
CASES = 220


@pytest.mark.slow
def test_damaged_files_give_a_valid_scan_or_a_scan_error():
    script = Path(__file__).parents[1] / "fuzz_readers.py"
    done = subprocess.run([sys.executable, str(script), str(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert tuple(result["outcomes"]) == FORMATS
    assert sum(sum(outcomes.values()) for outcomes in result["outcomes"].values()) >= 2000
    for name, outcomes in result["outcomes"].items():
        assert outcomes["valid"] >= 10, name
        assert outcomes["unreadable"] >= 10, name
    assert result["peak_mb"] < 1000
