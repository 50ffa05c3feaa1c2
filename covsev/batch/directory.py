"""A directory of scans, from finding them to the tables."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from covsev import __version__
from covsev.batch.job import Job, Row, finished_report, make_job
from covsev.batch.on_dask import DaskCluster
from covsev.batch.processes import LocalProcesses
from covsev.labels import DISCLAIMER
from covsev.options import DEFAULT_BUNDLE, Options
from covsev.report.page.index import write_index
from covsev.report.tables import COLUMNS, row
from covsev.scan import ScanSource, find_scans, remove_leftovers, require_scans
from covsev.scan.writing import append_csv, write_csv, write_json

TABLE, MANIFEST, INDEX = "severity.csv", "run.json", "index.html"
# What can change a result: written into the manifest with their versions.
_PACKAGES = ("monai", "nibabel", "numpy", "pydicom", "scipy", "scikit-image", "SimpleITK", "torch")


@dataclass(frozen=True)
class BatchResult:
    """What became of a directory of scans.

    Attributes:
        rows: one row a scan, as in ``severity.csv``, sorted by case.
        skipped: number of scans whose results an earlier run had left.
    """

    rows: Sequence[Row]
    skipped: int = 0

    @property
    def failed(self) -> int:
        """Number of scans without a result."""
        return sum(row["status"] == "failed" for row in self.rows)


class _Workforce(Protocol):
    """Whoever does the jobs: processes of this machine, or a Dask cluster."""

    model: Mapping[str, Any]

    def run(self, jobs: Sequence[Job]) -> Iterator[Row]: ...

    def close(self) -> None: ...


def assess_directory(
    scans: Path | str | Sequence[ScanSource],
    output: Path | str,
    options: Options | None = None,
    *,
    bundle: Path = DEFAULT_BUNDLE,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    debug: bool = False,
    on_done: Callable[[Row], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> BatchResult:
    """Assess every scan below a folder; write masks, reports, ``severity.csv``, ``run.json`` and ``index.html``.

    A scan that fails becomes a row with a code and a reason; the others go on. A scan is not done again if an earlier
    run into the same folder had the same files, options and model. ``severity.csv`` can be read at any time.

    Args:
        scans: a scan, a DICOM folder, a directory of scans, or what :func:`covsev.scan.find_scans` found.
        output: made if it does not exist.
        options: see :class:`covsev.options.Options`.
        bundle: folder of the lesion network's MONAI bundle. Its configuration can run code: use those you trust.
        workers: processes, each with its own copy of the network and its share of the cores.
        scheduler: address of a Dask scheduler, ``local`` for a Dask cluster on this machine, or ``None`` for plain
            processes.
        overwrite: do all scans again.
        debug: print the tracebacks of failures to standard error.
        on_done: called with the row of each scan, also of those not done again.
        on_note: called with each line that a user should read, such as that the networks are prepared, which takes
            long and is done once.

    Raises:
        ScanError: if ``scans`` holds none.
        BundleError: if the network cannot be loaded, also where the machine lacks the device or the precision.
        WorkerError: if a worker cannot be started, or a cluster not reached.
        ValueError: if ``workers`` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    sources = find_scans(Path(scans)) if isinstance(scans, (str, Path)) else list(scans)
    require_scans(sources, Path(scans) if isinstance(scans, str) else scans)
    options, folder = options or Options(), Path(output)
    started, clock = datetime.now(UTC), time.perf_counter()
    # Before the folder is made: where no model can be loaded, nothing is left behind. No more workers than scans.
    workforce = _workforce(
        Path(bundle), min(workers, len(sources)), scheduler, options, debug=debug, on_note=on_note or (lambda _: None)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        jobs = [make_job(source, folder, options, workforce.model, debug=debug) for source in sources]
        result = _assess(jobs, folder, workforce, overwrite=overwrite, on_done=on_done or (lambda _: None))
    finally:
        workforce.close()
    remove_leftovers(folder)  # again: a worker that died may have left a half file
    seconds = round(time.perf_counter() - clock, 3)
    times = {"started": started.isoformat(timespec="seconds"), "seconds": seconds}
    write_json(_manifest(result, workforce.model, options) | {"times": times}, folder / MANIFEST)
    write_index(result.rows, folder / INDEX)
    return result


def _workforce(
    bundle: Path,
    workers: int,
    scheduler: str | None,
    options: Options,
    *,
    debug: bool,
    on_note: Callable[[str], None],
) -> _Workforce:
    if scheduler is None:
        return LocalProcesses(bundle, workers, options.model_settings, debug=debug, on_note=on_note)
    return DaskCluster(bundle, scheduler, workers, options.model_settings)


def _assess(
    jobs: Sequence[Job], folder: Path, workforce: _Workforce, *, overwrite: bool, on_done: Callable[[Row], None]
) -> BatchResult:
    """Do what is not done yet; the table grows with every scan and is sorted at the end."""
    reports = {}
    if not overwrite:
        reports = {job: report for job in jobs if (report := finished_report(job))}
    rows: list[Row] = [row(report) for report in reports.values()]
    write_csv(rows, folder / TABLE, COLUMNS)
    for done in rows:
        on_done(done)
    for done in workforce.run([job for job in jobs if job not in reports]):
        # One line at a time, so that a killed run leaves a whole table of what was done.
        append_csv(done, folder / TABLE, COLUMNS)
        rows.append(done)
        on_done(done)
    # Scans finish in any order; equal runs must have equal tables.
    rows.sort(key=lambda row: str(row["case"]))
    write_csv(rows, folder / TABLE, COLUMNS)
    return BatchResult(rows, len(reports))


def _manifest(result: BatchResult, model: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """How the results came about; nothing of the machine, so that equal runs have equal manifests."""
    return {
        "covsev_version": __version__,
        "disclaimer": DISCLAIMER,
        "scans": len(result.rows),
        "failed": result.failed,
        **{name: value for name, value in model.items() if name != "covsev_version"},
        "options": asdict(options),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
