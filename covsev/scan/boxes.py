"""Boxes around masks: where along the axes of an array something lies. numpy only.

A box is a tuple of slices, one an axis, which cuts an array. All functions take arrays of any number of axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]
"""One slice an axis. Those that are made here start and stop at whole numbers within the array."""


def occupied(mask: NDArray[Any], axis: int) -> NDArray[np.intp]:
    """Indices along ``axis``, in rising order, at which ``mask`` is not 0 everywhere.

    >>> occupied(np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0]]), axis=0).tolist()
    [1, 2]
    """
    others = tuple(other for other in range(mask.ndim) if other != axis)
    return np.flatnonzero(mask.any(axis=others))


def bounding_box(mask: NDArray[Any], margin: int | Sequence[int] = 0) -> Box:
    """Smallest box that holds all of ``mask`` that is not 0, and a margin around it.

    Args:
        mask: any array.
        margin: voxels on both sides, one number or one an axis. The box never reaches beyond the array.

    Returns:
        the box. That of an empty mask is empty, ``slice(0, 0)`` along each axis, whatever the margin.

    >>> mask = np.zeros((9, 9), dtype=bool)
    >>> mask[4, 1:3] = True
    >>> bounding_box(mask), bounding_box(mask, margin=2)
    ((slice(4, 5, None), slice(1, 3, None)), (slice(2, 7, None), slice(0, 5, None)))
    """
    box: list[slice] = [slice(None)] * mask.ndim
    # From the last axis to the first; each looks only at what the axes before it left, so the array is read about once.
    for axis in reversed(range(mask.ndim)):
        places = occupied(mask[tuple(box)], axis)
        if len(places) == 0:
            return (slice(0, 0),) * mask.ndim
        first, last = int(places[0]), int(places[-1])
        box[axis] = slice(first, last + 1)
    margins = [margin] * mask.ndim if isinstance(margin, int) else margin
    sides = zip(box, margins, mask.shape, strict=True)
    return tuple(_widened(side, voxels, length) for side, voxels, length in sides)


def box_or_whole(mask: NDArray[Any], margin: int | Sequence[int] = 0) -> Box:
    """:func:`bounding_box`, but of an empty mask the whole array: for pictures, which need something to show."""
    if mask.any():
        return bounding_box(mask, margin)
    return tuple(slice(0, length) for length in mask.shape)


def margin_voxels(
    margin_mm: float, spacing_mm: Sequence[float], rounding: Callable[[float], int] = math.ceil
) -> tuple[int, ...]:
    """A margin in voxels along each axis.

    Args:
        margin_mm: the margin.
        spacing_mm: size of the voxels, one an axis.
        rounding: from parts of a voxel to whole ones. Rounded up, the margin is at least ``margin_mm``.

    >>> margin_voxels(5.0, (1.0, 2.0, 3.0)), margin_voxels(5.0, (1.0, 2.0, 4.0), rounding=round)
    ((5, 3, 2), (5, 2, 1))
    """
    return tuple(rounding(margin_mm / side_mm) for side_mm in spacing_mm)


def _widened(side: slice, voxels: int, length: int) -> slice:
    """``side`` with a margin, clipped to an axis of ``length`` voxels."""
    # Clipped below, since a negative start would count from the axis' end.
    return slice(max(0, side.start - voxels), min(length, side.stop + voxels))
