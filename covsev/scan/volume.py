"""A chest CT volume in memory: checks, geometry, orientation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev.errors import GridMismatchError, ScanError
from covsev.labels import PADDING_HU

CANONICAL_AXES = ("L", "P", "S")
"""Array axes on which every stage works: x grows to the patient's left, y to the back, z to the head."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns an affine of DICOM's and ITK's world (left, back, head) into one of NIfTI's (right, front, head)."""

GRID_TOLERANCE_MM = 1e-3
"""By how much a number of the affine may differ between two volumes of one grid.

Headers hold 32-bit numbers: a place of some hundred millimetres is rounded by about 1e-5 mm, and by more where the
directions are stored as a quaternion. A thousandth of a millimetre is above that, and far below a voxel.
"""
PUBLIC_GRID_TOLERANCE_MM = 1e-2
"""The same for the masks of public data sets, from which networks learn: many programs have written their headers.

A number that was rounded to hundredths of a millimetre still passes.
"""
_MIN_SIDE_VOXELS = 16
_MIN_SLICES = 3
"""Least length of the shortest axis, along which the slices are stacked. The other two need _MIN_SIDE_VOXELS."""
_MAX_VOXELS = 2**31
"""Eight times a long chest CT of 512 x 512 x 1000 voxels."""
_SPACING_MM = (0.05, 50.0)
"""No scanner makes smaller or larger voxels: the header's numbers or their unit are wrong."""
_MAX_SIDE_MM = 2500.0
"""Longer than a person. A scan of the whole body passes."""
_MIN_SQUARENESS = 0.5
"""Least volume that the axes' unit vectors may span: 1 at right angles, 0.87 at a gantry tilt of 30 degrees."""
_FLAT_MM3 = 1e-9
"""A voxel of less volume has no extent along some direction: nothing can be measured with it."""
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Scan:
    """A chest CT volume.

    Attributes:
        hu: (X, Y, Z) int16 or float32 in Hounsfield units.
        affine: (4, 4) voxel index to world, RAS+ mm.
        case: name of the scan, unique in a batch, safe as a file name.
        source: where it was read from.
        header: NIfTI header of the source, whose spatial codes the label maps keep; ``None`` for other formats.
        series_uid: which DICOM series in ``source`` it is; ``None`` for other formats.
    """

    hu: NDArray[Any]
    affine: NDArray[np.float64]
    case: str
    source: Path
    header: Any = field(default=None, repr=False)
    series_uid: str | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along the array axes."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, the determinant of the affine, in millilitres."""
        volume_mm3 = abs(np.linalg.det(self.affine[:3, :3]))  # exact for sheared grids, as no product of sides is
        return float(volume_mm3) / 1000

    @property
    def tilt_deg(self) -> float:
        """Largest difference from a right angle between two array axes: above 0 where a gantry was tilted."""
        directions = self.affine[:3, :3] / self.spacing_mm
        cosines = np.abs(directions.T @ directions - np.eye(3))
        largest = min(1.0, cosines.max())  # rounding may lead beyond 1, where there is no angle
        return float(np.degrees(np.arcsin(largest)))

    @property
    def orientation(self) -> str:
        """Direction in which each array axis grows, such as ``LPS``."""
        return "".join(nib.aff2axcodes(self.affine))


def make_scan(
    hu: NDArray[Any],
    affine: NDArray[Any],
    *,
    case: str,
    source: Path | str = "memory",
    header: Any = None,
    series_uid: str | None = None,
) -> Scan:
    """A checked :class:`Scan` from an array.

    Args:
        hu: (X, Y, Z) values in Hounsfield units. A trailing axis of one is dropped, NaN becomes padding.
        affine: (4, 4) voxel index to world, RAS+ mm.
        case: name of the scan.
        source: where it came from, for messages.
        header: NIfTI header whose spatial codes label maps should keep.
        series_uid: which DICOM series in ``source`` it is.

    Raises:
        ScanError: if ``hu`` is not a volume of real numbers, ``affine`` is not that of a chest scan, or ``case`` is
            a path.
    """
    hu = without_trailing_axes(np.asanyarray(hu))
    require_volume(hu.shape, hu.dtype, source)
    # The comparison alone would let "" and ".." pass, which pathlib takes for names.
    if Path(case).name != case or case in ("", ".."):
        raise ScanError(f"{source}: case name {case!r} must not be a path; it becomes part of file names")
    affine = np.asarray(affine, dtype=np.float64)
    _require_geometry(affine, hu.shape, source)
    return Scan(_as_hu(hu, source), affine, case, Path(source), header, series_uid)


