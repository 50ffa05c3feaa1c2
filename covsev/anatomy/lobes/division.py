"""Cut lungs into lobes at given fissures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.fissure_fit import Surfaces
from covsev.anatomy.lobes.fissure_model import FISSURES_OF, LEFT_OBLIQUE, RIGHT_HORIZONTAL, RIGHT_OBLIQUE
from covsev.labels import LEFT_LOWER, LEFT_LUNG, LEFT_UPPER, RIGHT_LOWER, RIGHT_MIDDLE, RIGHT_UPPER
from covsev.scan.boxes import bounding_box

_Labels = NDArray[np.uint8]


def divide_lungs(sides: _Labels, spacing_mm: tuple[float, ...], surfaces: Surfaces) -> _Labels:
    """Cut lungs into lobes at given surfaces.

    Args:
        sides: (X, Y, Z) lung labels in canonical axes.
        spacing_mm: of the voxels.
        surfaces: of every lung that ``surfaces.frames`` names. Other lungs get no lobes.

    Returns:
        (X, Y, Z) uint8, ids of :data:`covsev.labels.LOBES`, 0 outside.
    """
    lobes = np.zeros_like(sides)
    # Boxes twice: the mask of a lung is made within the box of both, and its heights within its own.
    lungs_box = bounding_box(sides > 0)
    for side in surfaces.frames:
        mask = sides[lungs_box] == side
        box = bounding_box(mask)
        starts = [outer.start + inner.start for outer, inner in zip(lungs_box, box, strict=True)]
        own = _lobes_of(side, mask[box].shape, starts, spacing_mm, surfaces)
        np.copyto(lobes[lungs_box][box], own, where=mask[box])
    return lobes


def _lobes_of(
    side: int, shape: tuple[int, ...], starts: list[int], spacing_mm: tuple[float, ...], surfaces: Surfaces
) -> _Labels:
    """Lobe ids (X, Y, Z) of a box of ``shape`` at voxel ``starts``, as if it were all lung of one side."""
    x, y, z = (
        np.arange(start, start + count, dtype=np.float64) * mm
        for start, count, mm in zip(starts, shape, spacing_mm, strict=True)
    )
    heights = {name: surfaces.height_mm(name, x, y) for name in FISSURES_OF[side]}
    # From the middle of the lung forward an oblique fissure only falls; behind, it may do what it likes.
    middle = int(np.searchsorted(y, surfaces.frames[side].centre_mm[1]))
    for oblique in heights.keys() & {LEFT_OBLIQUE, RIGHT_OBLIQUE}:
        heights[oblique] = falling_forward(heights[oblique], middle)
    below = {name: _below(height, z) for name, height in heights.items()}
    if side == LEFT_LUNG.id:
        return np.where(below[LEFT_OBLIQUE], np.uint8(LEFT_LOWER.id), np.uint8(LEFT_UPPER.id))
    # The horizontal fissure ends at the oblique one, so the lower lobe takes all below that, whatever lies above.
    lobes = np.where(below[RIGHT_HORIZONTAL], np.uint8(RIGHT_MIDDLE.id), np.uint8(RIGHT_UPPER.id))
    lobes[below[RIGHT_OBLIQUE]] = RIGHT_LOWER.id
    return lobes


def falling_forward(height_mm: NDArray[np.float64], middle: int) -> NDArray[np.float64]:
    """The height (X, Y) of an oblique fissure that never rises from column ``middle`` forward, to lower Y.

    A fit to few sheets may rise there. A wedge of lower lobe would then lie before the other lobes.
    """
    # Where it would rise it stays as low as it was. The view runs forward, so that the minimum does, too.
    tamed = height_mm.copy()
    forward = tamed[:, middle::-1]
    np.minimum.accumulate(forward, axis=1, out=forward)
    return tamed


def _below(height_mm: NDArray[np.float64], z_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which voxels (X, Y, Z) at ``z_mm`` (Z,) lie below ``height_mm`` (X, Y)."""
    # How many voxels lie below is counted once a column. The volume is then compared as small integers, not as floats.
    count = np.searchsorted(z_mm, height_mm).astype(np.int16)
    return np.asarray(np.arange(len(z_mm), dtype=np.int16) < count[:, :, None])
