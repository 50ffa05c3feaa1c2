"""Slices of a scan as pictures for a page: the CT as WebP, the outlines of lungs, lobes and lesions as SVG paths."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from PIL import Image

from covsev.labels import LESIONS, LOBES, LUNG_WINDOW_HU, LUNGS, Label
from covsev.scan import Scan, canonical_spacing_mm, to_canonical

AXIAL, CORONAL = "axial", "coronal"
_SLICES = {AXIAL: 40, CORONAL: 24}
_LONG_SIDE_PX = 420
_MARGIN_MM = 18.0
_QUALITY = 62


@dataclass(frozen=True)
class Outline:
    """The outline of one label in one slice.

    Attributes:
        kind: ``lung``, ``lobe`` or ``lesion``.
        name: of the label.
        path: SVG path data in tenths of the picture's pixels.
    """

    kind: str
    name: str
    path: str


@dataclass(frozen=True)
class SlicePicture:
    """One slice, ready for a page: the patient's right at the left; the front, or the head, at the top.

    Attributes:
        id: unique on the page.
        number, of: position counted from the feet (axial) or from the front (coronal), and how many there are.
        width_px, height_px: of the picture.
        image: data URI.
        outlines: of what lies in the slice.
        lesion_cm2: area of lesion.
        lesion_pct: lesion in percent of the slice's lung; ``None`` without lung.
    """

    id: str
    number: int
    of: int
    width_px: int
    height_px: int
    image: str
    outlines: tuple[Outline, ...]
    lesion_cm2: float
    lesion_pct: float | None


@dataclass(frozen=True, eq=False)
class _Volume:
    """Canonical arrays, cut to a box around the lungs; ``box`` says where it lies in the scan."""

    hu: NDArray[Any]
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    box: tuple[slice, slice, slice]
    full: tuple[int, ...]


def picture_slices(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> dict[str, list[SlicePicture]]:
    """Pictures of evenly spread slices through the lungs by plane; the slice with most lesion is among them.

    Args:
        scan: the scan.
        lungs, lobes, lesions: (X, Y, Z) labels on its grid.
    """
    volume = _cut_to_lungs(scan, lungs, lobes, lesions)
    return {plane: _plane(volume, plane) for plane in (AXIAL, CORONAL)}


def _cut_to_lungs(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> _Volume:
    hu, *maps = (to_canonical(array, scan.affine) for array in (scan.hu, lungs, lobes, lesions))
    spacing_mm = canonical_spacing_mm(scan)
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        levels = np.flatnonzero((maps[0] > 0).any(axis=others))
        first, last = (levels[0], levels[-1]) if levels.size else (0, hu.shape[axis] - 1)
        margin = round(_MARGIN_MM / spacing_mm[axis])
        box.append(slice(max(0, int(first) - margin), int(last) + margin + 1))
    x, y, z = box
    cut = [array[x, y, z] for array in (hu, *maps)]
    return _Volume(cut[0], cut[1], cut[2], cut[3], spacing_mm, (x, y, z), hu.shape)


def _plane(volume: _Volume, plane: str) -> list[SlicePicture]:
    axis = {AXIAL: 2, CORONAL: 1}[plane]
    levels = _levels(volume.lungs, volume.lesions, axis, _SLICES[plane])
    return [_picture(volume, plane, axis, level) for level in levels]


def _levels(lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], axis: int, count: int) -> list[int]:
    others = tuple(a for a in range(3) if a != axis)
    occupied = np.flatnonzero((lungs > 0).any(axis=others))
    first, last = (occupied[0], occupied[-1]) if occupied.size else (0, lungs.shape[axis] - 1)
    levels = np.unique(np.linspace(first, last, min(count, int(last - first) + 1)).round().astype(int))
    burden = np.count_nonzero(lesions, axis=others)
    if burden.any():
        levels[np.abs(levels - burden.argmax()).argmin()] = burden.argmax()
    return [int(level) for level in levels]


def _picture(volume: _Volume, plane: str, axis: int, level: int) -> SlicePicture:
    at = (slice(None),) * axis + (level,)
    arrays = [array[at] for array in (volume.hu, volume.lungs, volume.lobes, volume.lesions)]
    if plane == CORONAL:  # the head at the top
        arrays = [array[:, ::-1] for array in arrays]
    spacing_mm = [side for a, side in enumerate(volume.spacing_mm) if a != axis]
    width, height = _size_px(arrays[0].shape, spacing_mm)
    hu, lungs, lobes, lesions = arrays
    lung_voxels = np.count_nonzero(lungs)
    number = volume.box[axis].start + level + 1
    return SlicePicture(
        id=f"{plane}-{number}",
        number=number,
        of=volume.full[axis],
        width_px=width,
        height_px=height,
        image=_webp(hu, width, height),
        outlines=tuple(
            outline
            for kind, known, found in (("lung", LUNGS, lungs), ("lobe", LOBES, lobes), ("lesion", LESIONS, lesions))
            for outline in _outlines(kind, known, _resized(found, width, height))
        ),
        lesion_cm2=float(np.count_nonzero(lesions)) * spacing_mm[0] * spacing_mm[1] / 100,
        lesion_pct=100 * np.count_nonzero(lesions[lungs > 0]) / lung_voxels if lung_voxels else None,
    )


def _size_px(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, int]:
    """Size of square pixels, the long side at most :data:`_LONG_SIDE_PX`."""
    width_mm, height_mm = (n * side for n, side in zip(shape, spacing_mm, strict=True))
    scale = min(_LONG_SIDE_PX / max(width_mm, height_mm), 2 / min(spacing_mm))
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def _webp(hu: NDArray[Any], width: int, height: int) -> str:
    low, high = LUNG_WINDOW_HU
    grey = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8).T).resize((width, height), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _resized(labels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """(height, width) labels, nearest neighbour."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(labels.T)).resize((width, height), Image.Resampling.NEAREST))


def _outlines(kind: str, known: Sequence[Label], found: NDArray[np.uint8]) -> list[Outline]:
    present = np.flatnonzero(np.bincount(found.ravel()))
    return [
        Outline(kind, label.name, path) for label in known if label.id in present and (path := _path(found == label.id))
    ]


def _path(mask: NDArray[np.bool_]) -> str:
    """Closed curves around ``mask`` (rows, columns), as SVG path data in tenths of pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.uint8)
    offset = np.array([left - 0.5, top - 0.5])  # of the padding, and from pixel centres to edges
    curves = contour_generator(z=part, line_type=LineType.Separate).lines(0.5)
    return "".join(_closed(curve[:-1] + offset) for curve in curves if isinstance(curve, np.ndarray))


def _closed(curve: NDArray[np.float64]) -> str:
    """One curve (points, column and row): the stairs of the pixels smoothed, every other point kept."""
    smooth = (np.roll(curve, 1, axis=0) + curve + np.roll(curve, -1, axis=0)) / 3
    tenths = np.round(10 * smooth[::2]).astype(int)
    steps = np.diff(tenths, axis=0)
    return f"M{tenths[0, 0]} {tenths[0, 1]}l{' '.join(map(str, steps.ravel().tolist()))}z"
