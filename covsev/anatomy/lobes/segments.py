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

_SAMPLE_MM = 2.0
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


# ---- on a sample of the grid -------------------------------------------------------------------------------------


def segments_of(lobes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """:func:`segment_regions` on a sample of about 2 mm, brought back to the grid of ``lobes``.

    The segments are approximate; at full resolution their division takes longer than all else.
    """
    axes = np.argsort(lobes.strides)[::-1]  # neighbours in memory last: several times as fast
    found = _sampled_segments(lobes.transpose(axes), affine[:, [*axes, 3]])
    return found.transpose(np.argsort(axes))


def _sampled_segments(lobes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    steps = [max(1, int(_SAMPLE_MM / side)) for side in np.linalg.norm(affine[:3, :3], axis=0)]
    if max(steps) == 1:
        return segment_regions(lobes, affine)
    sample = np.ascontiguousarray(lobes[tuple(slice(None, None, step) for step in steps)])
    found = segment_regions(sample, affine @ np.diag([*steps, 1.0]))
    segments = np.zeros_like(lobes)
    for lobe in LOBES:
        mask = sample == lobe.id
        if not mask.any():
            continue
        box = _box_with_margin(mask)
        own = np.where(mask[box], found[box], 0)
        own = np.where(own > 0, own, _grown(own))  # the lobe's rim between the samples
        target = tuple(slice(side.start * step, side.stop * step) for side, step in zip(box, steps, strict=True))
        for axis in (2, 1, 0):  # the smallest array is repeated along the last axis
            own = own.repeat(steps[axis], axis)
        inside = lobes[target] == lobe.id
        np.copyto(segments[target], own[tuple(slice(side) for side in inside.shape)], where=inside)
    return segments


def _box_with_margin(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Bounding box of a mask that is not empty, and a voxel around it where the grid goes on."""
    occupied = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(max(0, int(along[0]) - 1), int(along[-1]) + 2) for along in occupied)


def _grown(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest id among a voxel and its 26 neighbours; SciPy's is the same and takes 0.3 s to import."""
    for axis in range(3):
        along = np.moveaxis(ids, axis, 0)
        grown = along.copy()
        np.maximum(grown[1:], along[:-1], out=grown[1:])
        np.maximum(grown[:-1], along[1:], out=grown[:-1])
        ids = np.moveaxis(grown, 0, axis)
    return ids
