"""A page over all scans of a run: one HTML file that needs no network, with a link to each scan's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covsev import __version__
from covsev.labels import DISCLAIMER, OVERLAY_SUFFIX, REPORT_SUFFIX, SEVERITY_SUFFIX
from covsev.quality.table import BY_CODE
from covsev.report.page.charts import distribution
from covsev.report.page.page import environment
from covsev.report.page.words import LEVEL_TEXT, NO_VALUE, capfirst, number, plain
from covsev.scan import replacing
from covsev.severity import SCORES

_DISTRIBUTIONS = ("ctss25_pan2020", "po_chaganti2020", "wal_colombi2020")
"""The scores that get a histogram over all scans."""
_FAILED = "no result"
"""What stands for the quality of a scan that could not be assessed."""


def write_index(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a table with a row a scan, linked to its report, its picture and its JSON file.

    Args:
        rows: as in ``severity.csv``.
        path: of the HTML file, in the folder of the results.
    """
    page = (
        environment()
        .get_template("index.html")
        .render(
            rows=[_row(row, path.parent) for row in rows],
            scores=SCORES,
            failed=sum(row["status"] == "failed" for row in rows),
            qualities=sorted({_quality(row) for row in rows}),
            distributions=[
                distribution(score.title, [row.get(score.id) for row in rows], score.maximum, score.unit)
                for score in SCORES
                if score.id in _DISTRIBUTIONS
            ],
            version=__version__,
            disclaimer=DISCLAIMER,
        )
    )
    # Under a temporary name first: a reader of the folder never sees half a page.
    with replacing(path) as temporary:
        temporary.write_text(page + "\n", encoding="utf-8")


def _quality(row: Mapping[str, Any]) -> str:
    if row["status"] == "failed":
        return _FAILED
    return LEVEL_TEXT.get(row["quality"], row["quality"])


def _row(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    case, failed = row["case"], row["status"] == "failed"
    page = f"{case}{REPORT_SUFFIX}"
    # No link to a page that is not there: --no-report writes none.
    has_page = not failed and (folder / page).is_file()
    codes = str(row.get("flags") or "").split()  # one cell of the table, codes with spaces between them
    return {
        "case": case,
        "failed": failed,
        "quality": _quality(row),
        "level": "fail" if failed else row["quality"],
        "reason": f"{row['reason']} ({row['code']})" if failed else "",
        "report": page if has_page else "",
        "overlay": f"{case}{OVERLAY_SUFFIX}",
        "json": f"{case}{SEVERITY_SUFFIX}",
        "flags": [_flag(code) for code in codes],
        "values": [_value(row.get(score.id)) for score in SCORES],
    }


def _flag(code: str) -> str:
    # A code of another version is shown as it is: its finding must not vanish.
    return capfirst(BY_CODE[code].meaning if code in BY_CODE else plain(code))


def _value(value: Any) -> dict[str, Any]:
    text = number(value, 0 if isinstance(value, float) and value.is_integer() else 1)
    # Columns sort by the number itself; cells without one sort together.
    return {"text": text, "sort": "" if text == NO_VALUE else value}
