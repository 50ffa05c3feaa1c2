"""One pass over a scan's voxels: counts and sums from which every region is measured. numpy only.

Every voxel has a lung, a lobe, a segment, a lesion label and a density class. One pass counts the voxels of each
combination. A region is then a sum of counts, so that more regions cost no further pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.errors import GridMismatchError
from covsev.labels import HIGH_OPACITY_HU, LESIONS, LOBES, LUNGS, SEGMENTS

HIGH_OPACITY_FROM_HU = float(np.nextafter(HIGH_OPACITY_HU, 0))
"""The smallest number above -200: high opacity lies *above* -200 HU, but a density class includes its lower limit."""

HU_EDGES = (
    -1000.0,  # hyperinflated begins
    -950.0,  # well aerated begins
    -900.0,  # hyperinflated ends, normally aerated begins
    -700.0,  # well aerated ends
    -500.0,  # normally aerated ends, poorly aerated begins
    HIGH_OPACITY_FROM_HU,
    -100.0,  # poorly aerated ends, non-aerated begins
    100.0,  # non-aerated ends
)
"""Limits of the density classes: class i holds ``HU_EDGES[i - 1] <= HU < HU_EDGES[i]``.

The bands overlap, so their limits are merged: each band is a run of classes.
"""

# One more than there are labels: 0 is the background of each map.
_SIZES = tuple(1 + len(labels) for labels in (LUNGS, LOBES, SEGMENTS, LESIONS))
_CLASSES = len(HU_EDGES) + 1
_CLASS_OF_INT16 = np.searchsorted(HU_EDGES, np.arange(2**16, dtype=np.uint16).view(np.int16), side="right")
"""Density class of every int16, in the order of its bits read as uint16.

A CT of whole HU needs one look into this table for each voxel, not a search among the limits.
"""


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the voxels inside lungs or lobes. The sums of several regions together are sums of these.

    Attributes:
        count: (slice, lung, lobe, segment, lesion, density class) number of voxels: whole numbers in ``float64``.
        sum_hu: (slice, lung, lobe, segment, lesion) sum of HU.
        sum_hu2: (slice, lung, lobe, segment, lesion) sum of squared HU.
        hu_known: False without a CT. Then all voxels are in class 0, and both sums are 0.
    """

    count: NDArray[np.float64]
    sum_hu: NDArray[np.float64]
    sum_hu2: NDArray[np.float64]
    hu_known: bool


def tally(
    hu: NDArray[Any] | None,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    segments: NDArray[np.uint8] | None = None,
) -> Tally:
    """Count the voxels of every combination of labels in each slice along the last axis.

    Args:
        hu: (X, Y, Z) Hounsfield units; ``None`` without a CT.
        lungs, lobes, lesions, segments: (X, Y, Z) ids of :mod:`covsev.labels`; without ``segments`` all are 0.

    Raises:
        GridMismatchError: if the shapes differ.
        ValueError: if a label map holds an unknown label.
    """
    maps: dict[str, tuple[NDArray[np.uint8], Sequence[Any]]]
    maps = {"lungs": (lungs, LUNGS), "lobes": (lobes, LOBES), "lesions": (lesions, LESIONS)}
    if segments is not None:
        maps["segments"] = (segments, SEGMENTS)
    for name, (array, known) in maps.items():
        _require_fitting(name, array, hu, lungs, len(known))
    combinations = int(np.prod(_SIZES))
    count = np.zeros((lungs.shape[2], combinations * _CLASSES))
    sums = np.zeros((2, lungs.shape[2], combinations))
    # Transposed, since NIfTI arrays come in Fortran order: a slice is then contiguous.
    layers = (None if array is None else array.T for array in (hu, lungs, lobes, segments, lesions))
    _fill(count, sums, *layers)
    shape = (-1, *_SIZES)
    sum_hu, sum_hu2 = (total.reshape(shape) for total in sums)
    return Tally(count.reshape(*shape, _CLASSES), sum_hu, sum_hu2, hu is not None)


def _require_fitting(
    name: str, array: NDArray[np.uint8], hu: NDArray[Any] | None, lungs: NDArray[np.uint8], largest: int
) -> None:
    """Refuse a map of another shape, or with a label above ``largest``: it would be counted as another combination."""
    if hu is not None and array.shape != hu.shape:
        raise GridMismatchError(f"{name} has shape {array.shape}, but hu has {hu.shape}")
    # Without a CT, the lung map is the grid that the others must have.
    if array.shape != lungs.shape:
        raise GridMismatchError(f"{name} has shape {array.shape}, but lungs has {lungs.shape}")
    if array.max(initial=0) > largest:
        raise ValueError(f"{name} has label {array.max()}; known are 0 to {largest}")


def _fill(
    count: NDArray[np.float64],
    sums: NDArray[np.float64],
    hu: NDArray[Any] | None,
    lungs: Any,
    lobes: Any,
    segments: Any,
    lesions: Any,
) -> None:
    """Add up slice by slice: the working memory is that of one slice."""
    for z in range(len(lungs)):
        # Lobes and lungs may differ at their border: a voxel of either one counts.
        inside = (lungs[z] | lobes[z]) > 0
        if not inside.any():
            continue
        places = np.flatnonzero(inside)
        # One number for the four labels of a voxel: the index that its combination has once ``count`` is reshaped.
        code = np.zeros(len(places), dtype=np.int64)
        for size, layer in zip(_SIZES, (lungs, lobes, segments, lesions), strict=True):
            code *= size
            if layer is not None:
                code += layer[z].ravel()[places]
        if hu is None:  # all in class 0
            count[z] = np.bincount(code * _CLASSES, minlength=count.shape[1])
            continue
        values = hu[z].ravel()[places]
        with_class = code * _CLASSES + _classes(values)
        count[z] = np.bincount(with_class, minlength=count.shape[1])
        values = values.astype(np.float64)  # squares of int16 would overflow
        sums[0, z] = np.bincount(code, values, minlength=sums.shape[2])
        sums[1, z] = np.bincount(code, values**2, minlength=sums.shape[2])


def _classes(hu: NDArray[Any]) -> NDArray[np.intp]:
    """Density class of each voxel."""
    if hu.dtype == np.int16:
        return _CLASS_OF_INT16[hu.view(np.uint16)]
    return np.searchsorted(HU_EDGES, hu, side="right")
