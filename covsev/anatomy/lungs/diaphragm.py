"""Where a lung ends below: its lower edge at the chest wall and the diaphragm under it, seen along rays.

The aerated lung shows its own diaphragm. Where disease has taken the aerated lung's lower face, the surface comes from
the mirrored other lung, shifted up or down to what is known of this one. A lung that disease has cut off below shows
nothing of its diaphragm; there the density helps: going down from the cut, dense lung ends where the tissue changes
to liver, spleen, stomach or fat. That step is believed only if it has the form of the other lung's diaphragm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covsev.anatomy.lungs.chest_wall import ANGLES, DEGREES, REACH_MM, Mask, Plane, SideMaps, spread

BLUNT_MM = 20.0
"""Lung that ends thicker than this at the wall has been cut off by disease."""
BACK_DEGREES, FRONT_DEGREES = 45, 130
"""In front and at the spine healthy lung too ends blunt."""
AT_SIDE = (DEGREES > BACK_DEGREES) & (DEGREES < FRONT_DEGREES)

_MIN_CONTACT_MM = 25.0  # of height, for a column of rays to say where the lung ends
_TOLERANCE_MM = 8.0  # a lower face this little above the mirrored diaphragm lies on it
_CUT_SHARE = 0.6  # of the side's columns end blunt: the base is cut off
_TISSUE_HU = (-150, 200)
_STEP_HU = 8.0  # consolidation differs from what lies under the diaphragm by at least this
_SKIPPED_MM, _REFERENCE_MM = 4.0, 14.0  # under the lung's face: mixed voxels, then dense lung
_SMOOTH = (5.0, 12.0, 3.0)  # rays, mm along them, mm of height
_RECESS_WIDTH_MM = 20.0  # from the wall; below the cut lies dense lung here, not the dome
_SEARCHED_MM = 80.0  # above and below the mirrored diaphragm
_MARGIN_MM = 5.0  # to the wall, whose muscle and fat differ from lung
_MIN_RADIUS_MM = 25
_RECESS_MM = 8.0  # of lung in the recess below the lowest contact, too thin to be seen as such
_FORM_MM = 10.0  # a step this near to the mirrored diaphragm has its form
_FORM_SHARE = 0.28  # at least, of all columns that have such a step


def contact_line(own: SideMaps, z_mm: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Mask, Mask]:
    """Of every angle: lowest and highest contact (slices), whether there is enough of it, whether it ends blunt."""
    has = own.contact.any(axis=1)
    bottom = np.where(has, own.contact.argmax(axis=1), -1)
    top = np.where(has, own.contact.shape[1] - 1 - own.contact[:, ::-1].argmax(axis=1), -1)
    enough = has & (own.contact.sum(axis=1) * z_mm > _MIN_CONTACT_MM)
    above = np.clip(bottom + 1, 0, own.contact.shape[1] - 1)
    thickness = own.thickness[np.arange(ANGLES), above]
    cut_by_scan = bottom <= 1
    blunt = enough & (thickness > BLUNT_MM) & (DEGREES < FRONT_DEGREES) & ~cut_by_scan
    return bottom, top, enough, blunt


def diaphragm(own: SideMaps, other: SideMaps, bottom: Plane, blunt: Mask, expected: Mask, z_mm: float) -> Plane:
    """(angle, mm) lowest slice of lung over every point: the mirrored lung's, shifted to what is known of this one."""
    lowest, has = _lowest(own.lung)
    wall_mm = _wall_radius(own, bottom, expected, z_mm)
    prior = _mirrored_lowest(other, wall_mm, z_mm)
    doubtful = ndimage.binary_dilation(blunt, iterations=2)[:, None]
    known, values = has & ~doubtful, np.where(has, lowest, 0.0)
    at_wall = np.flatnonzero(expected & (wall_mm > 0))
    known[at_wall, wall_mm[at_wall]] = True
    values[at_wall, wall_mm[at_wall]] = bottom[at_wall]
    surface = prior + spread(values - prior, known, (1.0, 2.0))
    # Below blunt lung an end far above the surface is the upper face of disease; a lower one is the diaphragm.
    agrees = has & doubtful & (lowest <= surface + _TOLERANCE_MM / z_mm)
    values[agrees] = lowest[agrees]
    surface = prior + spread(values - prior, known | agrees, (1.0, 2.0))
    return np.where(has, np.minimum(surface, lowest), surface)


def cut_base(own: SideMaps, other: SideMaps, z_mm: float) -> tuple[Plane, Plane] | None:
    """Lower edge (angle) and diaphragm (angle, mm) of a lung whose base disease has cut off, by the step of density.

    ``None`` where the lung does not end blunt nearly all around its side, or where no step has the form of the other
    lung's diaphragm.
    """
    low, _, enough, blunt = contact_line(own, z_mm)
    low2, _, enough2, _ = contact_line(other, z_mm)
    on_ray = own.last >= 0
    ends_there = (low - on_ray.argmax(axis=1)) * z_mm < BLUNT_MM  # else lung goes on below, away from the wall
    cut = blunt & ends_there & AT_SIDE
    if np.count_nonzero(cut) <= _CUT_SHARE * np.count_nonzero(AT_SIDE) or not enough2.any():
        return None
    wall_mm = _wall_radius(own, low.astype(float), enough, z_mm)
    prior = _mirrored_lowest(other, wall_mm, z_mm)
    step = _density_step(own, prior, wall_mm, z_mm)
    shift = _common_shift(step, z_mm)
    if shift is None:
        return None
    near = np.abs(step - shift) * z_mm < _FORM_MM
    surface = prior + spread(step, near, (1.0, 2.0))
    edge = spread(low2[:, None], enough2[:, None])[:, 0] + shift - _RECESS_MM / z_mm
    return edge, surface


