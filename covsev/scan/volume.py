"""A chest CT volume in memory: checks, geometry, orientation."""

from __future__ import annotations

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
"""Array axes of every stage's inside: x grows to the patient's left, y to the back, z to the head."""

_GRID_TOLERANCE_MM = 1e-3
_MIN_SIDE_VOXELS = 16
_MIN_SLICES = 3
_MAX_VOXELS = 2**31
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
    """

    hu: NDArray[Any]
    affine: NDArray[np.float64]
    case: str
    source: Path
    header: Any = field(default=None, repr=False)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along the array axes."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, the determinant of the affine, in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def orientation(self) -> str:
        """Direction in which each array axis grows, such as ``LPS``."""
        return "".join(nib.aff2axcodes(self.affine))


def make_scan(
    hu: NDArray[Any], affine: NDArray[Any], *, case: str, source: Path | str = "memory", header: Any = None
) -> Scan:
    """A checked :class:`Scan` from an array.

    Args:
        hu: (X, Y, Z) values in Hounsfield units; a trailing axis of one is dropped, NaN becomes padding.
        affine: (4, 4) voxel index to world, RAS+ mm.
        case: name of the scan.
        source: where it came from, for messages.
        header: NIfTI header whose spatial codes label maps should keep.

    Raises:
        ScanError: if ``hu`` is not a volume of real numbers or ``affine`` cannot be inverted.
    """
    hu = np.asanyarray(hu)
    while hu.ndim > 3 and hu.shape[-1] == 1:
        hu = hu[..., 0]
    _require_volume(hu, source)
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(f"{source}: the affine cannot be inverted; repair the header's geometry")
    return Scan(_as_hu(hu, source), affine, case, Path(source), header)


def _require_volume(hu: NDArray[Any], source: Path | str) -> None:
    if hu.dtype.names or np.issubdtype(hu.dtype, np.complexfloating) or hu.dtype.kind not in "iufb":
        raise ScanError(f"{source}: voxels are {hu.dtype}, not single numbers; convert colour images to HU first")
    if hu.ndim != 3:
        raise ScanError(f"{source}: expected a 3-D volume, got shape {hu.shape}")
    if min(hu.shape) < _MIN_SLICES or sorted(hu.shape)[1] < _MIN_SIDE_VOXELS:
        raise ScanError(f"{source}: shape {hu.shape} is too small for a chest scan")
    if hu.size > _MAX_VOXELS:
        raise ScanError(f"{source}: shape {hu.shape} is larger than 2^31 voxels; crop or resample it first")


def _as_hu(hu: NDArray[Any], source: Path | str) -> NDArray[Any]:
    """int16 where the values are whole numbers in its range, else float32; never a copy without need."""
    if hu.dtype == np.int16:
        return hu
    if hu.dtype.kind == "f":
        finite = np.isfinite(hu)
        if not finite.any():
            raise ScanError(f"{source}: no voxel has a finite value")
        hu = hu if finite.all() else np.where(finite, hu, PADDING_HU)
    info = np.iinfo(np.int16)
    if hu.min() >= info.min and hu.max() <= info.max:
        whole = hu.astype(np.int16)
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
    difference = float(np.abs(np.asarray(affine) - scan.affine).max())
    if difference > _GRID_TOLERANCE_MM:
        raise GridMismatchError(f"{name} has another affine than scan {scan.case}: up to {difference:.4g} apart")
