"""The 20 lung regions of Yang et al. 2020 (10.1148/ryct.2020200047), as a geometric division of the five lobes.

CT does not show the borders of segments, so this is an approximation, and results that use it should say so. Each lobe
is cut across the patient's axes at shares of its own volume, so that lobes of any size and shape have all their
segments, in the order in which anatomy puts them:

- right upper lobe: the highest third is apical; of the rest the front half is anterior, the back half posterior.
- right middle lobe: the outer half is lateral, the inner half medial.
- left upper lobe: the lowest two fifths are the lingula, its higher half superior and its lower half inferior; of the
  rest the highest third is apical, and of what then remains the front half anterior, the back half posterior.
- lower lobes: the highest quarter is the superior segment; of the rest the inner quarter is medial basal, and what
  then remains is, from the front to the back in thirds, anterior, lateral and posterior basal.

Only numpy is needed, so the division runs where neither SimpleITK nor torch is installed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.labels import LEFT_LOBES, LOBES, SEGMENTS, Label

_Places = NDArray[np.float64]
_Ids = NDArray[np.uint8]


def segment_regions(lobes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Labels of :data:`covsev.labels.SEGMENTS` (X, Y, Z) on the grid of ``lobes``; approximate, see the module's text.

    Args:
        lobes: (X, Y, Z), ids of :data:`covsev.labels.LOBES`.
        affine: (4, 4) voxel index to world, RAS+ mm.

    Raises:
        ValueError: if ``lobes`` is not a volume or ``affine`` is not (4, 4).
    """
    if lobes.ndim != 3 or np.shape(affine) != (4, 4):
        raise ValueError(f"lobes must be a volume and affine (4, 4); got shapes {lobes.shape} and {np.shape(affine)}")
    regions = np.zeros(lobes.shape, dtype=np.uint8)
    for lobe in LOBES:
        voxels = np.nonzero(lobes == lobe.id)
        if len(voxels[0]):
            regions[voxels] = _segments_of(lobe, np.asarray(affine)[:3, :3] @ np.stack(voxels))
    return regions


def _segments_of(lobe: Label, world_mm: _Places) -> _Ids:
    """Segment ids (N,) of one lobe's voxels at ``world_mm`` (3, N), RAS+ up to a shift."""
    right, front, up = world_mm
    out = -right if lobe in LEFT_LOBES else right
    own = {segment.name.split("_", 1)[1]: segment.id for segment in SEGMENTS if segment.lobe == lobe}
    ids = np.zeros(len(up), dtype=np.uint8)
    if lobe.name.endswith("lower"):
        rest = _take(ids, own["lower_superior"], up, 1 / 4)
        rest = _take(ids, own["medial_basal"], -out, 1 / 4, rest)
        rest = _take(ids, own["anterior_basal"], front, 1 / 3, rest)
        rest = _take(ids, own["lateral_basal"], front, 1 / 2, rest)
        ids[rest] = own["posterior_basal"]
    elif lobe.name.endswith("middle"):
        ids[_take(ids, own["lateral"], out, 1 / 2)] = own["medial"]
    else:
        rest = np.arange(len(ids))
        if "inferior_lingular" in own:
            rest = _take(ids, own["inferior_lingular"], -up, 1 / 5, rest)
            rest = _take(ids, own["superior_lingular"], -up, 1 / 4, rest)
        rest = _take(ids, own["apical"], up, 1 / 3, rest)
        ids[_take(ids, own["anterior"], front, 1 / 2, rest)] = own["posterior"]
    return ids


def _take(
    ids: _Ids, label: int, places: _Places, share: float, among: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Give ``label`` to the ``share`` of the voxels ``among`` with the largest places; return the others' indices."""
    among = np.arange(len(ids)) if among is None else among
    taken = places[among] > np.quantile(places[among], 1 - share) if len(among) else np.zeros(0, dtype=bool)
    ids[among[taken]] = label
    return among[~taken]
