"""Dense parts of the lungs at about 2 mm: which are thick, which are fluid, and which lie far from all air."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from covsev.anatomy.images import as_array, as_image, distance_mm, means_by_number
from covsev.anatomy.morphology import Mask, opened

FLUID_HU = (-12.0, 18.0)
"""Local mean of a simple effusion. Muscle, blood and consolidation are denser, fat and half-aerated lung darker."""
_FLUID_MM = 8.0
"""Side of the cube of that mean: noise of 30 HU in 2 mm voxels becomes 4 HU."""
_MAX_GRAIN_HU = 32.0
"""SD within the cube. Fluid holds nothing; consolidation holds air, and a border holds two tissues."""
_AERATED_HU = -200
"""Darker lung holds air, and so no fluid."""
_BEHIND_MM = 60.0
"""A layer of fluid behind the lung is less deep."""
_MIN_LAYER_ML = 5.0
_FAR_MM = 25.0
"""Consolidated lung of a whole lobe still lies this near to air in most of its volume."""
_RIM_MM = 8.0
"""Voxels this near to the chest wall, or to aerated lung, have it in their cube, so they do not seem to be fluid."""
_MIN_AT_BACK = 0.5
"""Share of a layer's columns that end at the back of the lung, and of those that begin at it: fluid sinks in a patient
who lies on the back."""


def thick_parts(dense: Mask) -> Mask:
    """What of a dense mask is thicker than a coarse voxel and its neighbours: disease and large vessels, no rims."""
    return opened(dense)


def far_from_air(dense: Mask, aerated: Mask, like: sitk.Image) -> Mask:
    """What of a dense mask lies farther from all aerated lung than consolidation mostly does: perhaps no lung."""
    if not dense.any() or not aerated.any():
        return dense
    to_air_mm = as_array(distance_mm(as_image(aerated.astype(np.uint8), like)))
    return dense & (to_air_mm > _FAR_MM)  # type: ignore[no-any-return]


def fluid_layers(lungs: Mask, hu: NDArray[Any], spacing_mm: tuple[float, ...]) -> Mask:
    """Layers with the density of fluid at the back of the lungs, inside the mask or behind it.

    Args:
        lungs: (X, Y, Z), axes left, back, head.
        hu: (X, Y, Z) at about 2 mm.
        spacing_mm: of that grid.
    """
    depth_mm = _mm_behind(lungs, spacing_mm[1])
    inside = lungs & (hu > _AERATED_HU)
    behind = (depth_mm > 0) & (depth_mm <= _BEHIND_MM)
    fluid = opened((inside | behind) & _like_fluid(hu, spacing_mm))
    parts, number = ndimage.label(fluid)
    if number == 0:
        return np.zeros(lungs.shape, dtype=bool)
    sizes_ml = np.bincount(parts.ravel()) * float(np.prod(spacing_mm)) / 1000
    rim = round(_RIM_MM / spacing_mm[1])
    at_back = means_by_number(parts, _lung_behind(fluid, lungs) <= rim)
    # Fatty muscle behind the ribs has the density of fluid, too, but does not begin at the lung.
    begins = fluid & ~np.pad(fluid, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    at_lung = means_by_number(parts[begins], depth_mm[begins] <= _RIM_MM, length=number + 1)
    is_layer = (sizes_ml >= _MIN_LAYER_ML) & (at_back >= _MIN_AT_BACK) & (at_lung >= _MIN_AT_BACK)
    is_layer[0] = False
    return _with_rim(is_layer[parts], lungs, rim)


def _like_fluid(hu: NDArray[Any], spacing_mm: tuple[float, ...]) -> Mask:
    """Voxels whose surroundings have the density of fluid and no grain."""
    cube = [max(1, round(_FLUID_MM / side)) for side in spacing_mm]
    tissue = np.clip(hu, _AERATED_HU, 200).astype(np.float32)  # air and bone would lead the mean
    mean = ndimage.uniform_filter(tissue, cube)
    square = ndimage.uniform_filter(tissue**2, cube)
    variance = square - mean**2
    low, high = FLUID_HU
    return (mean > low) & (mean < high) & (variance < _MAX_GRAIN_HU**2)  # type: ignore[no-any-return]


def _mm_behind(lungs: Mask, y_mm: float) -> NDArray[np.float64]:
    """How far each voxel lies behind the rearmost lung voxel of its column; 0 before it and in columns without lung."""
    seen = np.maximum.accumulate(lungs, axis=1)
    lung_behind = np.flip(np.maximum.accumulate(np.flip(lungs, 1), axis=1), 1)
    beyond = seen & ~lung_behind
    depth = np.cumsum(beyond, axis=1).astype(np.float64)
    return depth * y_mm * beyond  # type: ignore[no-any-return]


def _lung_behind(fluid: Mask, lungs: Mask) -> NDArray[np.int64]:
    """How many lung voxels that are no fluid lie behind each voxel, in its column."""
    counts = np.cumsum(np.flip(lungs & ~fluid, 1), axis=1, dtype=np.int64)
    return np.flip(counts, 1)  # type: ignore[no-any-return]


def _with_rim(layer: Mask, lungs: Mask, rim: int) -> Mask:
    """A layer with the lung voxels behind it: their surroundings reach into the chest wall, so they seem denser."""
    grown = layer.copy()
    for _ in range(rim):
        step = np.zeros_like(grown)
        step[:, 1:] = grown[:, :-1]
        grown |= step & lungs
    return grown
