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
    LEFT_LUNG,
    LOBES,
    LUNGS,
    RIGHT_LUNG,
    SEGMENTS,
)
from covsev.severity.tallies import HIGH_OPACITY_FROM_HU, HU_EDGES, Tally

BOTH_LUNGS = "both_lungs"
REGION_NAMES = (BOTH_LUNGS, RIGHT_LUNG.name, LEFT_LUNG.name, *(lobe.name for lobe in LOBES))
LEVELS = ("lower", "middle", "upper")
ZONE_NAMES = tuple(f"{side}_{level}_zone" for side in ("right", "left") for level in reversed(LEVELS))
"""Thirds of the height of each lung, from its apex to its base."""
SEGMENT_NAMES = tuple(segment.name for segment in SEGMENTS)
MIN_REGION_ML = 1.0
"""A region smaller than this counts as absent. Its values are null, never zero: zero would mean free of lesion."""

AERATION_HU = {
    "well_aerated": (-950, -700),
    "hyperinflated": (-1000, -900),
    "normally_aerated": (-900, -500),
    "poorly_aerated": (-500, -100),
    "non_aerated": (-100, 100),
}
"""Density bands in HU, lower limit included, upper one not.

Well aerated: Colombi 2020, 10.1148/radiol.2020201433; the other four: Gattinoni 2001,
10.1164/ajrccm.164.9.2103121. Each limit must be one of :data:`covsev.severity.tallies.HU_EDGES`.
"""

_LESION_ANY = slice(1, None)
"""All lesion labels but 0, the background."""


@dataclass(frozen=True)
class RegionMeasures:
    """What is measured in one region; all ``None`` with a ``reason`` where the region is absent.

    A lobe, zone or segment that the scan cuts off counts as absent, too. A lung that is cut off keeps the values of
    its visible part, and gets a quality flag.

    ``_ml`` are millilitres, ``_pct`` percent of the region's volume, ``_hu`` Hounsfield units. High opacity is
    lesion above -200 HU (Chaganti et al. 2020, PMC7392373). Densities are ``None`` without a CT. ``ggo_ml`` and
    ``consolidation_ml`` are ``None`` where the lesion mask does not tell the two apart.
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


def measure_main(counted: Tally, voxel_ml: float) -> dict[str, RegionMeasures]:
    """Every region of :data:`REGION_NAMES`: both lungs, each lung and each lobe."""
    by_lung, by_lobe = _marginal(counted, 1), _marginal(counted, 2)
    # Row 0 holds voxels of a lobe outside the lungs: they belong to neither lung.
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

    Where the limit between two zones passes through a slice, the slice counts in both zones, each by its share. So
    the result does not depend on the thickness of the slices.
    """
    found = {}
    for side, lung in (("right", RIGHT_LUNG), ("left", LEFT_LUNG)):
        # Lobes and segments are summed away: what stays is (slice, lesion, ...) of this lung.
        slices = [array[:, lung.id].sum(axis=(1, 2)) for array in (counted.count, counted.sum_hu, counted.sum_hu2)]
        thirds = _thirds(slices[0].sum(axis=(1, 2)))
        for level, third in reversed(list(zip(LEVELS, thirds, strict=True))):
            sums = _Sums(*(np.tensordot(third, array, axes=1) for array in slices))
            text = f"{level} zone of the {lung.text}"
            # The sums count thirds of voxels, so a unit has a third of the volume. Percentages and means are the same.
            found[f"{side}_{level}_zone"] = _measure(sums, voxel_ml / 3, text, counted.hu_known)
    return found


