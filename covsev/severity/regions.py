"""Volumes and densities per region: both lungs, each lung, each lobe, zones and segments. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.labels import (
    CONSOLIDATION,
    GROUND_GLASS,
    HIGH_OPACITY_HU,
    LEFT_LUNG,
    LOBES,
    LUNGS,
    RIGHT_LUNG,
    SEGMENTS,
)
from covsev.severity.tallies import HU_EDGES, Tally, tally

BOTH_LUNGS = "both_lungs"
REGION_NAMES = (BOTH_LUNGS, RIGHT_LUNG.name, LEFT_LUNG.name, *(lobe.name for lobe in LOBES))
LEVELS = ("lower", "middle", "upper")
ZONE_NAMES = tuple(f"{side}_{level}_zone" for side in ("right", "left") for level in reversed(LEVELS))
"""Thirds of the height of each lung, from its apex to its base."""
SEGMENT_NAMES = tuple(segment.name for segment in SEGMENTS)
MIN_REGION_ML = 1.0
"""A region smaller than this is taken as absent: its values are null, never zero."""

AERATION_HU = {
    "well_aerated": (-950, -700),
    "hyperinflated": (-1000, -900),
    "normally_aerated": (-900, -500),
    "poorly_aerated": (-500, -100),
    "non_aerated": (-100, 100),
}
"""Density bands, lower limit included, upper one not. Well aerated: Colombi 2020, 10.1148/radiol.2020201433; the
other four: Gattinoni 2001, 10.1164/ajrccm.164.9.2103121."""

_LESION_ANY = slice(1, None)


@dataclass(frozen=True)
class RegionMeasures:
    """What is measured in one region; all ``None`` with a ``reason`` where the region is absent.

    So are a lobe, zone or segment that the scan cuts off; lungs keep what can be seen of them, and a quality flag.

    ``_ml`` are millilitres, ``_pct`` percent of the region's volume, ``_hu`` Hounsfield units. High opacity is
    lesion above -200 HU (Chaganti et al. 2020, PMC7392373). Densities are ``None`` without a CT, ``ggo_ml`` and
    ``consolidation_ml`` where the lesion mask does not tell the two apart.
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
    well_aerated_ml: float | None = None
    well_aerated_pct: float | None = None
    hyperinflated_ml: float | None = None
    normally_aerated_ml: float | None = None
    poorly_aerated_ml: float | None = None
    non_aerated_ml: float | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of one region: ``count`` (lesion, density class), ``hu`` and ``hu2`` (lesion)."""

    count: NDArray[np.float64]
    hu: NDArray[np.float64]
    hu2: NDArray[np.float64]


def measure_regions(
    hu: NDArray[Any] | None,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    *,
    voxel_ml: float,
) -> dict[str, RegionMeasures]:
    """Measure every region of :data:`REGION_NAMES`.

    Args:
        hu: (X, Y, Z) Hounsfield units; ``None`` without a CT: then densities are ``None``.
        lungs: (X, Y, Z) 1 right, 2 left.
        lobes: (X, Y, Z) ids of :data:`covsev.labels.LOBES`.
        lesions: (X, Y, Z) 1 ground-glass opacity, 2 consolidation; lesion outside the region does not count.
        voxel_ml: volume of a voxel.

    Raises:
        GridMismatchError: if the shapes differ.
        ValueError: if a label map holds an unknown label.
    """
    return measure_main(tally(hu, lungs, lobes, lesions), voxel_ml)


def measure_main(counted: Tally, voxel_ml: float) -> dict[str, RegionMeasures]:
    """Both lungs, each lung and each lobe, from one tally."""
    by_lung, by_lobe = _marginal(counted, 1), _marginal(counted, 2)
    found = {BOTH_LUNGS: _measure(_union(by_lung, slice(1, None)), voxel_ml, "the lungs", counted.hu_known)}
    for label in LUNGS:
        found[label.name] = _measure(_union(by_lung, [label.id]), voxel_ml, label.text, counted.hu_known)
    for label in LOBES:
        found[label.name] = _measure(_union(by_lobe, [label.id]), voxel_ml, label.text, counted.hu_known)
    return found


def measure_segments(counted: Tally, voxel_ml: float) -> dict[str, RegionMeasures]:
    """The 20 regions of :data:`covsev.labels.SEGMENTS`."""
    sums = _marginal(counted, 3)
    return {s.name: _measure(_union(sums, [s.id]), voxel_ml, s.text, counted.hu_known) for s in SEGMENTS}


def measure_zones(counted: Tally, voxel_ml: float) -> dict[str, RegionMeasures]:
    """Thirds of equal height of each lung, for a tally along the foot-head axis.

    A slice that the limit of two zones passes through counts in both, by its share: so the result does not depend
    on how thick the slices are.
    """
    found = {}
    for side, lung in (("right", RIGHT_LUNG), ("left", LEFT_LUNG)):
        slices = [array[:, lung.id].sum(axis=(1, 2)) for array in (counted.count, counted.sum_hu, counted.sum_hu2)]
        thirds = _thirds(slices[0].sum(axis=(1, 2)))
        for level, third in reversed(list(zip(LEVELS, thirds, strict=True))):
            sums = _Sums(*(np.tensordot(third, array, axes=1) for array in slices))
            text = f"{level} zone of the {lung.text}"
            found[f"{side}_{level}_zone"] = _measure(sums, voxel_ml / 3, text, counted.hu_known)
    return found


def _thirds(voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, Z) thirds of each slice, 0 to 3, in the lower, middle and upper zone of the slices with ``voxels``.

    N slices end at whole thirds of a slice when divided by three, so these are whole numbers and sums stay exact.
    """
    thirds = np.zeros((3, len(voxels)))
    occupied = np.flatnonzero(voxels)
    if len(occupied) > 0:
        first, slices = occupied[0], occupied[-1] + 1 - occupied[0]
        zone = np.repeat(np.arange(3), slices)  # of each third of a slice, from below
        at = first + np.arange(3 * slices) // 3
        np.add.at(thirds, (zone, at), 1)
    return thirds


