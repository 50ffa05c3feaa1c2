"""The 20 lung regions of Yang et al. 2020 (10.1148/ryct.2020200047), as a geometric division of the five lobes.

CT does not show the borders of segments. So this is an approximation, and results that use it should say so. Each lobe
is cut across the patient's axes at shares of its own volume. So lobes of any size and shape have all their segments, in
the order in which anatomy puts them:

- right upper lobe: the highest third is apical. Of the rest the front half is anterior, the back half posterior.
- right middle lobe: the outer half is lateral, the inner half medial.
- left upper lobe: the lowest two fifths are the lingula, with a superior (upper) and an inferior (lower) half. Of the
  rest the highest third is apical. What remains is halved into anterior (front) and posterior (back).
- lower lobes: the highest quarter is the superior segment. Of the rest the inner quarter is medial basal. What remains
  is, in thirds from front to back, anterior, lateral and posterior basal.

The division runs where neither SimpleITK nor torch is installed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.morphology import box_maximum
from covsev.labels import LEFT_LOBES, LOBES, SEGMENTS, Label
from covsev.scan.boxes import bounding_box

# Step of the sample that segments_of divides. Segments are centimetres wide and their borders approximate, so a finer
# one would only cost time.
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

    The right middle lobe falls into a lateral half (4) and a medial half (5). Here x grows to the patient's left:

    >>> middle = np.full((6, 6, 6), 4, dtype=np.uint8)
    >>> segment_regions(middle, np.diag([-1.0, -1.0, 1.0, 1.0]))[:, 0, 0].tolist()
    [4, 4, 4, 5, 5, 5]
    """
    if lobes.ndim != 3 or np.shape(affine) != (4, 4):
        raise ValueError(f"lobes must be a volume and affine (4, 4); got shapes {lobes.shape} and {np.shape(affine)}")
    regions = np.zeros(lobes.shape, dtype=np.uint8)
    for lobe in LOBES:
        voxels = np.nonzero(lobes == lobe.id)
        if len(voxels[0]):
            # The affine's shift is left out: only the order of the places counts.
            world_mm = np.asarray(affine)[:3, :3] @ np.stack(voxels)
            regions[voxels] = _segments_of(lobe, world_mm)
    return regions


def _segments_of(lobe: Label, world_mm: _Places) -> _Ids:
    """Segment ids (N,) of one lobe's voxels at ``world_mm`` (3, N), RAS+ up to a shift."""
    right, front, up = world_mm
    out = -right if lobe in LEFT_LOBES else right  # away from the middle of the chest
    # By name without the side, so that one rule serves both lungs.
    own = {segment.name.split("_", 1)[1]: segment.id for segment in SEGMENTS if segment.lobe == lobe}
    ids = np.zeros(len(up), dtype=np.uint8)
    # Each share is of what the cuts before it left, so the order is part of the rule in the module's text.
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
        if "inferior_lingular" in own:  # a fifth of the lobe, then a quarter of the other four: a fifth, too
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
    if len(among) == 0:  # a lobe of a few voxels can be used up; nothing has no quantile
        return among
    own = places[among]
    taken = own > np.quantile(own, 1 - share)
    ids[among[taken]] = label
    return among[~taken]


# ---- on a sample of the grid -------------------------------------------------------------------------------------


def segments_of(lobes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """:func:`segment_regions` on a sample of about 2 mm, brought back to the grid of ``lobes``.

    The segments are approximate anyway, and at full resolution their division takes longer than all else.
    """
    axes = np.argsort(lobes.strides)[::-1]  # neighbours in memory last: several times as fast
    found = _sampled_segments(lobes.transpose(axes), affine[:, [*axes, 3]])
    return found.transpose(np.argsort(axes))


def _sampled_segments(lobes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    steps = [max(1, int(_SAMPLE_MM / side_mm)) for side_mm in spacing_mm]
    if max(steps) == 1:
        return segment_regions(lobes, affine)
    every = tuple(slice(None, None, step) for step in steps)
    sample = np.ascontiguousarray(lobes[every])
    found = segment_regions(sample, affine @ np.diag([*steps, 1.0]))
    # Lobe by lobe, in its box: a voxel takes the segment of its block, but never that of another lobe.
    segments = np.zeros_like(lobes)
    for lobe in LOBES:
        mask = sample == lobe.id
        if not mask.any():
            continue
        # A voxel more around the lobe, for its rim between the samples, which no sample of the lobe covers.
        box = bounding_box(mask, margin=1)
        own = np.where(mask[box], found[box], 0)
        own = np.where(own > 0, own, box_maximum(own, (1, 1, 1)))
        sides = zip(box, steps, strict=True)
        target = tuple(slice(side.start * step, side.stop * step) for side, step in sides)
        for axis in (2, 1, 0):  # the smallest array is repeated along the last axis
            own = own.repeat(steps[axis], axis)
        # The last blocks may reach beyond the grid, so what is repeated is cut to it.
        inside = lobes[target] == lobe.id
        cut = tuple(slice(count) for count in inside.shape)
        np.copyto(segments[target], own[cut], where=inside)
    return segments
