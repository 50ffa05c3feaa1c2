"""Lobe labels of lungs that are divided at given fissures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.fissure_fit import Surfaces
from covsev.anatomy.lobes.fissure_model import FISSURES_OF, LEFT_OBLIQUE, RIGHT_HORIZONTAL, RIGHT_OBLIQUE
from covsev.labels import LEFT_LOWER, LEFT_LUNG, LEFT_UPPER, RIGHT_LOWER, RIGHT_MIDDLE, RIGHT_UPPER

Box = tuple[slice, slice, slice]
_Labels = NDArray[np.uint8]


def divide_lungs(sides: _Labels, spacing_mm: tuple[float, ...], surfaces: Surfaces) -> _Labels:
    """Lobe labels of lungs at given surfaces.

    Args:
        sides: (X, Y, Z) lung labels in canonical axes.
        spacing_mm: of the voxels.
        surfaces: of every lung that ``surfaces.frames`` names; other lungs get no lobes.
    """
    lobes = np.zeros_like(sides)
    lungs_box = bounding_box(sides > 0)
    for side in surfaces.frames:
        mask = sides[lungs_box] == side
        box = bounding_box(mask)
        starts = [outer.start + inner.start for outer, inner in zip(lungs_box, box, strict=True)]
        own = _lobes_of(side, mask[box].shape, starts, spacing_mm, surfaces)
        np.copyto(lobes[lungs_box][box], own, where=mask[box])
    return lobes


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Smallest box of an (X, Y, Z) mask; empty slices where it is empty."""
    box: list[slice] = [slice(None)] * 3
    for axis in (2, 1, 0):  # the part outside is looked at once
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask[tuple(box)].any(axis=others))
        box[axis] = slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
    return box[0], box[1], box[2]


def _lobes_of(
    side: int, shape: tuple[int, ...], starts: list[int], spacing_mm: tuple[float, ...], surfaces: Surfaces
) -> _Labels:
    """Lobe ids (X, Y, Z) of a box of ``shape`` at voxel ``starts``, as if it were all lung of one side."""
    x, y, z = (
        np.arange(start, start + count, dtype=np.float64) * mm
        for start, count, mm in zip(starts, shape, spacing_mm, strict=True)
    )
    heights = {name: surfaces.height_mm(name, x, y) for name in FISSURES_OF[side]}
    middle = int(np.searchsorted(y, surfaces.frames[side].centre_mm[1]))
    for oblique in heights.keys() & {LEFT_OBLIQUE, RIGHT_OBLIQUE}:
        heights[oblique] = falling_forward(heights[oblique], middle)
    below = {name: _below(height, z) for name, height in heights.items()}
    if side == LEFT_LUNG.id:
        return np.where(below[LEFT_OBLIQUE], np.uint8(LEFT_LOWER.id), np.uint8(LEFT_UPPER.id))
    lobes = np.where(below[RIGHT_HORIZONTAL], np.uint8(RIGHT_MIDDLE.id), np.uint8(RIGHT_UPPER.id))
    lobes[below[RIGHT_OBLIQUE]] = RIGHT_LOWER.id
    return lobes


def falling_forward(height_mm: NDArray[np.float64], middle: int) -> NDArray[np.float64]:
    """The height (X, Y) of an oblique fissure that does not rise again from column ``middle`` forward (to lower Y).

    A fit to few sheets may rise there, and would put a wedge of lower lobe before the others.
    """
    tamed = height_mm.copy()
    forward = tamed[:, middle::-1]
    np.minimum.accumulate(forward, axis=1, out=forward)
    return tamed


def _below(height_mm: NDArray[np.float64], z_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which voxels (X, Y, Z) at ``z_mm`` (Z,) lie below ``height_mm`` (X, Y); compared as small integers."""
    count = np.searchsorted(z_mm, height_mm).astype(np.int16)
    return np.asarray(np.arange(len(z_mm), dtype=np.int16) < count[:, :, None])
