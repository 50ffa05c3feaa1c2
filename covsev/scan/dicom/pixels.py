"""HU of DICOM slices: plain pixels with pydicom, compressed ones with SimpleITK (GDCM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, CTImageStorage

from covsev.errors import ScanError
from covsev.scan.claims import require_backed
from covsev.scan.dicom.frames import Frame, Header, has
from covsev.scan.volume import require_volume

# What a decoder must know about pixels. A frame's own file gets this and nothing that names a patient.
_OF_A_FRAME = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def require_pixels(slices: Mapping[Frame, Header], folder: Path) -> None:
    """Check what the headers claim before any pixel is read.

    Raises:
        ScanError: naming what is wrong.
    """
    for (path, _), header in slices.items():
        if has(header, "SamplesPerPixel") and int(header.SamplesPerPixel) != 1:
            raise ScanError(f"{folder}: voxels have {header.SamplesPerPixel} components, not one", code="not_a_volume")
        bits = int(header.get("BitsAllocated") or 0)
        if bits not in (8, 16, 32):
            raise ScanError(f"{folder}: {path.name} has {bits} bits a pixel, not 8, 16 or 32")
        rows, columns = int(header.Rows), int(header.Columns)
        require_volume((columns, rows, len(slices)), np.dtype(f"i{bits // 8}"), folder)
        # A file holds all its frames, whether or not all are slices of this series.
        frames = int(header.get("NumberOfFrames") or 1)
        frame_bytes = rows * columns * bits // 8
        require_backed(path, frame_bytes * frames, path.stat().st_size, compressed=_is_small(header))


def read_pixels(ordered: Sequence[Frame], slices: Mapping[Frame, Header]) -> NDArray[Any]:
    """(X, Y, Z) HU of the slices in the order given. Broken pixels raise any exception: decoders do."""
    planes: dict[Frame, NDArray[Any]] = {}
    # Each file is read once, however many of its frames are slices.
    for path in dict.fromkeys(path for path, _ in ordered):
        frames = {frame: slices[frame] for frame in ordered if frame[0] == path}
        planes |= _planes(path, frames)
    return np.stack([planes.pop(frame).T for frame in ordered]).T  # slice after slice, as files hold them


def syntax_of(header: Header) -> UID:
    """How the pixels are encoded."""
    return UID(str(header.file_meta.TransferSyntaxUID))


def _is_small(header: Header) -> bool:
    """Whether the file may be smaller than its pixels."""
    return syntax_of(header).is_compressed or syntax_of(header).is_deflated


def _planes(path: Path, frames: Mapping[Frame, Header]) -> dict[Frame, NDArray[Any]]:
    """(X, Y) HU of some frames of one file."""
    several = any("NumberOfFrames" in header for header in frames.values())
    if syntax_of(next(iter(frames.values()))).is_encapsulated:
        if not several:
            # GDCM rescales by itself. It can take gigabytes for a damaged file, so it gets no plain one.
            return {frame: _read_by_gdcm(path) for frame in frames}
        stored = _decoded(path, {number for _, number in frames})
        return {frame: _rescaled(stored[frame[1]], header) for frame, header in frames.items()}
    # Read as bytes first: then a false length within them takes no memory, which it does in an open file.
    dataset = pydicom.dcmread(BytesIO(path.read_bytes()))
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    return {
        frame: _rescaled(_value_bits(pixels[frame[1]].T, dataset), header if several else dataset)
        for frame, header in frames.items()
    }


def _value_bits(stored: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """Without the bits above the value, which may hold something else."""
    # To the left these bits fall out. Back to the right, a signed value's sign fills their places.
    above = dataset.BitsAllocated - 1 - dataset.HighBit
    return (stored << above) >> (dataset.BitsAllocated - dataset.BitsStored)


def _rescaled(stored: NDArray[Any], header: Header) -> NDArray[Any]:
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    # Half the memory where nothing is lost; slopes and intercepts mostly are whole numbers.
    whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu


def _decoded(path: Path, numbers: set[int]) -> dict[int, NDArray[Any]]:
    """(X, Y) stored values of compressed frames."""
    dataset = pydicom.dcmread(path)
    # GDCM would rescale all frames alike: it gets each as a file of its own that says nothing of a scale.
    encoded = generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames))
    with TemporaryDirectory() as folder:
        single = Path(folder) / "frame.dcm"
        found = {}
        for number, content in enumerate(encoded):
            if number in numbers:
                _single_frame(dataset, content).save_as(single, enforce_file_format=True)
                found[number] = _read_by_gdcm(single)
    return found


def _read_by_gdcm(path: Path) -> NDArray[Any]:
    """(X, Y) values of a file with one slice, which SimpleITK hands out as (1, Y, X)."""
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image)[0].T


def _single_frame(dataset: pydicom.FileDataset, content: bytes) -> pydicom.Dataset:
    single = pydicom.Dataset()
    single.file_meta = pydicom.dataset.FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    single.file_meta.MediaStorageSOPClassUID = single.SOPClassUID = CTImageStorage
    single.file_meta.MediaStorageSOPInstanceUID = single.SOPInstanceUID = dataset.SOPInstanceUID
    for tag in _OF_A_FRAME:
        single[tag] = dataset[tag]
    single.PixelData = encapsulate([content])
    single["PixelData"].VR = "OB"  # as the standard wants of encapsulated pixels (PS3.5, A.4)
    single.RescaleSlope, single.RescaleIntercept = 1, 0
    return single
