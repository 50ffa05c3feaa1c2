"""The way back from the coarse grid to the scan's own: its own voxels decide where aerated lung ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.morphology import Mask, dilated, eroded
from covsev.labels import LEFT_LUNG, LUNG_TISSUE_HU, RIGHT_LUNG

_SIDE = 3  # bits of a coarse voxel: which lung it belongs to, or is beside
_CERTAIN = 4  # lung throughout, whatever the density: the inside of the coarse lung
_MISSED = 8  # lung that a threshold alone misses
_DENSE = 16  # in or beside dense lung, where density says nothing of the border


def refine(
    hu: NDArray[Any],
    lungs: NDArray[np.uint8],
    *,
    aerated: Mask,
    airways: Mask,
    factors: tuple[int, int, int],
    box: tuple[slice, ...],
    certain: Mask | None = None,
    dense: Mask | None = None,
    excluded: Mask | None = None,
    says_lung: Callable[[int], Mask] | None = None,
    border_hu: float = LUNG_TISSUE_HU,
) -> tuple[NDArray[np.uint8], Mask]:
    """Labels and recovered lung on the scan's own grid, from masks that cover ``box`` of the coarse grid.

    Inside the coarse lung all voxels are lung. In its border, one coarse voxel to each side, a voxel is lung if it is
    aerated; beside dense lung, whose density is that of the chest wall, if the network says so.

    Args:
        hu: (X, Y, Z), canonical axes.
        lungs: coarse labels, 1 right and 2 left.
        aerated: coarse lung as a threshold alone finds it.
        airways: coarse airways, which are not lung.
        factors: scan voxels a coarse voxel, along each axis.
        box: what of the coarse grid the masks cover.
        certain: coarse voxels that are lung throughout though they lie in the border.
        dense: coarse dense lung, whose border the network draws.
        excluded: coarse voxels, such as fluid, into which no border grows.
        says_lung: (X, Y) what the network calls lung in one slice; needed with ``dense``.
        border_hu: a voxel of the border below this is aerated.

    Returns:
        (X, Y, Z) uint8 labels; (X, Y, Z) bool what of them a threshold alone would have dropped.
    """
    codes = _codes(lungs, aerated)
    for bit, mask in ((_CERTAIN, certain), (_DENSE, None if dense is None else dilated(dense))):
        if mask is not None:
            codes |= mask.astype(np.uint8) * np.uint8(bit)
    codes[airways if excluded is None else airways | excluded] = 0
    stretches = [_fine(*axis) for axis in zip(box, factors, hu.shape, codes.shape, strict=True)]
    (x, in_x), (y, in_y), (z, in_z) = stretches
    found, recovered = np.zeros_like(hu, dtype=np.uint8), np.zeros_like(hu, dtype=bool)
    for level, coarse_level in zip(range(z.start, z.stop), in_z, strict=True):
        code = codes[:, :, coarse_level][in_x][:, in_y]
        holds_air = hu[x, y, level] < border_hu
        inside = holds_air | (code & _CERTAIN > 0)
        at_dense = code & _DENSE > 0
        if says_lung is not None and at_dense.any():
            inside |= at_dense & says_lung(level)[x, y]
        lung = np.where(inside, code & _SIDE, 0)
        found[x, y, level] = lung
        missed = ~holds_air & (code & _MISSED > 0)
        recovered[x, y, level] = missed & (lung > 0)
    return found, recovered


def _codes(lungs: NDArray[np.uint8], aerated: Mask) -> NDArray[np.uint8]:
    """Side, certainty and whether a threshold misses it, of every coarse voxel."""
    present = lungs > 0
    codes = np.where(present, lungs, _grown(lungs))  # where the lungs touch, neither grows
    codes |= eroded(present, outside=False).astype(np.uint8) * np.uint8(_CERTAIN)
    codes |= (present & ~aerated).astype(np.uint8) * np.uint8(_MISSED)
    return codes


def _grown(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of both lungs grown by a ball of one voxel. Where both dilations overlap, the left label wins."""
    left, right = (dilated(labels == lung.id) for lung in (LEFT_LUNG, RIGHT_LUNG))
    return np.where(left, LEFT_LUNG.id, right).astype(np.uint8)


def _fine(part: slice, factor: int, length: int, coarse_length: int) -> tuple[slice, NDArray[np.int64]]:
    """The stretch of an axis of the scan that a stretch of the coarse grid covers, and its indices into the latter.

    The last coarse voxel of the grid also covers what was left over when the axis was shrunk.
    """
    last = part.stop == length // factor
    stretch = slice(part.start * factor, length if last else part.stop * factor)
    index = np.arange(stretch.start, stretch.stop) // factor - part.start
    return stretch, np.minimum(index, coarse_length - 1)
