"""Severity from masks that exist already: measured, checked and written, without torch."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covsev.errors import CovsevError
from covsev.labels import SEVERITY_SUFFIX
from covsev.masks.reading import Masks
from covsev.quality.result import Flag, check_geometry, check_masks, check_scan, stopped_by
from covsev.report.tables import COLUMNS, Provenance, row, severity_json
from covsev.scan.writing import write_csv, write_json
from covsev.severity import SeverityReport, measure_masks
from covsev.severity.scores import DEFAULT_NOISE_FLOOR_ML


@dataclass(frozen=True, eq=False)
class Scored:
    """Severity of one scan's masks.

    Attributes:
        masks: as they were read.
        report: volumes and scores; scores are null where a quality check failed.
        flags: quality findings.
        seconds: time of measuring and checking.
    """

    masks: Masks
    report: SeverityReport
    flags: tuple[Flag, ...]
    seconds: float


def score_masks(masks: Masks, *, noise_floor_ml: float = DEFAULT_NOISE_FLOOR_ML) -> Scored:
    """Volumes, scores and quality findings of masks. ``covsev severity`` gives the same numbers for the same masks.

    Args:
        masks: see :func:`covsev.masks.reading.read_masks`.
        noise_floor_ml: lesion below this in a region counts as none in the scores' bands.
    """
    start = time.perf_counter()
    report = measure_masks(
        masks.scan,
        masks.lungs,
        masks.lobes,
        masks.lesions,
        noise_floor_ml=noise_floor_ml,
        hu_known=masks.hu_known,
        kinds_known=masks.kinds_known,
    )
    lobes = np.zeros_like(masks.lungs) if masks.lobes is None else masks.lobes
    # Without a CT there are no values to check, but still the grid.
    of_scan = check_scan(masks.scan, masks.lungs) if masks.hu_known else tuple(check_geometry(masks.scan))
    flags = (*of_scan, *check_masks(masks.scan, masks.lungs, lobes, masks.lesions, report.regions))
    return Scored(masks, stopped_by(report, flags), flags, round(time.perf_counter() - start, 3))


def write_scored(scored: Scored, folder: Path) -> dict[str, Any]:
    """Write ``<case>_severity.json`` and the scan's row of ``severity.csv``. Rows of other scans stay.

    Returns:
        the JSON content.

    Raises:
        CovsevError: if a ``severity.csv`` is there that this version of covsev did not write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    case = scored.report.case
    provenance = Provenance(
        source=str(scored.masks.scan.source),
        weights="none",
        method=dict(scored.masks.method),
        seconds={"severity": scored.seconds},
    )
    content = severity_json(scored.report, scored.flags, provenance.as_json())
    table = folder / "severity.csv"
    # The table is read before anything is written: one of something else is refused, and nothing has changed.
    rows = [*_rows_of_others(table, case), row(content)]
    write_json(content, folder / f"{case}{SEVERITY_SUFFIX}")
    write_csv(rows, table, COLUMNS)
    return content


def _rows_of_others(path: Path, case: str) -> list[Mapping[str, Any]]:
    """Rows of other scans in a table of covsev. Another program's table is refused, so that it is not lost."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # a spreadsheet may write a byte-order mark
            # Cells beyond the header get a name that is no column, so that such a table is refused.
            reader = csv.DictReader(stream, restkey="more than its header")
            columns = {*(reader.fieldnames or ())}
            rows: list[Mapping[str, Any]] = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CovsevError(f"{path}: no table of covsev ({error}); move it, or choose another folder") from error
    in_rows = {name for line in rows for name in line}
    unknown = sorted((columns | in_rows) - set(COLUMNS))
    if unknown or "case" not in columns:
        what = f"it has the column {unknown[0][:80]!r}" if unknown else "it has no column 'case'"
        raise CovsevError(f"{path}: no table of this version of covsev ({what}); move it, or choose another folder")
    return [line for line in rows if line["case"] != case]
