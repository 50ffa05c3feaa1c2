"""DICOM series in: which series a folder holds, and each as one volume. A file holds a slice, or a whole stack."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.errors import ScanError
from covsev.scan.dicom.frames import DESCRIPTION, Frame, Header, frame_headers, has, is_enhanced, text
from covsev.scan.dicom.pixels import read_pixels, require_pixels, syntax_of
from covsev.scan.dicom.stack import affine_of, in_order
from covsev.scan.suffixes import is_dicom

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
"""What names a patient or a study. It is read only where a user asks to keep it."""

# All that finding and ordering need. The other values of a header are skipped.
_TAGS = (
    *DESCRIPTION,
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
_DIRECTORY_UID = "1.2.840.10008.1.3.10"
"""Of a DICOMDIR, the table of contents of a disc: it belongs to no series, and is not damaged."""
_NO_SCAN_UIDS = (  # with rows and columns, but made from scans
    "1.2.840.10008.5.1.4.1.1.7",  # secondary captures, such as pictures of dose reports
    "1.2.840.10008.5.1.4.1.1.66",  # segmentations
)

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
    uid = "" if header is None else text(header, "SeriesInstanceUID")
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
            found.add(text(header, "SeriesInstanceUID"))
    return sorted(found)


def _header(path: Path) -> Header | None:
    """The few tags of a file that matter; ``None`` for what is damaged or no DICOM."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        # A file without a series counts as damaged, so that it is reported and not passed over.
        is_directory = header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY_UID
        return header if is_directory or text(header, "SeriesInstanceUID") else None
    except Exception:  # pydicom raises anything on broken files
        return None


def _is_image(header: Header) -> bool:
    # A localizer is CT by its modality, but an overview from which slices are planned, no stack.
    localizer = "LOCALIZER" in text(header, "ImageType").upper()
    made_of_scans = text(header, "SOPClassUID").startswith(_NO_SCAN_UIDS)
    return has(header, "Rows", "Columns") and not localizer and not made_of_scans


def _is_ct_slice(header: Header) -> bool:
    geometry = has(header, "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    return _is_image(header) and text(header, "Modality") == "CT" and geometry


# ---- reading -----------------------------------------------------------------------------------------------------


def read_series(path: Path, uid: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read series ``uid`` of the folder ``path``, or of the folder that the file ``path`` lies in.

    Returns:
        (X, Y, Z) HU, with x along the rows, y along the columns and z along the stack; and its RAS+ affine.

    Raises:
        ScanError: if slices are missing, doubled, of different sizes, or broken, or if the series is no CT.
    """
    folder = path if path.is_dir() else path.parent
    slices, ordered = _stack(folder, uid)
    require_pixels(slices, folder)
    affine = affine_of([slices[frame] for frame in ordered])
    # All that headers can tell is checked by now; what fails from here on is the pixels' fault.
    try:
        return read_pixels(ordered, slices), affine
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # the decoders raise anything on broken files
        syntax = syntax_of(slices[ordered[0]])
        encoding = (
            f" (stored as {syntax.name}; decompress them first if they are whole)" if syntax.is_encapsulated else ""
        )
        raise ScanError(
            f"{folder}: pixels of series {uid} cannot be read; the files may be damaged{encoding}"
        ) from error


def slice_headers(path: Path, uid: str) -> list[Header]:
    """Headers of the CT slices of series ``uid``, in the order of the files' names, not of their positions.

    Raises:
        ScanError: if there are none.
    """
    folder = path if path.is_dir() else path.parent
    headers = list(_slices(folder, uid).values())
    if not headers:
        raise ScanError(f"{folder}: no CT slices of series {uid}", code="few_slices")
    return headers


def frames_in_order(path: Path, uid: str) -> list[Frame]:
    """Files and frames of series ``uid`` in the order of the z axis of :func:`read_series`, with the same errors."""
    return _stack(path if path.is_dir() else path.parent, uid)[1]


def _stack(folder: Path, uid: str) -> tuple[dict[Frame, Header], list[Frame]]:
    """The slices of a series, and their order."""
    if uid == UNREADABLE:
        raise _unreadable(folder)
    slices = _slices(folder, uid)
    if len(slices) < 2:
        raise ScanError(f"{folder}: series {uid} has {len(slices)} CT slices; a volume needs more", code="few_slices")
    return slices, in_order(slices, folder)


def read_identifiers(path: Path, uid: str) -> dict[str, str]:
    """The patient's name and what else identifies series ``uid``, for users who ask to keep it.

    Returns:
        value by tag, of those :data:`IDENTIFIERS` that the first slice holds.
    """
    folder = path if path.is_dir() else path.parent
    first = next(iter(_slices(folder, uid)), None)
    if first is None:
        return {}
    header = pydicom.dcmread(first[0], stop_before_pixels=True, specific_tags=list(IDENTIFIERS))
    return {tag: value for tag in IDENTIFIERS if (value := text(header, tag))}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def _unreadable(folder: Path) -> ScanError:
    dicom_paths = [path for path in _files(folder) if is_dicom(path)]
    damaged = [path for path in dicom_paths if _header(path) is None]
    first = damaged[0].name if damaged else "none"
    return ScanError(f"{folder}: {len(damaged)} DICOM files cannot be read, the first is {first}; copy them again")


def _slices(folder: Path, uid: str) -> dict[Frame, Header]:
    """The CT slices of series ``uid``, in order of the files' names."""
    headers = {p: h for p in _files(folder) if (h := _header(p)) is not None}
    of_series = {p: h for p, h in headers.items() if text(h, "SeriesInstanceUID") == uid}
    images = {p: h for p, h in of_series.items() if _is_image(h)}
    slices = {
        (path, number): header
        for path, whole in images.items()
        for number, header in enumerate(_headers_in(path, whole))
        if _is_ct_slice(header)
    }
    if images and not slices:
        _refuse(next(iter(images.values())), folder, uid)
    return slices


def _headers_in(path: Path, whole: Header) -> list[Header]:
    """One header for each slice that a file holds."""
    return frame_headers(path) if is_enhanced(whole) else [whole]


def _refuse(header: Header, folder: Path, uid: str) -> None:
    # Another modality comes first: it is the reason even where positions are missing, too.
    modality = text(header, "Modality")
    if modality != "CT":
        raise ScanError(f"{folder}: series {uid} is {modality[:16] or 'unknown'}, not CT", code="wrong_modality")
    raise ScanError(
        f"{folder}: series {uid} has no slice positions or no pixel spacing; export it again with its geometry",
        code="broken_geometry",
    )
