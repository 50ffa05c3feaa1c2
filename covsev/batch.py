"""Many scans: one after another, each isolated from the failures of the others."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from covsev import __version__, labels
from covsev.assessment import assess, write
from covsev.errors import CovsevError
from covsev.lesion_model import LesionModel
from covsev.options import Options
from covsev.report.tables import failed_row, row, write_csv, write_json
from covsev.scan import ScanSource, load_scan

_PACKAGES = ("monai", "nibabel", "numpy", "SimpleITK", "torch")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchResult:
    """What became of a directory of scans.

    Attributes:
        rows: one row a scan, as in ``severity.csv``.
    """

    rows: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> int:
        """Number of scans without a result."""
        return sum(row["status"] == "failed" for row in self.rows)


def assess_sources(
    sources: Sequence[ScanSource],
    folder: Path,
    model: LesionModel,
    options: Options | None = None,
    *,
    on_start: Callable[[str], None] | None = None,
    on_done: Callable[[Mapping[str, Any]], None] | None = None,
) -> BatchResult:
    """Assess every scan and write masks, reports, ``severity.csv`` and ``run.json`` into ``folder``.

    A scan that fails becomes a row with a code and a reason; the others go on. The table is rewritten after
    each scan, so that it can be read at any time.

    Args:
        sources: see :func:`covsev.scan.find_scans`.
        folder: made if it does not exist.
        model: see :func:`covsev.lesion_model.load_model`.
        options: see :class:`covsev.options.Options`.
        on_start: called with the case's name before a scan.
        on_done: called with the row after a scan.
    """
    options = options or Options()
    folder.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC), time.perf_counter()
    rows: list[Mapping[str, Any]] = []
    for source in sources:
        if on_start:
            on_start(source.case)
        rows.append(_assess_one(source, folder, model, options))
        write_csv(rows, folder / "severity.csv")
        if on_done:
            on_done(rows[-1])
    result = BatchResult(rows)
    _write_run(folder / "run.json", result, model, options, started, time.perf_counter() - clock)
    return result


def _assess_one(source: ScanSource, folder: Path, model: LesionModel, options: Options) -> Mapping[str, Any]:
    (folder / (source.case + labels.SEVERITY_SUFFIX)).unlink(missing_ok=True)  # an old result is not this run's
    try:
        scan = load_scan(source)
        return row(write(assess(scan, model, options), folder, options))
    except CovsevError as error:
        return failed_row(source.case, str(source.path), error.code, str(error))
    except MemoryError:
        reason = f"{source.path}: not enough memory for this scan"
        return failed_row(source.case, str(source.path), "out_of_memory", reason)
    except Exception as error:  # one odd scan must not end the batch; the trace goes to the log
        _log.exception("scan %s failed unexpectedly", source.case)
        reason = f"{source.path}: unexpected {type(error).__name__}: {error}"
        return failed_row(source.case, str(source.path), "unexpected", reason)


def _write_run(
    path: Path, result: BatchResult, model: LesionModel, options: Options, started: datetime, seconds: float
) -> None:
    content = {
        "covsev_version": __version__,
        "disclaimer": labels.DISCLAIMER,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "scans": len(result.rows),
        "failed": result.failed,
        "bundle": model.name,
        "weights": model.weights,
        "threshold": model.postprocessing.threshold,
        "hu_window": list(model.preprocessing.hu_window),
        "options": asdict(options),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
    write_json(content, path)