def _marginal(counted: Tally, axis: int) -> _Sums:
    """Sums over all slices and all labels but those of ``axis`` and the lesions: indexed by [label, lesion, ...]."""
    others = tuple(a for a in range(4) if a != axis)
    return _Sums(*(array.sum(axis=others) for array in (counted.count, counted.sum_hu, counted.sum_hu2)))


def _union(sums: _Sums, rows: slice | list[int]) -> _Sums:
    return _Sums(sums.count[rows].sum(axis=0), sums.hu[rows].sum(axis=0), sums.hu2[rows].sum(axis=0))


def _measure(sums: _Sums, voxel_ml: float, text: str, hu_known: bool) -> RegionMeasures:
    voxels = float(sums.count.sum())
    if voxels * voxel_ml < MIN_REGION_ML:
        return RegionMeasures(reason=f"{text} not found: less than {MIN_REGION_ML:g} ml")
    kinds = sums.count.sum(axis=1)
    lesion_voxels = float(kinds[_LESION_ANY].sum())
    return RegionMeasures(
        volume_ml=voxels * voxel_ml,
        lesion_ml=lesion_voxels * voxel_ml,
        lesion_pct=100 * lesion_voxels / voxels,
        ggo_ml=float(kinds[GROUND_GLASS.id]) * voxel_ml,
        consolidation_ml=float(kinds[CONSOLIDATION.id]) * voxel_ml,
        **(_densities(sums, voxels, voxel_ml) if hu_known else {}),
    )


def _densities(sums: _Sums, voxels: float, voxel_ml: float) -> dict[str, Any]:
    high = float(sums.count[_LESION_ANY, _classes_from(np.nextafter(HIGH_OPACITY_HU, 0)) :].sum())
    by_class = sums.count.sum(axis=0)
    aerated = {
        name: float(by_class[_classes_from(low) : _classes_from(high)].sum())
        for name, (low, high) in AERATION_HU.items()
    }
    mean_hu, sd_hu = _mean_and_sd(sums, slice(None))
    lesion_mean_hu, lesion_sd_hu = _mean_and_sd(sums, _LESION_ANY)
    return {
        "high_opacity_ml": high * voxel_ml,
        "high_opacity_pct": 100 * high / voxels,
        "mean_hu": mean_hu,
        "sd_hu": sd_hu,
        "lesion_mean_hu": lesion_mean_hu,
        "lesion_sd_hu": lesion_sd_hu,
        "well_aerated_pct": 100 * aerated["well_aerated"] / voxels,
        **{f"{name}_ml": number * voxel_ml for name, number in aerated.items()},
    }


def _classes_from(hu: float) -> int:
    """Number of the first density class at or above ``hu``, one of the limits."""
    return HU_EDGES.index(float(hu)) + 1


def _mean_and_sd(sums: _Sums, kinds: slice) -> tuple[float | None, float | None]:
    """Mean and population SD in HU; ``None`` without voxels."""
    voxels = float(sums.count[kinds].sum())
    if voxels == 0:
        return None, None
    mean = float(sums.hu[kinds].sum()) / voxels
    variance = float(sums.hu2[kinds].sum()) / voxels - mean**2
    return mean, float(np.sqrt(max(variance, 0.0)))


# ---- regions that the scan cuts off ------------------------------------------------------------------------------

MAX_CUT_SHARE = 0.35
"""A region whose section at a border of the scan is larger than this share of its largest section is cut off: an apex
or a costophrenic angle cut off is less, half a lobe is more."""


def cut_share(labels: NDArray[np.uint8], id_: int) -> float:
    """Section of one label at the volume's borders, as a share of its largest parallel section; 0 if it touches none.

    Args:
        labels: (X, Y, Z) label map.
        id_: the label.
    """
    worst = 0.0
    mask = None
    for axis in range(3):
        along = np.moveaxis(labels, axis, 0)
        faces = [int(np.count_nonzero(along[end] == id_)) for end in (0, -1)]
        if max(faces) > 0:
            mask = labels == id_ if mask is None else mask
            others = tuple(a for a in range(3) if a != axis)
            worst = max(worst, max(faces) / int(np.count_nonzero(mask, axis=others).max()))
    return worst


def without_cut(
    found: Mapping[str, RegionMeasures], cut: Mapping[str, str], *, of: Mapping[str, str]
) -> dict[str, RegionMeasures]:
    """Measures with those of cut-off regions replaced by null and the reason.

    Args:
        found: measures by region name.
        cut: reason by the name of a region that is cut off.
        of: for each region of ``found`` the region whose cut makes it null, such as a zone's lung.
    """
    return {
        name: RegionMeasures(reason=cut[of[name]]) if of.get(name) in cut else measures
        for name, measures in found.items()
    }
