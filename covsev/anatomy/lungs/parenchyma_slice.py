"""Lung parenchyma in a single 8-bit slice, without HU, spacing or orientation.

Public slice collections (HUST-19/iCTCF, COVID-SemiSeg) hold pictures: window, crop and rotation differ from one to
the next. Ning et al. 2020 (10.1038/s41551-020-00633-5) split the parenchyma from each slice and removed the slices on
which that failed. Here, too, a split that does not look like two lungs is rejected, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import regionprops
from skimage.morphology import disk, isotropic_closing

from covsev.errors import ScanError

_MIN_SIDE_PX = 64
_MIN_SEPARATION = 0.55  # share of the grey variance that lies between air and tissue
_SPECK_SHARE = 0.0005  # of the picture; smaller dark spots are noise
_OUTSIDE_RIM_SHARE = 0.25  # of the picture's rim; a dark region along more of it is the air around the patient
_CLOSING_SHARE = 0.025  # of the square root of the picture's area
_LUNG_SHARE = 0.015  # of the picture, the smallest lung
_PARENCHYMA_SHARE = (0.06, 0.75)  # of the picture
_MIN_SMALLER_SHARE = 0.12  # of both lungs in the smaller one
_MAX_WAIST_SHARE = 0.06  # of the square root of the picture's area, half the width of where two lungs touch
_MIN_SOLIDITY = 0.62
_MAX_DENSE_SHARE = 0.5
_MAX_RIM_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class ParenchymaSlice:
    """Result of :func:`segment_parenchyma_slice`.

    Attributes:
        mask: (H, W) bool, lung with the dense disease that it surrounds; what was found, where the slice is rejected.
        rejected: why the slice should not be used; ``None`` if it may be.
    """

    mask: NDArray[np.bool_]
    rejected: str | None


def segment_parenchyma_slice(grey: NDArray[np.uint8]) -> ParenchymaSlice:
    """Lung parenchyma of one slice, whatever its window and orientation, and whether to trust it.

    Args:
        grey: (H, W) uint8, air dark, tissue bright.

    Raises:
        ScanError: if ``grey`` is not a two-dimensional uint8 picture of at least 64 x 64 pixels.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8 or min(grey.shape) < _MIN_SIDE_PX:
        raise ScanError(
            f"a slice must be (H, W) uint8 of at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX} pixels; "
            f"got shape {grey.shape} of {grey.dtype}"
        )
    smooth = ndimage.gaussian_filter(grey.astype(np.float32), 1)
    limited = np.minimum(smooth, np.percentile(smooth, 95))  # bone would pull the threshold up
    if np.ptp(limited) == 0:
        return ParenchymaSlice(np.zeros(grey.shape, dtype=bool), "the picture is of one grey")
    threshold = float(threshold_otsu(limited))
    dark = limited < threshold
    mask = _lungs(dark & ~_outside(dark))
    return ParenchymaSlice(mask, _fault(mask, dark, _separation(limited, dark)))


def _separation(grey: NDArray[Any], dark: NDArray[np.bool_]) -> float:
    """Otsu's criterion: share of the variance of ``grey`` that lies between the dark and the bright pixels."""
    share = dark.mean()
    contrast = grey[dark].mean() - grey[~dark].mean()
    between = share * (1 - share) * contrast**2
    return float(between / grey.var())


def _outside(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dark regions at a corner or along much of the picture's rim: the air around the patient."""
    parts, number = ndimage.label(dark)
    rim = _rim(parts)
    corners = parts[[0, 0, -1, -1], [0, -1, 0, -1]]
    outside = np.bincount(rim, minlength=number + 1) > _OUTSIDE_RIM_SHARE * rim.size
    outside[corners] = True
    outside[0] = False
    return outside[parts]  # type: ignore[no-any-return]


def _rim(picture: NDArray[Any]) -> NDArray[Any]:
    top, bottom = picture[0], picture[-1]
    sides = picture[1:-1, 0], picture[1:-1, -1]  # the corners count once
    return np.concatenate([top, bottom, *sides])


def _lungs(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The one or two largest dark regions, closed and filled, without specks and windpipe."""
    parts, _ = ndimage.label(dark)
    kept = (np.bincount(parts.ravel()) >= _SPECK_SHARE * dark.size)[parts] & dark
    closed = isotropic_closing(kept, _CLOSING_SHARE * dark.size**0.5)
    filled = ndimage.binary_opening(ndimage.binary_fill_holes(closed), disk(1))
    parts, number = ndimage.label(filled)
    areas = np.bincount(parts.ravel(), minlength=number + 1)
    areas[0] = 0
    largest = np.argsort(-areas)[:2]
    return np.isin(parts, largest[areas[largest] >= _LUNG_SHARE * dark.size])


def _two_lungs(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Labels of the lungs; lungs that touch are parted where an erosion first parts them, each pixel to the nearer."""
    parts, number = ndimage.label(mask)
    depth = ndimage.distance_transform_edt(mask)
    for erosion in range(1, round(_MAX_WAIST_SHARE * mask.size**0.5) if number == 1 else 0):
        cores, _ = ndimage.label(depth > erosion)
        sizes = np.bincount(cores.ravel())[1:]
        large = np.flatnonzero(sizes >= _MIN_SMALLER_SHARE * sizes.sum()) + 1
        if len(large) == 2:
            index = ndimage.distance_transform_edt(~np.isin(cores, large), return_distances=False, return_indices=True)
            return np.where(mask, np.searchsorted(large, cores[tuple(index)]) + 1, 0)
    return parts  # type: ignore[no-any-return]


def _fault(mask: NDArray[np.bool_], dark: NDArray[np.bool_], separation: float) -> str | None:
    """Why the split is not to be trusted; ``None`` if it looks like two lungs."""
    if separation < _MIN_SEPARATION:
        return f"air and tissue are not told apart: {separation:.0%} of the variance lies between them"
    share = mask.mean()
    if not _PARENCHYMA_SHARE[0] <= share <= _PARENCHYMA_SHARE[1]:
        return f"lung is {share:.0%} of the picture; {_PARENCHYMA_SHARE[0]:.0%} to {_PARENCHYMA_SHARE[1]:.0%} is usual"
    if _rim(mask).mean() > _MAX_RIM_SHARE:
        return f"lung lies along {_rim(mask).mean():.0%} of the picture's rim: it is cut off"
    regions = regionprops(_two_lungs(mask))
    if len(regions) == 1:
        return "only one lung found, or both as one region without a waist"
    smaller = min(region.area for region in regions) / mask.sum()
    if smaller < _MIN_SMALLER_SHARE:
        return f"the smaller lung holds {smaller:.0%} of both"
    solidity = min(region.solidity for region in regions)
    if solidity < _MIN_SOLIDITY:
        return f"a lung fills {solidity:.0%} of its convex hull: it is ragged"
    dense = 1 - dark[mask].mean()
    return f"{dense:.0%} of the lung is dense" if dense > _MAX_DENSE_SHARE else None
