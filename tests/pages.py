"""Results for the tests of pages: contents of JSON files, as the package makes them, of scans of every kind."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np

from covsev.phantom import Phantom
from covsev.quality.table import Flag, make_flag
from covsev.report.tables import severity_json
from covsev.severity import measure, withhold

PROVENANCE = {
    "source": "/data/phantom.nii.gz",
    "weights": "0" * 64,
    "networks": {"bright": "0" * 64},
    "method": {"lungs": "truth", "lobes": "truth", "lesions": "truth"},
    "recovered_ml": 0.0,
    "seconds": {"lungs": 1.5},
    "outputs": {},
}
CLEAN, WARNED = (), (make_flag("thick_slices", "slices are 8 mm apart", mm=8),)
FAILED = (make_flag("eight_bit", "whole values from 0 to 255"), *WARNED)


def content_of(phantom: Phantom, flags: tuple[Flag, ...] = CLEAN, **changes: Any) -> dict[str, Any]:
    """The JSON content of ``phantom`` with its true masks."""
    report = measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions)
    if any(flag.level == "fail" for flag in flags):
        report = withhold(report, "quality check failed: eight_bit (whole values from 0 to 255)")
    return severity_json(replace(report, **changes), flags, PROVENANCE)


def content_without_lobes(phantom: Phantom) -> dict[str, Any]:
    """The same where lobes could not be placed and no CT was given."""
    report = measure(
        phantom.scan,
        phantom.lungs,
        None,
        phantom.lesions,
        lobes_reason="the lungs are cut by the scan's end",
        hu_known=False,
    )
    return severity_json(report, (make_flag("lobes_cut", "lobes cannot be placed"),), PROVENANCE)


def maps_of(phantom: Phantom) -> tuple[np.ndarray[Any, Any], ...]:
    return phantom.lungs, phantom.lobes, phantom.lesions


def visible(page: str) -> str:
    """The page without what is not read: scripts, styles, pictures and paths."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r'(href="data:[^"]*"|\bd="[^"]*")', "", page)


def text_of(html: str) -> str:
    """Its text, in one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html))).strip()
