"""What a worker does: read, assess and write scans, the three overlapping, and never fail on one of them."""

from __future__ import annotations

import hashlib
import math
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from covsev import __version__
from covsev.assessment import Assessment, assess
from covsev.batch.job import Job, Row, failure, remove_results
from covsev.lesions.model import LesionModel, load_model
from covsev.options import LUNG_BUNDLE
from covsev.report.outputs import write
from covsev.report.tables import row
from covsev.scan import Scan, load_scan

_computing = threading.Lock()
"""One scan at a time, whatever the number of threads of a Dask worker: each computes with all cores of its share."""
cached_model = cache(load_model)
"""The model of a Dask worker, which gets its scans as single tasks: loaded once, not for each of them."""


def describe(model: LesionModel) -> dict[str, Any]:
    """What of a model decides the results, for fingerprints and the manifest: all but what is for single slices."""
    # Minus infinity means no limit, which JSON cannot write.
    min_hu = model.postprocessing.min_consolidation_hu
    return {
        "covsev_version": __version__,
        "bundle": model.name,
        "weights": model.weights,
        "prior_weights": None if model.prior is None else model.prior.weights,
        "threshold": model.postprocessing.threshold,
        "axial_smoothing_mm": model.postprocessing.axial_smoothing_mm,
        "min_consolidation_hu": min_hu if math.isfinite(min_hu) else None,
        "hu_window": list(model.preprocessing.hu_window),
        "network_size": list(model.preprocessing.network_size),
        "lung_margin_mm": model.preprocessing.crop_margin_mm,
        "slab_mm": model.preprocessing.slab_mm,
        "runs_on": model.runs_on,
        "lung_bundle": _lung_bundle(),
    }


@cache
def _lung_bundle() -> dict[str, str | None]:
    """SHA-256 of the files that decide the lungs: weights and configuration; ``None`` for a file that is missing."""
    files = {
        "weights": LUNG_BUNDLE / "models" / "model.pt",
        "configuration": LUNG_BUNDLE / "configs" / "inference.yaml",
    }
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    return {name: hashes.get(name) for name in files}


def work_through(jobs: Iterable[Job], model: LesionModel, report: Callable[[Row], None]) -> None:
    """Do ``jobs``, and call ``report`` with the row of each.

    While one scan is computed the next one is read and the last one written: at most three are in memory.
    """
    with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
        writing: Future[None] | None = None
        for job, scan in _read_ahead(jobs, reader):
            assessment = compute(job, scan, model)
            # The scan before must be written first: without waiting, finished scans would pile up in memory.
            if writing is not None:
                writing.result()
            writing = writer.submit(lambda job, assessment: report(finish(job, assessment)), job, assessment)
            del scan, assessment  # the writer holds what it needs
        if writing is not None:
            writing.result()


def _read_ahead(jobs: Iterable[Job], reader: ThreadPoolExecutor) -> Iterator[tuple[Job, Scan | Exception]]:
    """Each job with its scan; the next one is asked for and read while the caller uses this one."""
    to_do = iter(jobs)
    upcoming = reader.submit(_read_next, to_do)
    while (found := upcoming.result()) is not None:
        upcoming = reader.submit(_read_next, to_do)
        yield found


def _read_next(jobs: Iterator[Job]) -> tuple[Job, Scan | Exception] | None:
    job = next(jobs, None)
    return None if job is None else (job, read(job))


def assess_job(job: Job, bundle: Path) -> Row:
    """Do one job in this process; scans of several threads are read and written beside each other, not computed."""
    scan = read(job)
    with _computing:
        model = cached_model(bundle, **job.options.model_settings)
        assessment = compute(job, scan, model)
    return finish(job, assessment)


def read(job: Job) -> Scan | Exception:
    """The scan, or why it cannot be read; removes what an earlier run wrote of it."""
    try:
        remove_results(job)
        return load_scan(job.source)
    except Exception as error:  # one odd scan must not end the batch
        return error


def compute(job: Job, scan: Scan | Exception, model: LesionModel) -> Assessment | Exception:
    """The assessment, or why there is none."""
    if isinstance(scan, Exception):
        return scan
    try:
        return assess(scan, model, job.options)
    except Exception as error:
        return error


def finish(job: Job, assessment: Assessment | Exception) -> Row:
    """Write the results; the scan's row."""
    try:
        if isinstance(assessment, Exception):
            raise assessment
        provenance = {"fingerprint": job.fingerprint} | _identifiers(job)
        return row(write(assessment, job.folder, job.options, provenance=provenance))
    except Exception as error:
        if job.debug:
            traceback.print_exception(error)
        return failure(job, error)


def _identifiers(job: Job) -> dict[str, Any]:
    """Who was scanned, from the DICOM headers, if the user asked for it."""
    uid = job.source.series_uid
    if not job.options.keep_identifiers or not uid:
        return {}
    from covsev.scan.dicom.series import read_identifiers

    return {"identifiers": read_identifiers(job.source.path, uid)}
