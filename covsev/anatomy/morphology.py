"""Morphology of masks with balls of one voxel and with boxes, and where along an axis a mask lies.

The ball of one voxel is the voxel and the 18 that share a face or an edge with it. It is the union of three squares,
one in each plane of the axes. So a dilation takes a few passes over the mask. General filters, for balls of any size,
take many times more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
_T = TypeVar("_T", bound=np.generic)


def dilated(mask: Mask) -> Mask:
    """``mask`` (3-D) grown by a ball of one voxel."""
    along_x, along_y = _along(mask, 0), _along(mask, 1)
    # A square is grown along one of its axes, then along the other. The squares x-z and y-z share the pass along z.
    grown = _along(along_x, 1)
    grown |= _along(along_x | along_y, 2)
    return grown


def eroded(mask: Mask, *, outside: bool = True) -> Mask:
    """``mask`` shrunk by a ball of one voxel; ``outside`` says whether the mask goes on beyond the array."""
    if outside:
        return ~dilated(~mask)
    # A rim of background around the array, which grows into the mask as the background inside does.
    background = np.pad(~mask, 1, constant_values=True)
    inner = slice(1, -1)
    return ~dilated(background)[inner, inner, inner]


def box_maximum(values: NDArray[_T], reach: Sequence[int]) -> NDArray[_T]:
    """Largest of ``values`` within ``reach`` voxels, one number an axis; of a mask, its dilation by a box.

    >>> box_maximum(np.array([[0, 0, 0, 3], [0, 1, 0, 0]]), (1, 2)).tolist()
    [[1, 3, 3, 3], [1, 3, 3, 3]]
    """
    # Axis by axis: the maximum of maxima is that of the whole box. SciPy's filter gives the same, but takes 0.3 s to
    # import.
    for axis, voxels in enumerate(reach):
        values = _along(values, axis, voxels)
    return values


def opened(mask: Mask) -> Mask:
    """``mask`` without what is thinner than a ball of one voxel."""
    return dilated(eroded(mask))


def holes_in_slices(mask: Mask) -> Mask:
    """Background that ``mask`` surrounds within its axial slice."""
    from scipy import ndimage  # here, since it takes a moment to import and the rest of the module does without

    # Voxels that touch in x or y, never in z: one call labels all slices, and parts stay within their slice.
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    parts, number = ndimage.label(~mask, structure=in_plane)
    hole = np.ones(number + 1, dtype=bool)
    hole[0] = False  # number 0 is the mask itself
    # Background that reaches the rim of its slice is not surrounded.
    hole[parts[[0, -1]]] = False
    hole[parts[:, [0, -1]]] = False
    return hole[parts]  # type: ignore[no-any-return]


def counts_along_x(mask: Mask) -> NDArray[np.int64]:
    """Number of voxels of ``mask`` in every sagittal plane."""
    return np.count_nonzero(mask, axis=(1, 2))


def mean_x(mask: Mask) -> float:
    """Mean x of the voxels of ``mask``; nan if there is none."""
    counts = counts_along_x(mask)
    total = counts.sum()
    if not total:
        return float("nan")
    return float(counts @ np.arange(len(counts)) / total)


def median_of_counts(counts: NDArray[np.int64]) -> float:
    """Median position of voxels, of which ``counts`` lie at each position."""
    # The first position up to which at least half of them lie; no list of all positions is made.
    return float(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def _along(values: NDArray[_T], axis: int, reach: int = 1) -> NDArray[_T]:
    """Largest of ``values`` within ``reach`` voxels to both sides along an axis."""
    result = values.copy()
    # Views with the axis in front, so that a shift is a slice whatever the axis.
    line, grown = np.moveaxis(values, axis, 0), np.moveaxis(result, axis, 0)
    for step in range(1, reach + 1):
        # At the array's ends the shifted slices are shorter: nothing comes in from outside.
        after, before = grown[step:], grown[:-step]
        np.maximum(after, line[:-step], out=after)
        np.maximum(before, line[step:], out=before)
    return result
