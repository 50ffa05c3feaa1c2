"""Headers of DICOM slices: one a file, or one a frame of an enhanced multi-frame file, in the same form."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from covsev.errors import ScanError

Frame = tuple[Path, int]
"""A slice: its file, and its place in the file from 0."""
Header = pydicom.Dataset

_ENHANCED_UIDS = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
DESCRIPTION = ("StudyInstanceUID", "SeriesDescription", "ConvolutionKernel", "SliceThickness")
"""What tells the series of a study apart."""
_OF_THE_FILE = (
    *DESCRIPTION,
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
)
_OF_THE_FRAME = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""Functional groups of PS3.3, C.7.6.16.2, and what a plain slice has at its top of the same name."""


def text(header: Header, tag: str) -> str:
    """A value as text, ``""`` where it is absent or cannot be decoded, which pydicom does when it is asked for."""
    try:
        return str(header.get(tag) or "")
    except Exception:
        return ""


def has(header: Header, *tags: str) -> bool:
    """Whether all ``tags`` have values other than 0."""
    return all(text(header, tag) not in ("", "0") for tag in tags)


def is_enhanced(header: Header) -> bool:
    """Whether a file holds a whole stack of CT slices, each a frame."""
    return text(header, "SOPClassUID") in _ENHANCED_UIDS


def frame_headers(path: Path) -> list[Header]:
    """A header for every frame of an enhanced file, as if it were a slice of its own.

    Raises:
        ScanError: if the number of frames is not that of their descriptions.
    """
    whole = pydicom.dcmread(path, stop_before_pixels=True)
    groups = whole.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != int(whole.get("NumberOfFrames") or 0):
        raise ScanError(
            f"{path}: has {whole.get('NumberOfFrames')} frames and describes {len(groups)}; export it again",
            code="broken_geometry",
        )
    shared = next(iter(whole.get("SharedFunctionalGroupsSequence") or []), pydicom.Dataset())
    return [_as_slice(whole, shared, group) for group in groups]


def _as_slice(whole: pydicom.FileDataset, shared: Header, group: Header) -> Header:
    header = pydicom.Dataset()
    header.file_meta = whole.file_meta
    for tag in _OF_THE_FILE:
        if tag in whole:
            header[tag] = whole[tag]
    for sequence, tags in _OF_THE_FRAME.items():
        item = next(iter(group.get(sequence) or shared.get(sequence) or []), pydicom.Dataset())
        for tag in tags:
            if tag in item:
                header[tag] = item[tag]
    kind = next(iter(group.get("CTImageFrameTypeSequence") or shared.get("CTImageFrameTypeSequence") or []), None)
    header.ImageType = whole.get("ImageType") if kind is None else kind.get("FrameType")
    return header