def _density_step(own: SideMaps, prior: Plane, wall_mm: NDArray[np.int64], z_mm: float) -> Plane:
    """(angle, mm) height over ``prior`` (slices) where tissue like that under the lung's lower face ends.

    Infinite where it does not end, nan where the lung has no lower face.
    """
    lowest, has = _lowest(own.lung)
    radius = np.arange(REACH_MM)[None, :]
    columns = has & (radius > _MIN_RADIUS_MM) & (radius < wall_mm[:, None] - _MARGIN_MM)
    level = np.rint(prior).astype(int)
    height = np.arange(-round(_SEARCHED_MM / z_mm), round(_SEARCHED_MM / z_mm) + 1)
    slices = level[:, :, None] + height
    mean_hu, tissue = _mean_along(own, slices, z_mm)
    below_mm = ((lowest - level)[:, :, None] - height) * z_mm
    in_recess = columns & (radius > wall_mm[:, None] - _RECESS_WIDTH_MM) & AT_SIDE[:, None]  # far from the dome
    reference = (below_mm > _SKIPPED_MM) & (below_mm < _REFERENCE_MM) & in_recess[:, :, None] & tissue
    if not reference.any():
        return np.full(columns.shape, np.nan)
    differs = ~tissue | (np.abs(mean_hu - np.median(mean_hu[reference])) > _STEP_HU)
    differs &= (below_mm > _SKIPPED_MM) & (slices >= 0)
    step = height[-1] + 1 - differs[:, :, ::-1].argmax(axis=2)
    return np.where(columns, np.where(differs.any(axis=2), step + level - prior, np.inf), np.nan)


def _mean_along(own: SideMaps, slices: NDArray[np.int64], z_mm: float) -> tuple[NDArray[np.float32], Mask]:
    """HU in ``slices`` (angle, mm, height), smoothed over tissue and along that surface; where there is tissue."""
    inside = (slices >= 0) & (slices < own.hu.shape[2])
    index = np.clip(slices, 0, own.hu.shape[2] - 1)
    hu, lung = (np.take_along_axis(values, index, axis=2) for values in (own.hu, own.lung))
    tissue = inside & (hu > _TISSUE_HU[0]) & (hu < _TISSUE_HU[1]) & ~lung
    sigma = (*_SMOOTH[:2], _SMOOTH[2] / z_mm)
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), sigma, truncate=2)
    total = ndimage.gaussian_filter(np.where(tissue, hu, 0).astype(np.float32), sigma, truncate=2)
    return total / np.maximum(weight, 1e-3), weight > 0.3


def _common_shift(shifts: Plane, z_mm: float) -> float | None:
    """The shift (slices) that most columns share; ``None`` if too few do."""
    known = shifts[~np.isnan(shifts)]
    if not known.size:
        return None
    counts, edges = np.histogram(known[np.isfinite(known)] * z_mm, bins=np.arange(-_SEARCHED_MM, _SEARCHED_MM + 1, 2.0))
    middle = edges[np.convolve(counts, np.ones(5), mode="valid").argmax()] + 5.0
    near = known[np.abs(known * z_mm - middle) < _FORM_MM]
    return float(np.median(near)) if near.size > _FORM_SHARE * known.size else None


def _lowest(lung: Mask) -> tuple[NDArray[np.int64], Mask]:
    has: Mask = np.any(lung, axis=2)
    return np.where(has, lung.argmax(axis=2), -1), has


def _wall_radius(maps: SideMaps, bottom: Plane, known: Mask, z_mm: float) -> NDArray[np.int64]:
    """Of every angle the wall's radius in mm, 10 mm above the lung's lower edge; 0 where unknown."""
    slices = maps.wall.shape[1]
    level = np.clip(np.where(known, bottom + 10 / z_mm, slices // 3), 0, slices - 1).astype(int)
    radius = maps.wall[np.arange(ANGLES), level]
    return np.where(np.isfinite(radius), np.clip(radius, 0, REACH_MM - 1), 0).astype(int)


def _mirrored_lowest(other: SideMaps, wall_mm: NDArray[np.int64], z_mm: float) -> Plane:
    """(angle, mm) lowest slice of the other lung at the mirrored point, scaled to this side's wall; 0 without one."""
    low2, _, enough2, _ = contact_line(other, z_mm)
    wall2_mm = _wall_radius(other, low2.astype(float), enough2, z_mm)
    both = (wall_mm > 0) & (wall2_mm > 0)
    ratio = np.where(both, wall2_mm / np.maximum(wall_mm, 1), 0)
    scale = spread(ratio[:, None], both[:, None]) if both.any() else np.ones((ANGLES, 1))
    radius = np.clip(np.rint(np.arange(REACH_MM) * scale), 0, REACH_MM - 1).astype(int)
    lowest, has = _lowest(other.lung)
    rows = np.arange(ANGLES)[:, None]
    return spread(lowest[rows, radius], has[rows, radius], (1.0, 2.0))
