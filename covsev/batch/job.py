"""One scan of a batch: what has to be done, how a finished one is told, and the row of a failed one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covsev import __version__
from covsev.errors import CovsevError
from covsev.labels import SEVERITY_SUFFIX
from covsev.options import Options
from covsev.report.tables import failed_row
from covsev.scan import ScanSource, files_of

Row = Mapping[str, Any]
"""A row of ``severity.csv``."""


@dataclass(frozen=True)
class Job:
    """One scan to assess.

    Attributes:
        source: where the scan is.
        folder: where its results go.
        options: what the user chose.
        fingerprint: of the scan's files, the options, the model and covsev; equal fingerprints give equal results.
        debug: print the traceback of a failure.
    """

    source: ScanSource
    folder: Path
    options: Options
    fingerprint: str
    debug: bool = False

    @property
    def report(self) -> Path:
        """The JSON file that is written last."""
        return self.folder / (self.source.case + SEVERITY_SUFFIX)

    def to_json(self) -> str:
        """One line of text, for another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of :meth:`to_json`."""
        # JSON has no paths and no classes, so each part is made anew.
        content = json.loads(text)
        source = content["source"]
        return cls(
            source=ScanSource(source["case"], Path(source["path"]), source["series_uid"]),
            folder=Path(content["folder"]),
            options=Options(**content["options"]),
            fingerprint=content["fingerprint"],
            debug=content["debug"],
        )


def make_job(source: ScanSource, folder: Path, options: Options, model: Mapping[str, Any], *, debug: bool) -> Job:
    """The job of one scan; ``model`` is the description that :func:`covsev.batch.work.describe` gives."""
    content = {
        "version": __version__,
        "model": dict(model),
        "options": asdict(options),
        "case": source.case,
        "series_uid": source.series_uid,
        "files": [_file_state(path) for path in files_of(source)],
    }
    # Keys in order: equal contents must give equal text.
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    # Absolute, since a worker elsewhere may have another working directory.
    return Job(source, folder.absolute(), options, fingerprint, debug)


def _file_state(path: Path) -> tuple[str, int, int]:
    """Path, size and time of change: what tells an unchanged file without reading it."""
    try:
        state = path.stat()
    except OSError:  # a link to nowhere: its scan becomes a row later, and must not end the run here
        return str(path.absolute()), -1, -1
    return str(path.absolute()), state.st_size, state.st_mtime_ns


def finished_report(job: Job) -> dict[str, Any] | None:
    """Content of a scan's JSON file if an earlier run did the whole of this very job, else ``None``."""
    try:
        content = json.loads(job.report.read_text(encoding="utf-8"))
        outputs = content["outputs"].items()
        whole = all(_has_size(job.folder / name, size) for name, size in outputs)
        same = content["fingerprint"] == job.fingerprint
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No file, or one of another program or version: whatever it is, the scan is done again.
        return None
    return content if whole and same else None


def _has_size(path: Path, size: int) -> bool:
    return path.stat().st_size == size


def remove_results(job: Job) -> None:
    """Remove what an earlier run wrote of this scan: an old result is not this run's."""
    try:
        outputs = list(json.loads(job.report.read_text(encoding="utf-8"))["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        outputs = []
    job.report.unlink(missing_ok=True)  # first, since it vouches for the others
    for name in outputs:
        # The names come from a file that anyone may have edited: only this scan's own, and none in another folder.
        if Path(name).name == name and name.startswith(job.source.case):
            (job.folder / name).unlink(missing_ok=True)


def failure(job: Job, error: Exception) -> Row:
    """The row of a scan that could not be assessed."""
    path = job.source.path
    if isinstance(error, CovsevError):
        return failed(job, error.code, str(error))
    if isinstance(error, MemoryError):
        return failed(job, "out_of_memory", f"{path}: not enough memory for this scan")
    return failed(job, "unexpected", f"{path}: unexpected {type(error).__name__}: {error}")


def failed(job: Job, code: str, reason: str) -> Row:
    """The row of a scan without a result.

    Bytes of a path that are no text are written as escapes, since the table is UTF-8.
    """
    path, reason = (_printable(text) for text in (str(job.source.path), reason))
    return failed_row(job.source.case, path, code, reason)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
