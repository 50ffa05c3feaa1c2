"""A study from a DICOMweb server, and results back to it, with dicomweb-client.

A login is taken from ``~/.netrc``, as Python's requests do everywhere. None is ever written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pydicom

from covsev.errors import DicomWebError
from covsev.scan.writing import TEMPORARY_PREFIX

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID = 64
"""Form and length of a UID (PS3.5, 9.1)."""
_AS_STORED = (("application/dicom", "*"),)
"""In whatever transfer syntax the server holds a file, so that it need not convert any."""
_RETRIES, _WAIT_MS = 3, 200
"""Fewer attempts and shorter waits than the client's own 5 and 1000 ms: a missing server is named sooner."""


def fetch_study(url: str, study_uid: str, folder: Path) -> list[Path]:
    """Copy the CT series of a study into ``folder``, one folder a series.

    A series whose folder is there is not fetched again.

    Args:
        url: of the server's DICOMweb service, such as ``http://localhost:8042/dicom-web``.
        study_uid: StudyInstanceUID.
        folder: made if it does not exist.

    Returns:
        the folders of the series.

    Raises:
        DicomWebError: if the server cannot be reached, refuses, answers nonsense, or has no CT of that study.
    """
    _require_uid(study_uid, "study")
    with _speaking_to(url) as client:
        found = client.search_for_series(study_uid, search_filters={"Modality": "CT"})
        series_uids = [pydicom.Dataset.from_json(item).SeriesInstanceUID for item in found]
        folders = [_fetch_series(client, study_uid, uid, folder) for uid in series_uids]
    if not folders:
        raise DicomWebError(f"{url}: has no CT series of study {study_uid}; check the UID and your access to it")
    return folders


def _fetch_series(client: Any, study_uid: str, series_uid: str, folder: Path) -> Path:
    """One series, under another name until it is whole."""
    _require_uid(series_uid, "series")
    target = folder / series_uid
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Within the target's folder, so that the rename at the end is one step of one file system.
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as name:
        incoming = Path(name) / series_uid
        incoming.mkdir()
        for instance in client.iter_series(study_uid, series_uid, media_types=_AS_STORED):
            _require_uid(instance.SOPInstanceUID, "instance")
            instance.save_as(incoming / f"{instance.SOPInstanceUID}.dcm")
        incoming.rename(target)
    return target


def store(url: str, paths: Sequence[Path]) -> None:
    """Send DICOM files to a server.

    Raises:
        DicomWebError: if the server cannot be reached or does not take one of them.
    """
    datasets = [pydicom.dcmread(path) for path in paths]
    with _speaking_to(url) as client:
        answer = client.store_instances(datasets)
    # A server may take some objects and refuse others, and still answer without an error.
    failed = [item.ReferencedSOPInstanceUID for item in answer.get("FailedSOPSequence", [])]
    names = [path.name for path, d in zip(paths, datasets, strict=True) if d.SOPInstanceUID in failed]
    if names:
        raise DicomWebError(f"{url}: did not take {', '.join(names)}; its log says why")


@contextmanager
def _speaking_to(url: str) -> Iterator[Any]:
    """A client. Whatever goes wrong with it or its answers becomes one kind of error, which names the server."""
    try:
        from dicomweb_client.api import DICOMwebClient
    except ImportError as error:
        raise DicomWebError("DICOMweb needs dicomweb-client: pip install 'covsev[dicom]'") from error
    try:
        client = DICOMwebClient(url)
        client.set_http_retry_params(max_attempts=_RETRIES, wait_exponential_multiplier=_WAIT_MS)
        yield client
    except (DicomWebError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # of requests, of the client, of pydicom on odd answers
        text = next(iter(str(error).splitlines()), "no message")
        raise DicomWebError(f"{url}: {type(error).__name__} from the DICOMweb server: {text[:300]}") from error


def _require_uid(uid: str, name: str) -> None:
    """Refuse all other text: UIDs become names of files and parts of addresses."""
    if len(uid) > _MAX_UID or not _UID.fullmatch(uid):
        raise DicomWebError(f"{uid[:80]!r} is no DICOM UID, so not a {name}")
