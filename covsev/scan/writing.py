"""Maps on the scan's own grid, JSON and CSV: files that are whole or not there."""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev import __version__
from covsev.labels import DISCLAIMER
from covsev.scan.compression import open_gzip
from covsev.scan.volume import Scan, require_same_grid

TEMPORARY_PREFIX = ".covsev-"
"""Of files that are not yet whole. Hidden files are no scans, so a search does not find them."""
_STRAIGHT_DEG = 0.1
"""Below this tilt a grid counts as straight, so that a qform, which has no shear, can hold it."""


def save_labels(labels: NDArray[np.uint8], scan: Scan, path: Path, *, weights: str = "none") -> None:
    """Write a label map as NIfTI on ``scan``'s own grid: same shape, affine, sform and qform codes.

    Args:
        labels: (X, Y, Z) uint8.
        scan: the scan whose grid it is.
        path: ``.nii.gz``. It is written under a temporary name first, then renamed.
        weights: short hash of the weights that made it, kept in the header's description.

    Raises:
        GridMismatchError: if the shapes differ.
    """
    _save(np.asarray(labels, dtype=np.uint8), scan, path, weights)


def save_probability(probability: NDArray[np.float32], scan: Scan, path: Path, *, weights: str) -> None:
    """Write a map of probabilities as float32 NIfTI. All else is as in :func:`save_labels`."""
    _save(np.asarray(probability, dtype=np.float32), scan, path, weights)


def _save(array: NDArray[Any], scan: Scan, path: Path, weights: str) -> None:
    require_same_grid(scan, array.shape, scan.affine, name=path.name)
    image = nib.Nifti1Image(array, scan.affine)
    if isinstance(scan.header, nib.Nifti1Header):
        # Programs choose between the two forms by their codes, so mask and scan must agree in both.
        image.header["xyzt_units"] = scan.header["xyzt_units"] & 63  # what the format defines, odd codes included
        image.set_qform(_qform(scan), int(scan.header["qform_code"]))
        image.set_sform(scan.affine, int(scan.header["sform_code"]))
    else:
        image.header.set_xyzt_units("mm")
        image.set_qform(scan.affine, int(scan.tilt_deg < _STRAIGHT_DEG))  # code 0: not to be used
        image.set_sform(scan.affine, 1)
    # The field has 80 bytes, the last one a 0.
    image.header["descrip"] = f"covsev {__version__} weights {weights[:12]}; {DISCLAIMER}"[:79]
    with replacing(path) as temporary, open_gzip(temporary, "wb") as stream:
        image.to_stream(stream)


def _qform(scan: Scan) -> NDArray[np.float64]:
    """The source's qform; the affine where its numbers make none, as was seen where the qform's code is 0."""
    try:
        qform = scan.header.get_qform()
    except ValueError:
        return scan.affine
    finite = np.isfinite(qform).all()
    usable = finite and abs(np.linalg.det(qform)) > 0
    return qform if usable else scan.affine


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``. It becomes ``path`` when the block succeeds, and vanishes when it fails."""
    # Beside it, so that renaming is one step of one file system; at random, so that two writers do not meet.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed run left in ``folder``."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


# ---- JSON and CSV ------------------------------------------------------------------------------------------------


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON under a temporary name, then rename it."""
    with replacing(path) as temporary:
        # JSON has no NaN. Python would write one, and other readers would fail on it.
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path, columns: Sequence[str]) -> None:
    """Write a header of ``columns`` and all ``rows`` under a temporary name, then rename it."""
    with replacing(path) as temporary:
        header = dict(zip(columns, columns, strict=True))  # a row in which each column holds its own name
        temporary.write_bytes(_csv_lines(columns, header, *rows))


def append_csv(row: Mapping[str, Any], path: Path, columns: Sequence[str]) -> None:
    """Add one row to a table of :func:`write_csv`. It is one write, so that readers see whole lines."""
    with path.open("ab", buffering=0) as stream:
        stream.write(_csv_lines(columns, row))


def _csv_lines(columns: Sequence[str], *rows: Mapping[str, Any]) -> bytes:
    """Lines of a table. Bytes of a path that are no text become escapes."""
    text = io.StringIO(newline="")  # csv ends the lines itself
    writer = csv.DictWriter(text, columns)
    cells = ({name: _cell(value) for name, value in row.items()} for row in rows)
    writer.writerows(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
