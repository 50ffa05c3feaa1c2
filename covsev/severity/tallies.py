"""One pass over a scan's voxels: counts and sums from which every region is measured. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.errors import GridMismatchError
from covsev.labels import HIGH_OPACITY_HU, LESIONS, LOBES, LUNGS, SEGMENTS

HU_EDGES = (-1000.0, -950.0, -900.0, -700.0, -500.0, float(np.nextafter(HIGH_OPACITY_HU, 0)), -100.0, 100.0)
"""Limits of the density classes: class i holds ``HU_EDGES[i - 1] <= HU < HU_EDGES[i]``.

The sixth limit is the least number above -200, since high opacity is what lies *above* -200 HU.
"""

_SIZES = tuple(1 + len(labels) for labels in (LUNGS, LOBES, SEGMENTS, LESIONS))
_CLASSES = len(HU_EDGES) + 1
_CLASS_OF_INT16 = np.searchsorted(HU_EDGES, np.arange(2**16, dtype=np.uint16).view(np.int16), side="right")
"""Density class of every int16, in the order of its bits read as uint16."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over voxels inside lungs or lobes; sums of unions of regions are sums of these.

    Attributes:
        count: (slice, lung, lobe, segment, lesion, density class) number of voxels, ``float64`` holding whole numbers.
        sum_hu: (slice, lung, lobe, segment, lesion) sum of HU.
        sum_hu2: the same of HU squared.
        hu_known: False where there was no CT: then all voxels are in class 0 and the sums are 0.
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
        if hu is not None and array.shape != hu.shape:
            raise GridMismatchError(f"{name} has shape {array.shape}, but hu has {hu.shape}")
        if array.shape != lungs.shape:
            raise GridMismatchError(f"{name} has shape {array.shape}, but lungs has {lungs.shape}")
        if array.max(initial=0) > len(known):
            raise ValueError(f"{name} has label {array.max()}; known are 0 to {len(known)}")
    count = np.zeros((lungs.shape[2], int(np.prod(_SIZES)) * _CLASSES))
    sums = np.zeros((2, lungs.shape[2], int(np.prod(_SIZES))))
    # Transposed, since NIfTI arrays come in Fortran order: a slice is then contiguous.
    layers = (None if array is None else array.T for array in (hu, lungs, lobes, segments, lesions))
    _fill(count, sums, *layers)
    shape = (-1, *_SIZES)
    return Tally(count.reshape(*shape, _CLASSES), sums[0].reshape(shape), sums[1].reshape(shape), hu is not None)


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
        inside = (lungs[z] | lobes[z]) > 0
        if not inside.any():
            continue
        places = np.flatnonzero(inside)
        code = np.zeros(len(places), dtype=np.int64)
        for size, layer in zip(_SIZES, (lungs, lobes, segments, lesions), strict=True):
            code *= size
            if layer is not None:
                code += layer[z].ravel()[places]
        if hu is None:
            count[z] = np.bincount(code * _CLASSES, minlength=count.shape[1])
            continue
        values = hu[z].ravel()[places]
        count[z] = np.bincount(code * _CLASSES + _classes(values), minlength=count.shape[1])
        values = values.astype(np.float64)
        sums[0, z] = np.bincount(code, values, minlength=sums.shape[2])
        sums[1, z] = np.bincount(code, values**2, minlength=sums.shape[2])


def _classes(hu: NDArray[Any]) -> NDArray[np.intp]:
    """Density class of each voxel."""
    if hu.dtype == np.int16:
        return _CLASS_OF_INT16[hu.view(np.uint16)]
    return np.searchsorted(HU_EDGES, hu, side="right")
