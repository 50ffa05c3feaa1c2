"""The lungs on a grid of about 1.5 mm, on which fissures are sought: means of voxels hold less noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.division import Box, bounding_box

_SIDE_MM = 1.6  # of the largest voxels that averaging makes
_LESION_MARGIN_MM = 3.0
_MARGIN_VOXELS = 2  # kept around the lungs, so that the borders are seen
_Mask = NDArray[np.bool_]
_Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class CoarseGrid:
    """Blocks of voxels around the lungs.

    Attributes:
        box: of the scan's voxels, canonical axes; a whole number of blocks.
        block: (3,) voxels of a block along each axis.
        spacing_mm: of the blocks.
        origin_mm: (3,) centre of the first block, measured from the centre of the scan's voxel (0, 0, 0).
    """

    box: Box
    block: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: NDArray[np.float64]

    @classmethod
    def around(cls, lungs_mask: _Mask, spacing_mm: tuple[float, ...]) -> CoarseGrid:
        """Grid around the True voxels of ``lungs_mask`` (X, Y, Z)."""
        block = tuple(max(1, int(_SIDE_MM // side)) for side in spacing_mm)
        limits = []
        for own, size, count in zip(bounding_box(lungs_mask), block, lungs_mask.shape, strict=True):
            start = max(0, own.start - _MARGIN_VOXELS * size)
            blocks = -(-(min(count, own.stop + _MARGIN_VOXELS * size) - start) // size)
            start = max(0, min(start, count - blocks * size))
            limits.append(slice(start, start + min(blocks, (count - start) // size) * size))
        first = [limit.start + (size - 1) / 2 for limit, size in zip(limits, block, strict=True)]
        coarse_mm = tuple(size * side for size, side in zip(block, spacing_mm, strict=True))
        return cls((limits[0], limits[1], limits[2]), block, coarse_mm, np.array(first) * spacing_mm)

    def middle(self, labels: _Labels) -> _Labels:
        """The label in the middle of each block."""
        places = tuple(slice(size // 2, None, size) for size in self.block)
        return np.ascontiguousarray(labels[self.box][places])

    def mean(self, hu: NDArray[Any]) -> NDArray[np.float32]:
        """The mean of each block."""
        parts = list(self._parts(hu))
        total = parts[0].astype(np.float32, order="C")
        for part in parts[1:]:
            total += part
        return total / np.float32(len(parts))

    def any(self, labels: _Labels) -> _Mask:
        """Whether anything of each block is not 0."""
        return reduce(np.logical_or, self._parts(labels)) != 0

    def _parts(self, volume: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The first voxels of all blocks, the second voxels, and so on."""
        for start in product(*(range(size) for size in self.block)):
            yield volume[self.box][tuple(slice(a, None, size) for a, size in zip(start, self.block, strict=True))]


@dataclass(frozen=True, eq=False)
class CoarseChest:
    """What the search for fissures works on.

    Attributes:
        hu: (X, Y, Z) HU.
        sides: (X, Y, Z) lung ids.
        searched: (X, Y, Z) the same without disease and its border.
        spacing_mm: of the voxels; millimetres are measured from the centre of voxel (0, 0, 0).
    """

    hu: NDArray[np.float32]
    sides: _Labels
    searched: _Labels
    spacing_mm: tuple[float, ...]

    @classmethod
    def on(cls, grid: CoarseGrid, hu: NDArray[Any], sides: _Labels, lesions: _Labels | None) -> CoarseChest:
        """The chest on ``grid``, given the scan's canonical volumes, but ``sides`` on ``grid`` already."""
        searched = sides
        if lesions is not None and lesions.any():
            searched = np.where(_grown(grid.any(lesions), grid.spacing_mm), np.uint8(0), sides)
        return cls(grid.mean(hu), sides, searched, grid.spacing_mm)


def _grown(mask: _Mask, spacing_mm: tuple[float, ...]) -> _Mask:
    """``mask`` with a margin along each axis."""
    for axis, side_mm in enumerate(spacing_mm):
        line = np.moveaxis(mask, axis, 0)
        grown = line.copy()
        for step in range(1, max(1, round(_LESION_MARGIN_MM / side_mm)) + 1):
            grown[step:] |= line[:-step]
            grown[:-step] |= line[step:]
        mask = np.moveaxis(grown, 0, axis)
    return mask
