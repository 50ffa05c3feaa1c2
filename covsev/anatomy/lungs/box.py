"""The box around the lungs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.errors import LungsNotFoundError


def lung_box(labels: NDArray[np.uint8], margin_mm: float, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """Bounding box of all lung voxels with a margin, clipped to the volume, one slice an axis.

    Raises:
        LungsNotFoundError: if there is no lung voxel.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(labels.any(axis=others))
        if occupied.size == 0:
            raise LungsNotFoundError("the label map holds no lung")
        margin = int(np.ceil(margin_mm / spacing_mm[axis]))
        box.append(slice(max(0, int(occupied[0]) - margin), min(labels.shape[axis], int(occupied[-1]) + 1 + margin)))
    return tuple(box)
