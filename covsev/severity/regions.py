"""Volumes and densities per region: both lungs, each lung, each lobe. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.errors import GridMismatchError
from covsev.labels import (
    CONSOLIDATION,
    GROUND_GLASS,
    HIGH_OPACITY_HU,
    LEFT_LUNG,
    LESIONS,
    LOBES,
    LUNGS,
    RIGHT_LUNG,
)

BOTH_LUNGS = "both_lungs"
REGION_NAMES = (BOTH_LUNGS, RIGHT_LUNG.name, LEFT_LUNG.name, *(lobe.name for lobe in LOBES))
MIN_REGION_ML = 1.0
"""A region smaller than this is taken as absent: its values are null, never zero."""

_LESION_ANY = slice(1, None)


@dataclass(frozen=True)
class RegionMeasures:
    """What is measured in one region; all ``None`` with a ``reason`` where the region is absent.

    ``_ml`` are millilitres, ``_pct`` percent of the region's volume, ``_hu`` Hounsfield units. High opacity is
    lesion above -200 HU (Chaganti et al. 2020, PMC7392373).
    """

    volume_ml: float | None = None
    lesion_ml: float | None = None
    lesion_pct: float | None = None
    ggo_ml: float | None = None
    consolidation_ml: float | None = None
    high_opacity_ml: float | None = None
    high_opacity_pct: float | None = None
    mean_hu: float | None = None
    sd_hu: float | None = None
    lesion_mean_hu: float | None = None
    lesion_sd_hu: float | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class _Tally:
    """Sums over voxels, indexed by [region, lesion label]; regions can be added, since they are sums."""

    count: NDArray[np.int64]
    high: NDArray[np.int64]
    sum_hu: NDArray[np.float64]
    sum_hu2: NDArray[np.float64]

    def of(self, rows: list[int]) -> _Tally:
        """Tally of the union of the regions ``rows``, indexed by [lesion label]."""
        return _Tally(*(values[rows].sum(axis=0) for values in vars(self).values()))


def measure_regions(
    hu: NDArray[Any],
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    *,
    voxel_ml: float,
) -> dict[str, RegionMeasures]:
    """Measure every region of :data:`REGION_NAMES`.

    Args:
        hu: (X, Y, Z) Hounsfield units.
        lungs: (X, Y, Z) 1 right, 2 left.
        lobes: (X, Y, Z) ids of :data:`covsev.labels.LOBES`.
        lesions: (X, Y, Z) 1 ground-glass opacity, 2 consolidation; lesion outside the region does not count.
        voxel_ml: volume of a voxel.

    Raises:
        GridMismatchError: if the shapes differ.
        ValueError: if a label map holds an unknown label.
    """
    for name, array, known in (("lungs", lungs, LUNGS), ("lobes", lobes, LOBES), ("lesions", lesions, LESIONS)):
        if array.shape != hu.shape:
            raise GridMismatchError(f"{name} has shape {array.shape}, but hu has {hu.shape}")
        if array.max(initial=0) > len(known):
            raise ValueError(f"{name} has label {array.max()}; known are 0 to {len(known)}")
    by_lung = _tally(hu, lungs, lesions, regions=1 + max(lung.id for lung in LUNGS))
    by_lobe = _tally(hu, lobes, lesions, regions=1 + max(lobe.id for lobe in LOBES))
    measures = {BOTH_LUNGS: _measure(by_lung.of([lung.id for lung in LUNGS]), voxel_ml, "the lungs")}
    measures |= {lung.name: _measure(by_lung.of([lung.id]), voxel_ml, lung.text) for lung in LUNGS}
    measures |= {lobe.name: _measure(by_lobe.of([lobe.id]), voxel_ml, lobe.text) for lobe in LOBES}
    return measures


def _tally(hu: NDArray[Any], regions_map: NDArray[np.uint8], lesions: NDArray[np.uint8], *, regions: int) -> _Tally:
    inside = regions_map > 0
    kinds = 1 + CONSOLIDATION.id
    code = regions_map[inside].astype(np.int64) * kinds + lesions[inside]
    values = hu[inside].astype(np.float64)
    size = regions * kinds

    def total(weights: NDArray[Any] | None) -> NDArray[Any]:
        return np.bincount(code, weights=weights, minlength=size)[:size].reshape(regions, kinds)

    return _Tally(
        count=total(None),
        high=total(values > HIGH_OPACITY_HU).astype(np.int64),
        sum_hu=total(values),
        sum_hu2=total(values**2),
    )


def _measure(tally: _Tally, voxel_ml: float, text: str) -> RegionMeasures:
    voxels = int(tally.count.sum())
    if voxels * voxel_ml < MIN_REGION_ML:
        return RegionMeasures(reason=f"{text} not found: less than {MIN_REGION_ML:g} ml")
    lesion_voxels = int(tally.count[_LESION_ANY].sum())
    high_voxels = int(tally.high[_LESION_ANY].sum())
    mean_hu, sd_hu = _mean_and_sd(tally, slice(None))
    lesion_mean_hu, lesion_sd_hu = _mean_and_sd(tally, _LESION_ANY)
    return RegionMeasures(
        volume_ml=voxels * voxel_ml,
        lesion_ml=lesion_voxels * voxel_ml,
        lesion_pct=100 * lesion_voxels / voxels,
        ggo_ml=int(tally.count[GROUND_GLASS.id]) * voxel_ml,
        consolidation_ml=int(tally.count[CONSOLIDATION.id]) * voxel_ml,
        high_opacity_ml=high_voxels * voxel_ml,
        high_opacity_pct=100 * high_voxels / voxels,
        mean_hu=mean_hu,
        sd_hu=sd_hu,
        lesion_mean_hu=lesion_mean_hu,
        lesion_sd_hu=lesion_sd_hu,
    )


def _mean_and_sd(tally: _Tally, kinds: slice) -> tuple[float | None, float | None]:
    """Mean and population SD in HU; ``None`` without voxels."""
    voxels = int(tally.count[kinds].sum())
    if voxels == 0:
        return None, None
    mean = float(tally.sum_hu[kinds].sum()) / voxels
    variance = float(tally.sum_hu2[kinds].sum()) / voxels - mean**2
    return mean, float(np.sqrt(max(variance, 0.0)))
