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
# At the top of an enhanced file, and the same for all its frames.
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
"""Functional groups (PS3.3, C.7.6.16.2), and their values that a plain slice has by the same name at its top."""


def text(header: Header, tag: str) -> str:
    """A value as text; ``""`` where it is absent or cannot be decoded."""
    try:
        return str(header.get(tag) or "")
    except Exception:  # pydicom decodes a value only when it is asked for, and raises anything
        return ""


def has(header: Header, *tags: str) -> bool:
    """Whether all ``tags`` have values other than 0: an image of 0 rows has no pixels."""
    return all(text(header, tag) not in ("", "0") for tag in tags)


def is_enhanced(header: Header) -> bool:
    """Whether a file holds a whole stack of CT slices, each a frame."""
    return text(header, "SOPClassUID") in _ENHANCED_UIDS


def frame_headers(path: Path) -> list[Header]:
    """A header for every frame of an enhanced file, as if it were a slice of its own.

    Raises:
        ScanError: if the number of frames is not that of their descriptions.
    """
    # The pixels stay in the file: a whole stack has hundreds of megabytes.
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
    header.file_meta = whole.file_meta  # how the pixels are encoded
    for tag in _OF_THE_FILE:
        if tag in whole:
            header[tag] = whole[tag]
    for sequence, tags in _OF_THE_FRAME.items():
        item = _item(sequence, group, shared) or pydicom.Dataset()
        for tag in tags:
            if tag in item:
                header[tag] = item[tag]
    # A frame's own type comes first: one frame can be a localizer among slices.
    kind = _item("CTImageFrameTypeSequence", group, shared)
    header.ImageType = whole.get("ImageType") if kind is None else kind.get("FrameType")
    return header


def _item(sequence: str, group: Header, shared: Header) -> Header | None:
    """What a functional group says: of the frame, else of all frames, else ``None``."""
    items = group.get(sequence) or shared.get(sequence) or []
    return next(iter(items), None)
