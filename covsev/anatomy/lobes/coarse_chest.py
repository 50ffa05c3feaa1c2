"""The lungs on a grid of about 1.5 mm, on which fissures are sought.

A fissure is fainter than the noise of one voxel. The mean of a block of voxels holds less noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.morphology import Mask, box_maximum
from covsev.scan.boxes import Box, bounding_box

# Blocks are as large as fits into this. Voxels of 0.75 or 0.8 mm, common in chest CT, just fit twice. A sheet of 1 mm
# would fade in blocks much larger.
_SIDE_MM = 1.6
# The border of disease looks like a sheet. So nothing is sought in lesions, nor this near to them; at least one voxel
# is left out along each axis.
_LESION_MARGIN_MM = 3.0
# Blocks kept around the lungs, so that patches at the border see what lies beyond it.
_MARGIN_VOXELS = 2
_Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class CoarseGrid:
    """Blocks of voxels around the lungs.

    Attributes:
        box: of the scan's voxels, canonical axes; a whole number of blocks.
        block: (3,) number of voxels in a block along each axis.
        spacing_mm: (3,) size of the blocks.
        origin_mm: (3,) centre of the first block, measured from the centre of the scan's voxel (0, 0, 0).
    """

    box: Box
    block: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: NDArray[np.float64]

    @classmethod
    def around(cls, lungs_mask: Mask, spacing_mm: tuple[float, ...]) -> CoarseGrid:
        """Grid around the True voxels of ``lungs_mask`` (X, Y, Z), in a scan of voxels ``spacing_mm``."""
        block = tuple(max(1, int(_SIDE_MM // side)) for side in spacing_mm)  # thick voxels stay as they are
        around = zip(bounding_box(lungs_mask), block, lungs_mask.shape, strict=True)
        limits = [_whole_blocks(own, size, count) for own, size, count in around]
        first = [limit.start + (size - 1) / 2 for limit, size in zip(limits, block, strict=True)]
        coarse_mm = tuple(size * side for size, side in zip(block, spacing_mm, strict=True))
        x, y, z = limits
        return cls((x, y, z), block, coarse_mm, np.array(first) * spacing_mm)

    def middle(self, labels: _Labels) -> _Labels:
        """The label in the middle of each block; labels have no mean."""
        places = tuple(slice(size // 2, None, size) for size in self.block)
        return np.ascontiguousarray(labels[self.box][places])

    def mean(self, hu: NDArray[Any]) -> NDArray[np.float32]:
        """The mean of each block."""
        # Strided views are added up one after another, so that the box is never copied at full size. Sums of a few
        # whole HU are exact in float32.
        parts = list(self._parts(hu))
        total = parts[0].astype(np.float32, order="C")
        for part in parts[1:]:
            total += part
        return total / np.float32(len(parts))

    def any(self, labels: _Labels) -> Mask:
        """Whether anything of each block is not 0."""
        return reduce(np.logical_or, self._parts(labels)) != 0

    def _parts(self, volume: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The first voxels of all blocks, the second voxels, and so on."""
        for start in product(*(range(size) for size in self.block)):
            steps = (slice(first, None, size) for first, size in zip(start, self.block, strict=True))
            yield volume[self.box][tuple(steps)]


def _whole_blocks(own: slice, size: int, count: int) -> slice:
    """Whole blocks of ``size`` voxels that hold ``own`` and its margin, along an axis of ``count`` voxels."""
    margin = _MARGIN_VOXELS * size
    start = max(0, own.start - margin)
    wanted = min(count, own.stop + margin) - start
    blocks = -(-wanted // size)  # rounded up
    # Where the last block would reach beyond the scan, all move back; where there is no room for that, it is left out.
    start = max(0, min(start, count - blocks * size))
    room = (count - start) // size
    return slice(start, start + min(blocks, room) * size)


@dataclass(frozen=True, eq=False)
class CoarseChest:
    """What the search for fissures works on, all on one coarse grid.

    Attributes:
        hu: (X, Y, Z) HU.
        sides: (X, Y, Z) lung ids.
        searched: (X, Y, Z) lung ids, 0 in disease and near its border.
        spacing_mm: (3,) size of the voxels. Millimetres are measured from the centre of voxel (0, 0, 0).
    """

    hu: NDArray[np.float32]
    sides: _Labels
    searched: _Labels
    spacing_mm: tuple[float, ...]

    @classmethod
    def on(cls, grid: CoarseGrid, hu: NDArray[Any], sides: _Labels, lesions: _Labels | None) -> CoarseChest:
        """The chest on ``grid``.

        Args:
            grid: around the lungs.
            hu: the scan's, in canonical axes.
            sides: lung ids, on ``grid`` already.
            lesions: the scan's, in canonical axes; where they are not 0, nothing is sought.
        """
        searched = sides
        if lesions is not None and lesions.any():
            # A block with any disease is diseased: a label from its middle alone could miss a thin border.
            reach = [max(1, round(_LESION_MARGIN_MM / side_mm)) for side_mm in grid.spacing_mm]
            diseased = box_maximum(grid.any(lesions), reach)
            searched = np.where(diseased, np.uint8(0), sides)
        return cls(grid.mean(hu), sides, searched, grid.spacing_mm)
