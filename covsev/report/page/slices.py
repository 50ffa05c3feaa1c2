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

from covsev.labels import LESIONS, LOBES, LUNGS, Label
from covsev.report.views import lung_grey, move_to_worst
from covsev.scan import Scan, canonical_spacing_mm, to_canonical
from covsev.scan.boxes import Box, bounding_box, box_or_whole, margin_voxels

AXIAL, CORONAL = "axial", "coronal"
_SLICES = {AXIAL: 40, CORONAL: 24}
"""Most pictures of a plane. With :data:`_LONG_SIDE_PX` and :data:`_QUALITY` they make the size of the page."""
_LONG_SIDE_PX = 420
"""Most pixels along the longer side of a picture."""
_MARGIN_MM = 18.0
"""Tissue that is shown around the lungs."""
_QUALITY = 62
"""WebP's quality, 0 to 100. The outlines are no part of the picture, so they stay sharp."""


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
    """One slice, ready for a page. The patient's right is at the left; the front, or the head, is at the top.

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
    """Canonical arrays, cut to a box around the lungs.

    Attributes:
        hu, lungs, lobes, lesions: the cut arrays.
        spacing_mm: along their axes.
        box: where they lie in the whole scan.
        full: shape of the whole scan, for "slice 12 of 300".
    """

    hu: NDArray[Any]
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    box: Box
    full: tuple[int, ...]


def picture_slices(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> dict[str, list[SlicePicture]]:
    """Pictures of each plane: evenly spread slices through the lungs, the one with most lesion among them.

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
    # A scan without lungs is shown whole: its page must say what is wrong with it, too.
    box = box_or_whole(maps[0], margin_voxels(_MARGIN_MM, spacing_mm, rounding=round))
    cut = [array[box] for array in (hu, *maps)]
    return _Volume(cut[0], cut[1], cut[2], cut[3], spacing_mm, box, hu.shape)


def _plane(volume: _Volume, plane: str) -> list[SlicePicture]:
    axis = {AXIAL: 2, CORONAL: 1}[plane]
    levels = _levels(volume.lungs, volume.lesions, axis, _SLICES[plane])
    return [_picture(volume, plane, axis, level) for level in levels]


def _levels(lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], axis: int, count: int) -> list[int]:
    with_lung = box_or_whole(lungs)[axis]
    # Lungs of fewer slices than wanted show each slice once.
    number = min(count, with_lung.stop - with_lung.start)
    spread = np.linspace(with_lung.start, with_lung.stop - 1, number)
    levels = np.unique(spread.round().astype(int))
    move_to_worst(levels, lesions, axis)
    return [int(level) for level in levels]


def _picture(volume: _Volume, plane: str, axis: int, level: int) -> SlicePicture:
    at = (slice(None),) * axis + (level,)
    arrays = [array[at] for array in (volume.hu, volume.lungs, volume.lobes, volume.lesions)]
    if plane == CORONAL:  # the head at the top
        arrays = [array[:, ::-1] for array in arrays]
    spacing_mm = [side for a, side in enumerate(volume.spacing_mm) if a != axis]
    hu, lungs, lobes, lesions = arrays
    width, height = _size_px(hu.shape, spacing_mm)
    # As the overlay counts: from 1, in the whole scan and not in the box.
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
        lesion_cm2=_area_cm2(lesions, spacing_mm),
        lesion_pct=_lesion_pct(lungs, lesions),
    )


def _area_cm2(mask: NDArray[np.uint8], spacing_mm: Sequence[float]) -> float:
    column_mm, row_mm = spacing_mm
    return float(np.count_nonzero(mask)) * column_mm * row_mm / 100  # 100 mm2 in a cm2


def _lesion_pct(lungs: NDArray[np.uint8], lesions: NDArray[np.uint8]) -> float | None:
    """Lesion in percent of the slice's lung, counted in the lung alone, so that it never passes 100."""
    inside = lungs > 0
    lung_voxels = np.count_nonzero(inside)
    if not lung_voxels:
        return None
    return 100 * np.count_nonzero(lesions[inside]) / lung_voxels


def _size_px(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, int]:
    """Width and height of a picture with square pixels, the longer side at most :data:`_LONG_SIDE_PX`."""
    sizes_mm = [voxels * side_mm for voxels, side_mm in zip(shape, spacing_mm, strict=True)]
    # A coarse scan is enlarged to two pixels a voxel at most: more would add bytes but no detail.
    scale = min(_LONG_SIDE_PX / max(sizes_mm), 2 / min(spacing_mm))
    width, height = (max(1, round(size_mm * scale)) for size_mm in sizes_mm)
    return width, height


def _webp(hu: NDArray[Any], width: int, height: int) -> str:
    grey = lung_grey(hu).round().astype(np.uint8)
    image = Image.fromarray(grey.T).resize((width, height), Image.Resampling.BILINEAR)  # rows first
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=_QUALITY, method=2)
    # Inside the page, so that it stays whole when it is sent on.
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _resized(labels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """(height, width) labels, nearest neighbour: a mean of two labels would be a third one."""
    image = Image.fromarray(np.ascontiguousarray(labels.T))
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))


def _outlines(kind: str, known: Sequence[Label], found: NDArray[np.uint8]) -> list[Outline]:
    present = np.flatnonzero(np.bincount(found.ravel()))
    paths = [(label.name, _path(found == label.id)) for label in known if label.id in present]
    return [Outline(kind, name, path) for name, path in paths if path]


def _path(mask: NDArray[np.bool_]) -> str:
    """Closed curves around ``mask`` (rows, columns), as SVG path data in tenths of pixels."""
    box = bounding_box(mask)
    # With a border of zeros, curves close also where the mask reaches the edge of the picture.
    part = np.pad(mask[box], 1).astype(np.uint8)
    rows, columns = box
    offset = np.array([columns.start - 0.5, rows.start - 0.5])  # of the padding, and from pixel centres to edges
    curves = contour_generator(z=part, line_type=LineType.Separate).lines(0.5)
    # contourpy repeats the first point at the end; SVG's "z" closes a curve by itself.
    points = [curve[:-1] for curve in curves if isinstance(curve, np.ndarray)]
    return "".join(_closed(curve + offset) for curve in points)


def _closed(curve: NDArray[np.float64]) -> str:
    """One curve (points, column and row), as path data: the stairs of the pixels smoothed, every other point kept."""
    before, after = np.roll(curve, 1, axis=0), np.roll(curve, -1, axis=0)
    smooth = (before + curve + after) / 3
    # Whole tenths, and steps from point to point: both are shorter in the page than decimals and places.
    tenths = np.round(10 * smooth[::2]).astype(int)
    column, row = tenths[0]
    steps = " ".join(map(str, np.diff(tenths, axis=0).ravel().tolist()))
    return f"M{column} {row}l{steps}z"