def _thirds(voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, Z) how many thirds of each slice, 0 to 3, lie in the lower, middle and upper zone.

    The zones divide the slices with ``voxels``. A third of N slices is a whole number of thirds of a slice. So the
    results are whole numbers, and sums with them stay exact.
    """
    thirds = np.zeros((3, len(voxels)))
    occupied = np.flatnonzero(voxels)
    if len(occupied) > 0:
        first, last = occupied[0], occupied[-1]
        slices = last + 1 - first
        # N slices are 3 N thirds, from below: N of them make a zone, and three of them make a slice.
        zone = np.repeat(np.arange(3), slices)
        at = first + np.arange(3 * slices) // 3
        # Not ``+=``: it would add 1 only once where the same zone and slice come again.
        np.add.at(thirds, (zone, at), 1)
    return thirds


def _marginal(counted: Tally, axis: int) -> _Sums:
    """Sums over all slices and labels, except for the labels of ``axis`` and the lesions: [label, lesion, ...]."""
    others = tuple(a for a in range(4) if a != axis)
    return _Sums(*(array.sum(axis=others) for array in (counted.count, counted.sum_hu, counted.sum_hu2)))


def _union(sums: _Sums, rows: slice | list[int]) -> _Sums:
    """Sums of the labels ``rows`` together."""
    count, hu, hu2 = (array[rows].sum(axis=0) for array in (sums.count, sums.hu, sums.hu2))
    return _Sums(count, hu, hu2)


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
    high_classes = slice(_classes_from(HIGH_OPACITY_FROM_HU), None)
    high_voxels = float(sums.count[_LESION_ANY, high_classes].sum())
    # Aeration is of the whole region, lesion or not; high opacity is of lesion alone.
    by_class = sums.count.sum(axis=0)
    aerated = {}
    for name, (low, high) in AERATION_HU.items():
        classes = slice(_classes_from(low), _classes_from(high))
        aerated[name] = float(by_class[classes].sum())
    mean_hu, sd_hu = _mean_and_sd(sums, slice(None))
    lesion_mean_hu, lesion_sd_hu = _mean_and_sd(sums, _LESION_ANY)
    return {
        "high_opacity_ml": high_voxels * voxel_ml,
        "high_opacity_pct": 100 * high_voxels / voxels,
        "mean_hu": mean_hu,
        "sd_hu": sd_hu,
        "lesion_mean_hu": lesion_mean_hu,
        "lesion_sd_hu": lesion_sd_hu,
        "well_aerated_pct": 100 * aerated["well_aerated"] / voxels,
        **{f"{name}_ml": number * voxel_ml for name, number in aerated.items()},
    }


def _classes_from(hu: float) -> int:
    """Number of the first density class at or above ``hu``, which must be one of the limits."""
    return HU_EDGES.index(float(hu)) + 1


def _mean_and_sd(sums: _Sums, kinds: slice) -> tuple[float | None, float | None]:
    """Mean and population SD in HU; ``None`` without voxels."""
    voxels = float(sums.count[kinds].sum())
    if voxels == 0:
        return None, None
    mean = float(sums.hu[kinds].sum()) / voxels
    mean_of_squares = float(sums.hu2[kinds].sum()) / voxels
    # Where all voxels are alike, rounding can bring the difference just below 0, which has no root.
    variance = max(mean_of_squares - mean**2, 0.0)
    return mean, float(np.sqrt(variance))


# ---- regions that the scan cuts off ------------------------------------------------------------------------------

MAX_CUT_SHARE = 0.35
"""A region is cut off if its section at a border of the scan is larger than this share of its largest section.

A missing apex or costophrenic angle stays below it, half a missing lobe lies above.
"""


def cut_share(labels: NDArray[np.uint8], id_: int) -> float:
    """Section of one label at the volume's borders, as a share of its largest parallel section.

    The result is 0 if the label touches no border, and the largest share if it touches several.

    Args:
        labels: (X, Y, Z) label map.
        id_: the label.

    A cone whose sections hold 1, 9 and 25 voxels, first with its tip at the border, then with its base cut off:

    >>> cone = np.zeros((7, 7, 4), dtype=np.uint8)
    >>> cone[3, 3, 0], cone[2:5, 2:5, 1], cone[1:6, 1:6, 2] = 1, 1, 1
    >>> cut_share(cone, 1), cut_share(cone[:, :, :3], 1)
    (0.04, 1.0)
    """
    worst = 0.0
    mask = None
    for axis in range(3):
        along = np.moveaxis(labels, axis, 0)
        ends = along[0] == id_, along[-1] == id_
        at_border = max(int(np.count_nonzero(end)) for end in ends)
        if at_border > 0:
            # The whole volume is compared only now, and once: most labels touch no border.
            mask = labels == id_ if mask is None else mask
            others = tuple(a for a in range(3) if a != axis)
            largest = int(np.count_nonzero(mask, axis=others).max())
            worst = max(worst, at_border / largest)
    return worst


def without_cut(
    found: Mapping[str, RegionMeasures], cut: Mapping[str, str], *, of: Mapping[str, str]
) -> dict[str, RegionMeasures]:
    """The measures, with null and the reason in place of regions that are cut off.

    Args:
        found: measures by region name.
        cut: reason by the name of a region that is cut off.
        of: the region whose cut makes a region of ``found`` null, by name: for a zone this is its lung.
    """
    kept = dict(found)
    for name in found:
        # Lungs have no entry in ``of``: they keep what can be seen of them.
        if name in of and of[name] in cut:
            kept[name] = RegionMeasures(reason=cut[of[name]])
    return kept
