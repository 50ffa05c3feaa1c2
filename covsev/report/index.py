"""A page over all scans of a run: one self-contained HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from covsev import __version__
from covsev.labels import DISCLAIMER, OVERLAY_SUFFIX, SEVERITY_SUFFIX
from covsev.scan import replacing
from covsev.severity import SCORES


def write_index(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a table with a row a scan, linked to its picture and its JSON file.

    Args:
        rows: as in ``severity.csv``.
        path: of the HTML file, in the folder of the results.
    """
    environment = Environment(loader=PackageLoader("covsev.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("index.html").render(
        rows=rows,
        scores=[score.id for score in SCORES],
        failed=sum(row["status"] == "failed" for row in rows),
        overlay=OVERLAY_SUFFIX,
        report=SEVERITY_SUFFIX,
        version=__version__,
        disclaimer=DISCLAIMER,
    )
    with replacing(path) as temporary:
        temporary.write_text(page + "\n", encoding="utf-8")
