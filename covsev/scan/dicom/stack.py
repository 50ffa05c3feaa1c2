"""Slices as one grid: their order, the checks that they form one, and its affine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covsev.errors import ScanError
from covsev.scan.dicom.frames import Frame, Header
from covsev.scan.volume import LPS_TO_RAS

_GAP_TOLERANCE = 0.1
"""Share of the slice distance by which one distance may differ from the others. A missing slice doubles it."""
_SAME_PLACE_MM = 1e-3
"""Slices nearer than this lie at one position: positions in headers are rounded."""
_LINE_TOLERANCE_MM = 1.0
"""By which a slice may lie beside the line through the first and the last one."""
_MAX_TILT_DEG = 31.0
"""Gantries tilt by 30 degrees and no further."""


def affine_of(ordered: Sequence[Header]) -> NDArray[np.float64]:
    """RAS+ affine of the stack (DICOM PS3.3 C.7.6.2.1.1). The axes of a tilted stack are not at right angles."""
    first, last = (np.array(header.ImagePositionPatient, dtype=float) for header in (ordered[0], ordered[-1]))
    row, column = np.array(ordered[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    # PixelSpacing has the distance between rows first, which is the step along a column.
    between_rows_mm, between_columns_mm = (float(value) for value in ordered[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns_mm, column * between_rows_mm
    # The step from slice to slice comes from positions: SliceThickness says how thick a slice is, not how far apart.
    step_mm = (last - first) / (len(ordered) - 1)
    affine[:3, 2], affine[:3, 3] = step_mm, first
    return LPS_TO_RAS @ affine


def in_order(slices: Mapping[Frame, Header], folder: Path) -> list[Frame]:
    """Slices along the stack's normal, after checking that they form one regular grid.

    A tilted gantry gives a sheared grid. The places and volumes of its voxels are exact, too.

    Raises:
        ScanError: naming ``folder`` and what is wrong.
    """
    sizes = {(int(h.Rows), int(h.Columns)) for h in slices.values()}
    orientations = {_rounded_orientation(h) for h in slices.values()}
    if len(sizes) > 1 or len(orientations) > 1:
        raise ScanError(f"{folder}: slices of one series differ in size or orientation", code="mixed_series")
    first = next(iter(slices.values()))
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    positions = {frame: np.array(h.ImagePositionPatient, dtype=float) for frame, h in slices.items()}
    if not np.isfinite([*positions.values(), normal]).all():
        raise ScanError(f"{folder}: slice positions are not numbers; export the series again", code="broken_geometry")
    # By position, since names and numbers of files need not follow it.
    ordered = sorted(slices, key=lambda frame: float(positions[frame] @ normal))
    stack = np.array([positions[frame] for frame in ordered])
    _require_regular(stack @ normal, folder)
    _require_straight(stack, normal, folder)
    return ordered


def _rounded_orientation(header: Header) -> tuple[float, ...]:
    """Cosines to three digits, so that rounding in the headers makes no other orientation."""
    return tuple(round(float(value), 3) for value in header.ImageOrientationPatient)


def _require_regular(heights: NDArray[np.float64], folder: Path) -> None:
    gaps = np.diff(heights)
    typical = float(np.median(gaps))  # the usual one, also where some slices are missing
    if (gaps < _SAME_PLACE_MM).any():
        raise ScanError(
            f"{folder}: two slices lie at one position; the series is doubled or mixed", code="duplicate_slices"
        )
    uneven = np.abs(gaps - typical) > _GAP_TOLERANCE * typical
    if uneven.any():
        largest = float(gaps.max())
        raise ScanError(
            f"{folder}: slices are missing; one gap is {largest:.2f} mm where {typical:.2f} is usual",
            code="missing_slices",
        )


def _require_straight(stack: NDArray[np.float64], normal: NDArray[np.float64], folder: Path) -> None:
    offsets = stack - stack[0]
    along = offsets @ normal
    shift = stack[-1] - stack[0]
    # Where each slice would lie on the straight line from the first to the last one, at its own height.
    on_line = np.outer(along / along[-1], shift)
    beside_mm = float(np.linalg.norm(offsets - on_line, axis=1).max())
    if beside_mm > _LINE_TOLERANCE_MM:
        raise ScanError(
            f"{folder}: a slice lies {beside_mm:.1f} mm beside the line of the others; the series is mixed",
            code="mixed_series",
        )
    cosine = min(1.0, along[-1] / np.linalg.norm(shift))  # rounding may lead beyond 1, where there is no angle
    tilt_deg = float(np.degrees(np.arccos(cosine)))
    if tilt_deg > _MAX_TILT_DEG:
        raise ScanError(
            f"{folder}: the slices are tilted by {tilt_deg:.0f} deg, more than a gantry can; resample the series first",
            code="tilted",
        )
