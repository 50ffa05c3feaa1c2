"""DICOM series in, with pydicom; compressed pixels with SimpleITK (GDCM)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.uid import UID

from covsev.errors import ScanError
from covsev.scan.claims import require_backed
from covsev.scan.volume import require_volume

UNREADABLE = ""
"""Stands for the series of DICOM files whose series cannot be told."""
IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
)

_TAGS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "PixelSpacing",
)
_DIRECTORY_UID = "1.2.840.10008.1.3.10"  # a DICOMDIR
_NO_SCAN_UIDS = (  # with rows and columns, but made from scans
    "1.2.840.10008.5.1.4.1.1.7",  # secondary captures, such as pictures of dose reports
    "1.2.840.10008.5.1.4.1.1.66",  # segmentations
)
_GAP_TOLERANCE = 0.1  # share of the slice distance by which one distance may differ from the others
_TILT_TOLERANCE_MM = 1.0  # in-plane shift over the whole stack
_Header = pydicom.Dataset

# Warnings of the readers quote headers, and headers name patients.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")
sitk.ProcessObject.SetGlobalWarningDisplay(False)


# ---- finding -----------------------------------------------------------------------------------------------------


def series_uid(path: Path) -> str:
    """SeriesInstanceUID of one file.

    Raises:
        ScanError: if the file has none.
    """
    header = _header(path)
    uid = "" if header is None else _text(header, "SeriesInstanceUID")
    if not uid:
        raise ScanError(f"{path}: not a DICOM file with a series")
    return uid


def series_in(paths: Iterable[Path]) -> list[str]:
    """SeriesInstanceUIDs of the image series among ``paths``, in order of their UIDs.

    CT that covsev cannot read and images of other modalities are among them, and :data:`UNREADABLE` where files
    are damaged: :func:`read_series` says why. Localizers, captures, segmentations, and what has no pixels are not.
    """
    found = set()
    for path in paths:
        header = _header(path)
        if header is None:
            found.add(UNREADABLE)
        elif _is_image(header):
            found.add(_text(header, "SeriesInstanceUID"))
    return sorted(found)


def _header(path: Path) -> _Header | None:
    """The few tags of a file that matter; ``None`` for what is damaged or no DICOM."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        is_directory = header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY_UID
        return header if is_directory or _text(header, "SeriesInstanceUID") else None
    except Exception:  # pydicom raises anything on broken files
        return None


def _text(header: _Header, tag: str) -> str:
    """A value as text, ``""`` where it is absent or cannot be decoded, which pydicom does when it is asked for."""
    try:
        return str(header.get(tag) or "")
    except Exception:
        return ""


def _has(header: _Header, *tags: str) -> bool:
    return all(_text(header, tag) not in ("", "0") for tag in tags)


def _is_image(header: _Header) -> bool:
    localizer = "LOCALIZER" in _text(header, "ImageType").upper()
    made_of_scans = _text(header, "SOPClassUID").startswith(_NO_SCAN_UIDS)
    return _has(header, "Rows", "Columns") and not localizer and not made_of_scans


