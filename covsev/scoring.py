"""Severity from masks that exist already: measured, checked and written, without torch."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.segments import segment_regions
from covsev.errors import CovsevError
from covsev.labels import LOBES, SEVERITY_SUFFIX
from covsev.masks import Masks
from covsev.quality import Flag, check_geometry, check_masks, check_scan, failure
from covsev.report.tables import COLUMNS, row, severity_json, write_csv, write_json
from covsev.scan import Scan
from covsev.severity import SeverityReport, measure, withhold
from covsev.severity.scores import DEFAULT_NOISE_FLOOR_ML

_SEGMENTS_MM = 2.0


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
    """Volumes, scores and quality findings of masks, with the same numbers that ``covsev severity`` gives for them.

    Args:
        masks: see :func:`covsev.masks.read_masks`.
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
    of_scan = check_scan(masks.scan, masks.lungs) if masks.hu_known else tuple(check_geometry(masks.scan))
    flags = (*of_scan, *check_masks(masks.scan, masks.lungs, lobes, masks.lesions, report.regions))
    return Scored(masks, stopped_by(report, flags), flags, round(time.perf_counter() - start, 3))


def measure_masks(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8] | None, lesions: NDArray[np.uint8], **options: Any
) -> SeverityReport:
    """:func:`covsev.severity.measure` with the 20 segments of the lobes.

    Args:
        scan, lungs, lobes, lesions, **options: see there.
    """
    segments = None if lobes is None else segments_of(lobes, scan)
    return measure(scan, lungs, lobes, lesions, segments=segments, **options)


def segments_of(lobes: NDArray[np.uint8], scan: Scan) -> NDArray[np.uint8]:
    """:func:`covsev.anatomy.segments.segment_regions` on a sample of about 2 mm, brought back to the scan's grid.

    The segments are approximate; at full resolution their division takes longer than all else.
    """
    axes = np.argsort(lobes.strides)[::-1]  # neighbours in memory last: several times as fast
    found = _sampled_segments(lobes.transpose(axes), scan.affine[:, [*axes, 3]])
    return found.transpose(np.argsort(axes))


def _sampled_segments(lobes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    steps = [max(1, int(_SEGMENTS_MM / side)) for side in np.linalg.norm(affine[:3, :3], axis=0)]
    if max(steps) == 1:
        return segment_regions(lobes, affine)
    sample = np.ascontiguousarray(lobes[tuple(slice(None, None, step) for step in steps)])
    found = segment_regions(sample, affine @ np.diag([*steps, 1.0]))
    segments = np.zeros_like(lobes)
    for lobe in LOBES:
        mask = sample == lobe.id
        if not mask.any():
            continue
        box = _box_with_margin(mask)
        own = np.where(mask[box], found[box], 0)
        own = np.where(own > 0, own, _grown(own))  # the lobe's rim between the samples
        target = tuple(slice(side.start * step, side.stop * step) for side, step in zip(box, steps, strict=True))
        for axis in (2, 1, 0):  # the smallest array is repeated along the last axis
            own = own.repeat(steps[axis], axis)
        inside = lobes[target] == lobe.id
        np.copyto(segments[target], own[tuple(slice(side) for side in inside.shape)], where=inside)
    return segments


def _box_with_margin(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Bounding box of a mask that is not empty, and a voxel around it where the grid goes on."""
    occupied = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(max(0, int(along[0]) - 1), int(along[-1]) + 2) for along in occupied)


def _grown(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest id among a voxel and its 26 neighbours; SciPy's is the same and takes 0.3 s to import."""
    for axis in range(3):
        along = np.moveaxis(ids, axis, 0)
        grown = along.copy()
        np.maximum(grown[1:], along[:-1], out=grown[1:])
        np.maximum(grown[:-1], along[1:], out=grown[:-1])
        ids = np.moveaxis(grown, 0, axis)
    return ids


def stopped_by(report: SeverityReport, flags: tuple[Flag, ...]) -> SeverityReport:
    """The report, its scores withheld where a quality check failed."""
    reason = failure(flags)
    return withhold(report, reason) if reason else report


def write_scored(scored: Scored, folder: Path) -> dict[str, Any]:
    """Write ``<case>_severity.json`` and the scan's row of ``severity.csv``; rows of other scans there stay.

    Returns:
        the JSON content.

    Raises:
        CovsevError: if a ``severity.csv`` is there that this version of covsev did not write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    case = scored.report.case
    provenance = {
        "source": str(scored.masks.scan.source),
        "weights": "none",
        "method": dict(scored.masks.method),
        "recovered_ml": None,
        "po_without_recovery_pct": None,
        "airways_ml": None,
        "seconds": {"severity": scored.seconds},
    }
    content, table = severity_json(scored.report, scored.flags, provenance), folder / "severity.csv"
    rows = [*_rows_of_others(table, case), row(content)]
    write_json(content, folder / f"{case}{SEVERITY_SUFFIX}")
    write_csv(rows, table)
    return content


def _rows_of_others(path: Path, case: str) -> list[Mapping[str, Any]]:
    """Rows of other scans in a table of covsev; one of something else is not written over."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # a spreadsheet may write a byte-order mark
            reader = csv.DictReader(stream, restkey="more than its header")
            columns = {*(reader.fieldnames or ())}
            rows: list[Mapping[str, Any]] = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CovsevError(f"{path}: no table of covsev ({error}); move it, or choose another folder") from error
    unknown = sorted((columns | {name for line in rows for name in line}) - set(COLUMNS))
    if unknown or "case" not in columns:
        what = f"it has the column {unknown[0][:80]!r}" if unknown else "it has no column 'case'"
        raise CovsevError(f"{path}: no table of this version of covsev ({what}); move it, or choose another folder")
    return [line for line in rows if line["case"] != case]
