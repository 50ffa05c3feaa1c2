"""The box around the lungs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.errors import LungsNotFoundError
from covsev.scan.boxes import Box, bounding_box, margin_voxels


def lung_box(labels: NDArray[np.uint8], margin_mm: float, spacing_mm: tuple[float, ...]) -> Box:
    """Bounding box of all lung voxels with a margin, clipped to the volume, one slice an axis.

    Raises:
        LungsNotFoundError: if there is no lung voxel.
    """
    if not labels.any():
        raise LungsNotFoundError("the label map holds no lung")
    return bounding_box(labels, margin_voxels(margin_mm, spacing_mm))