def without_trailing_axes(array: NDArray[_T]) -> NDArray[_T]:
    """View of ``array`` without the axes of length 1 that follow its third axis.

    >>> without_trailing_axes(np.zeros((40, 30, 1, 1))).shape
    (40, 30, 1)
    """
    surplus = array.ndim - len(_trimmed(array.shape))
    for _ in range(surplus):
        array = array[..., 0]
    return array


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` without the ones that follow its third number. Some programs write a time axis of length 1."""
    axes = len(shape)
    while axes > 3 and shape[axes - 1] == 1:
        axes -= 1
    return shape[:axes]


def require_volume(shape: tuple[int, ...], dtype: np.dtype[Any], source: Path | str) -> None:
    """Check that voxels of ``shape`` and ``dtype`` can be a chest CT. Readers call it before they take memory.

    Raises:
        ScanError: naming ``source`` and what is wrong.
    """
    # Colours of NIfTI are types of several named numbers; complex numbers are another kind.
    if dtype.names or dtype.kind not in "iufb":
        raise ScanError(
            f"{source}: voxels are {dtype}, not single numbers; convert colour images to HU first", code="not_a_volume"
        )
    shape = _trimmed(shape)
    if len(shape) != 3:
        raise ScanError(f"{source}: expected a 3-D volume, got shape {shape}", code="not_a_volume")
    shortest, middle, _ = sorted(shape)  # slices may be stacked along any axis of the array
    if shortest < _MIN_SLICES or middle < _MIN_SIDE_VOXELS:
        raise ScanError(f"{source}: shape {shape} is too small for a chest scan", code="not_a_volume")
    if math.prod(shape) > _MAX_VOXELS:  # Python's integers: numpy's would overflow on a false header
        raise ScanError(
            f"{source}: shape {shape} is larger than 2^31 voxels; crop or resample it first", code="too_large"
        )


def _require_geometry(affine: NDArray[np.float64], shape: tuple[int, ...], source: Path | str) -> None:
    if _is_singular(affine):
        raise ScanError(
            f"{source}: the affine cannot be inverted; repair the header's geometry", code="broken_geometry"
        )
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _SPACING_MM
    no_scanner_makes_it = spacing_mm.min() < low or spacing_mm.max() > high
    if no_scanner_makes_it or (spacing_mm * shape).max() > _MAX_SIDE_MM:
        sides = " x ".join(f"{side:.4g}" for side in spacing_mm)
        raise ScanError(
            f"{source}: voxels of {sides} mm in shape {shape} are no chest scan's; repair the header's geometry",
            code="broken_geometry",
        )
    squareness = abs(np.linalg.det(affine[:3, :3] / spacing_mm))
    if squareness < _MIN_SQUARENESS:
        raise ScanError(
            f"{source}: the grid's axes are far from right angles; resample it to a straight grid first",
            code="broken_geometry",
        )


def _is_singular(affine: NDArray[np.float64]) -> bool:
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return True
    volume_mm3 = abs(np.linalg.det(affine[:3, :3]))
    return bool(volume_mm3 < _FLAT_MM3)


def _as_hu(hu: NDArray[Any], source: Path | str) -> NDArray[Any]:
    """int16 where the values are whole numbers in its range, else float32. Nothing is copied without need."""
    if hu.dtype == np.int16:
        return hu
    if hu.dtype.kind == "f":
        finite = np.isfinite(hu)
        if not finite.any():
            raise ScanError(f"{source}: no voxel has a finite value", code="no_values")
        hu = hu if finite.all() else np.where(finite, hu, PADDING_HU)
    info = np.iinfo(np.int16)
    # Only what fits is cast: numbers outside of int16 would wrap around, and could pass for others.
    if hu.min() >= info.min and hu.max() <= info.max:
        whole = hu.astype(np.int16)
        # Integers that fit lose nothing. Only floats need the comparison.
        if hu.dtype.kind != "f" or np.array_equal(whole, hu):
            return whole
    return hu.astype(np.float32)


def to_canonical(array: NDArray[_T], affine: NDArray[np.float64]) -> NDArray[_T]:
    """View of ``array`` with its axes permuted and flipped to :data:`CANONICAL_AXES`; nothing is resampled."""
    start = nib.io_orientation(affine)
    end = nib.orientations.axcodes2ornt(CANONICAL_AXES)
    return nib.apply_orientation(array, nib.orientations.ornt_transform(start, end))  # type: ignore[no-any-return]


def from_canonical(array: NDArray[_T], affine: NDArray[np.float64]) -> NDArray[_T]:
    """Inverse of :func:`to_canonical` for the same ``affine``."""
    start = nib.orientations.axcodes2ornt(CANONICAL_AXES)
    end = nib.io_orientation(affine)
    return nib.apply_orientation(array, nib.orientations.ornt_transform(start, end))  # type: ignore[no-any-return]


def canonical_spacing_mm(scan: Scan) -> tuple[float, float, float]:
    """Spacing along the axes of :func:`to_canonical`."""
    # Row i tells to which world axis array axis i belongs; sorted by it, array axes stand in the world's order.
    order = np.argsort(nib.io_orientation(scan.affine)[:, 0])
    x, y, z = np.array(scan.spacing_mm)[order]
    return float(x), float(y), float(z)


def require_same_grid(scan: Scan, shape: Iterable[int], affine: NDArray[np.float64], *, name: str) -> None:
    """Check that a volume called ``name`` lies on ``scan``'s grid.

    Raises:
        GridMismatchError: saying what differs.
    """
    if tuple(shape) != scan.hu.shape:
        raise GridMismatchError(f"{name} has shape {tuple(shape)}, but scan {scan.case} has {scan.hu.shape}")
    differences = np.abs(np.asarray(affine) - scan.affine)
    difference = float(differences.max())
    if difference > GRID_TOLERANCE_MM:
        raise GridMismatchError(f"{name} has another affine than scan {scan.case}: up to {difference:.4g} apart")
