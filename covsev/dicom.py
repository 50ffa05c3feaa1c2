"""DICOM series in: headers with pydicom, pixels with SimpleITK (GDCM)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from covsev.errors import ScanError

_TAGS = (
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
)
_GAP_TOLERANCE = 0.1  # share of the slice distance by which one distance may differ from the others
_TILT_TOLERANCE_MM = 1.0  # in-plane shift over the whole stack


def series_uid(path: Path) -> str:
    """SeriesInstanceUID of one file.

    Raises:
        ScanError: if the file has none.
    """
    header = _header(path)
    if header is None:
        raise ScanError(f"{path}: not a DICOM file with a series")
    return str(header.SeriesInstanceUID)


def series_in(paths: Iterable[Path]) -> list[str]:
    """SeriesInstanceUIDs of the CT image series among ``paths``, localizers left out, in order of their UIDs."""
    headers = (_header(path) for path in paths)
    return sorted({str(h.SeriesInstanceUID) for h in headers if h is not None and _is_ct_slice(h)})


def read_series(path: Path, uid: str) -> sitk.Image:
    """Read series ``uid`` of the folder ``path``, or of the folder that the file ``path`` lies in.

    Returns:
        the volume in HU, its geometry in SimpleITK's LPS+ world.

    Raises:
        ScanError: if slices are missing, doubled, of different sizes, tilted against the stack, or broken.
    """
    folder = path if path.is_dir() else path.parent
    slices = {p: h for p in sorted(folder.iterdir()) if p.is_file() and (h := _header(p)) is not None}
    slices = {p: h for p, h in slices.items() if str(h.SeriesInstanceUID) == uid and _is_ct_slice(h)}
    if len(slices) < 2:
        raise ScanError(f"{folder}: series {uid} has {len(slices)} CT slices; a volume needs more")
    ordered = _ordered(slices, folder)
    try:
        return sitk.ReadImage([str(p) for p in ordered])
    except RuntimeError as error:
        raise ScanError(f"{folder}: pixels of series {uid} cannot be read; the files may be damaged") from error


def _header(path: Path) -> pydicom.Dataset | None:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (InvalidDicomError, OSError, EOFError, ValueError):
        return None
    return header if "SeriesInstanceUID" in header else None


def _is_ct_slice(header: pydicom.Dataset) -> bool:
    """Whether a header is that of an axial CT image; one whose values cannot be decoded is not."""
    try:
        return _describes_ct_slice(header)
    except Exception:  # pydicom decodes late and raises anything on broken values
        return False


def _describes_ct_slice(header: pydicom.Dataset) -> bool:
    localizer = "LOCALIZER" in [str(part).upper() for part in header.get("ImageType", [])]
    geometry = all(header.get(tag) for tag in ("ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"))
    return header.get("Modality") == "CT" and geometry and not localizer


def _ordered(slices: dict[Path, pydicom.Dataset], folder: Path) -> list[Path]:
    """Paths along the stack's normal, after checking that they form one regular, untilted grid."""
    sizes = {(int(h.Rows), int(h.Columns)) for h in slices.values()}
    orientations = {tuple(round(float(v), 3) for v in h.ImageOrientationPatient) for h in slices.values()}
    if len(sizes) > 1 or len(orientations) > 1:
        raise ScanError(f"{folder}: slices of one series differ in size or orientation")
    row, column = np.array(next(iter(slices.values())).ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    positions = {p: np.array(h.ImagePositionPatient, dtype=float) for p, h in slices.items()}
    ordered = sorted(slices, key=lambda p: float(positions[p] @ normal))
    stack = np.array([positions[p] for p in ordered])
    _require_regular(stack @ normal, folder)
    shift = stack[-1] - stack[0]
    tilt_mm = float(np.linalg.norm(shift - (shift @ normal) * normal))
    if tilt_mm > _TILT_TOLERANCE_MM:
        raise ScanError(f"{folder}: the stack is sheared by {tilt_mm:.1f} mm (gantry tilt); resample it first")
    return ordered


def _require_regular(heights: NDArray[np.float64], folder: Path) -> None:
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    if (gaps < 1e-3).any():
        raise ScanError(f"{folder}: two slices lie at one position; the series is doubled or mixed")
    if (np.abs(gaps - typical) > _GAP_TOLERANCE * typical).any():
        largest = float(gaps.max())
        raise ScanError(f"{folder}: slices are missing; one gap is {largest:.2f} mm where {typical:.2f} is usual")
