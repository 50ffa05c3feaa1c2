"""Morphology of masks by the ball of one voxel, and where along an axis a mask lies.

The ball of one voxel is the voxel and the 18 that share a face or an edge with it. It is the union of three squares,
so a dilation takes a few passes over the mask, many times fewer than filters for balls of any size take.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def dilated(mask: Mask) -> Mask:
    """``mask`` (3-D) grown by a ball of one voxel."""
    along_x, along_y = _along(mask, 0), _along(mask, 1)
    grown = _along(along_x, 1)
    grown |= _along(along_x | along_y, 2)
    return grown


def eroded(mask: Mask, *, outside: bool = True) -> Mask:
    """``mask`` shrunk by a ball of one voxel; ``outside`` says whether the mask goes on beyond the array."""
    if outside:
        return ~dilated(~mask)
    return ~dilated(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1, 1:-1]


def opened(mask: Mask) -> Mask:
    """``mask`` without what is thinner than a ball of one voxel."""
    return dilated(eroded(mask))


def holes_in_slices(mask: Mask) -> Mask:
    """Background that ``mask`` surrounds within its axial slice."""
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    parts, number = ndimage.label(~mask, structure=in_plane)
    hole = np.ones(number + 1, dtype=bool)
    hole[0] = False
    for rim in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        hole[rim] = False
    return hole[parts]  # type: ignore[no-any-return]


def counts_along_x(mask: Mask) -> NDArray[np.int64]:
    """Number of voxels of ``mask`` in every sagittal plane."""
    return np.count_nonzero(mask, axis=(1, 2))


def mean_x(mask: Mask) -> float:
    """Mean x of the voxels of ``mask``; nan if there is none."""
    counts = counts_along_x(mask)
    total = counts.sum()
    return float(counts @ np.arange(len(counts)) / total) if total else float("nan")


def median_of_counts(counts: NDArray[np.int64]) -> float:
    """Median position where ``counts`` voxels lie at every position."""
    return float(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def _along(mask: Mask, axis: int) -> Mask:
    """``mask`` grown by one voxel to both sides of an axis."""
    grown = mask.copy()
    before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
    after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    grown[after] |= mask[before]
    grown[before] |= mask[after]
    return grown