def _is_ct_slice(header: _Header) -> bool:
    geometry = _has(header, "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    return _is_image(header) and _text(header, "Modality") == "CT" and geometry


# ---- reading -----------------------------------------------------------------------------------------------------


def read_series(path: Path, uid: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read series ``uid`` of the folder ``path``, or of the folder that the file ``path`` lies in.

    Returns:
        (X, Y, Z) HU, with x along the rows, y along the columns and z along the stack; and its RAS+ affine.

    Raises:
        ScanError: if slices are missing, doubled, of different sizes, tilted against the stack, or broken, or if
            the series is no CT with a file a slice.
    """
    folder = path if path.is_dir() else path.parent
    slices, ordered = _stack(folder, uid)
    _require_pixels(slices, folder)
    affine = _affine([slices[path] for path in ordered])
    try:
        return np.stack([_slice_hu(path, slices[path]) for path in ordered], axis=-1), affine
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # the decoders raise anything on broken files
        raise ScanError(f"{folder}: pixels of series {uid} cannot be read; the files may be damaged") from error


def files_in_order(path: Path, uid: str) -> list[Path]:
    """The files of series ``uid`` in the order of the z axis of :func:`read_series`, which raises the same errors."""
    return _stack(path if path.is_dir() else path.parent, uid)[1]


def _stack(folder: Path, uid: str) -> tuple[dict[Path, _Header], list[Path]]:
    """The slices of a series, and their order."""
    if uid == UNREADABLE:
        raise _unreadable(folder)
    slices = _slices(folder, uid)
    if len(slices) < 2:
        raise ScanError(f"{folder}: series {uid} has {len(slices)} CT slices; a volume needs more", code="few_slices")
    return slices, _ordered(slices, folder)


def read_identifiers(path: Path, uid: str) -> dict[str, str]:
    """The patient's name and what else identifies series ``uid``, for users who ask to keep it.

    Returns:
        those of :data:`IDENTIFIERS` that the first slice holds.
    """
    folder = path if path.is_dir() else path.parent
    first = next(iter(_slices(folder, uid)), None)
    if first is None:
        return {}
    header = pydicom.dcmread(first, stop_before_pixels=True, specific_tags=list(IDENTIFIERS))
    return {tag: text for tag in IDENTIFIERS if (text := _text(header, tag))}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def _unreadable(folder: Path) -> ScanError:
    from covsev.scan.finding import may_be_dicom, suffix_of

    damaged = [p for p in _files(folder) if not suffix_of(p) and may_be_dicom(p) and _header(p) is None]
    first = damaged[0].name if damaged else "none"
    return ScanError(f"{folder}: {len(damaged)} DICOM files cannot be read, the first is {first}; copy them again")


def _slices(folder: Path, uid: str) -> dict[Path, _Header]:
    """The CT slices of series ``uid``, in order of their names."""
    headers = {p: h for p in _files(folder) if (h := _header(p)) is not None}
    series = {p: h for p, h in headers.items() if _text(h, "SeriesInstanceUID") == uid and _is_image(h)}
    slices = {p: h for p, h in series.items() if _is_ct_slice(h)}
    if series and not slices:
        _refuse(next(iter(series.values())), folder, uid)
    return slices


def _refuse(header: _Header, folder: Path, uid: str) -> None:
    modality = _text(header, "Modality")
    if modality != "CT":
        raise ScanError(f"{folder}: series {uid} is {modality[:16] or 'unknown'}, not CT", code="wrong_modality")
    if _text(header, "NumberOfFrames") not in ("", "0", "1"):
        raise ScanError(
            f"{folder}: series {uid} is multi-frame CT, all slices in one file; convert it to NIfTI first",
            code="multi_frame",
        )
    raise ScanError(
        f"{folder}: series {uid} has no slice positions or no pixel spacing; export it again with its geometry",
        code="broken_geometry",
    )


def _require_pixels(slices: Mapping[Path, _Header], folder: Path) -> None:
    """Check what the headers claim before any pixel is read."""
    for path, header in slices.items():
        if _has(header, "SamplesPerPixel") and int(header.SamplesPerPixel) != 1:
            raise ScanError(f"{folder}: voxels have {header.SamplesPerPixel} components, not one", code="not_a_volume")
        bits = int(header.get("BitsAllocated") or 0)
        if bits not in (8, 16, 32):
            raise ScanError(f"{folder}: {path.name} has {bits} bits a pixel, not 8, 16 or 32")
        rows, columns = int(header.Rows), int(header.Columns)
        require_volume((columns, rows, len(slices)), np.dtype(f"i{bits // 8}"), folder)
        claimed_bytes = rows * columns * bits // 8
        require_backed(path, claimed_bytes, path.stat().st_size, compressed=_is_compressed(header))


def _slice_hu(path: Path, header: _Header) -> NDArray[Any]:
    """(X, Y) HU of one file. GDCM decodes what is compressed; it can take gigabytes for a damaged file."""
    if _is_compressed(header):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].T
    dataset = pydicom.dcmread(BytesIO(path.read_bytes()))  # a false length takes no memory here, from a file it does
    stored = dataset.pixel_array.T
    above = dataset.BitsAllocated - 1 - dataset.HighBit  # bits above the value may hold something else
    stored = (stored << above) >> (dataset.BitsAllocated - dataset.BitsStored)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu


def _is_compressed(header: _Header) -> bool:
    return UID(str(header.file_meta.TransferSyntaxUID)).is_compressed


def _affine(ordered: Sequence[_Header]) -> NDArray[np.float64]:
    """RAS+ affine of the stack (DICOM PS3.3 C.7.6.2.1.1)."""
    first, last = (np.array(header.ImagePositionPatient, dtype=float) for header in (ordered[0], ordered[-1]))
    row, column = np.array(ordered[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows_mm, between_columns_mm = (float(value) for value in ordered[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns_mm, column * between_rows_mm
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(ordered) - 1), first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _ordered(slices: Mapping[Path, _Header], folder: Path) -> list[Path]:
    """Paths along the stack's normal, after checking that they form one regular, untilted grid."""
    sizes = {(int(h.Rows), int(h.Columns)) for h in slices.values()}
    orientations = {tuple(round(float(v), 3) for v in h.ImageOrientationPatient) for h in slices.values()}
    if len(sizes) > 1 or len(orientations) > 1:
        raise ScanError(f"{folder}: slices of one series differ in size or orientation", code="mixed_series")
    row, column = np.array(next(iter(slices.values())).ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    positions = {p: np.array(h.ImagePositionPatient, dtype=float) for p, h in slices.items()}
    if not np.isfinite([*positions.values(), normal]).all():
        raise ScanError(f"{folder}: slice positions are not numbers; export the series again", code="broken_geometry")
    ordered = sorted(slices, key=lambda p: float(positions[p] @ normal))
    stack = np.array([positions[p] for p in ordered])
    _require_regular(stack @ normal, folder)
    shift = stack[-1] - stack[0]
    tilt_mm = float(np.linalg.norm(shift - (shift @ normal) * normal))
    if tilt_mm > _TILT_TOLERANCE_MM:
        raise ScanError(
            f"{folder}: the stack is sheared by {tilt_mm:.1f} mm (gantry tilt); resample it first", code="tilted"
        )
    return ordered


def _require_regular(heights: NDArray[np.float64], folder: Path) -> None:
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    if (gaps < 1e-3).any():
        raise ScanError(
            f"{folder}: two slices lie at one position; the series is doubled or mixed", code="duplicate_slices"
        )
    if (np.abs(gaps - typical) > _GAP_TOLERANCE * typical).any():
        largest = float(gaps.max())
        raise ScanError(
            f"{folder}: slices are missing; one gap is {largest:.2f} mm where {typical:.2f} is usual",
            code="missing_slices",
        )
