"""Lung that has become as dense as soft tissue: predicted between the chest wall and what is left of the lung.

A threshold misses consolidation, and closing the mask brings back only what aerated lung surrounds. Here the lung's
shape is predicted instead. Outside it ends at the pleura inside the ribs (``chest_wall``), below at
the diaphragm (:mod:`covsev.anatomy.lungs.diaphragm`). Towards the mediastinum it ends where aerated lung begins
or, on rays without any, where the mirrored lung does. In the end each border moves to where the density changes
(:mod:`covsev.anatomy.lungs.dense_border`).

Lung is added only on rays on which aerated lung ought to touch the wall and does not. A healthy lung tapers to a thin
edge at the wall; one that ends blunt is believed to go on, as far as its neighbours and the other lung say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from covsev.anatomy.lungs.chest_wall import (
    ANGLES,
    DEGREES,
    REACH_MM,
    Mask,
    Plane,
    Rays,
    SideMaps,
    chest_centre,
    side_maps,
    spread,
)
from covsev.anatomy.lungs.dense_border import follow_density
from covsev.anatomy.lungs.diaphragm import AT_SIDE, BACK_DEGREES, BLUNT_MM, contact_line, cut_base, diaphragm

_SOFT_HU = (-400, 200)
_LEVEL_DEGREES = 30  # nearer to the spine both lungs reach down equally far
_ASKEW_DEGREES = 24
_MAX_FRONT_DEGREES = 140  # cartilage in front is no landmark
_STRONG_GAP_MM, _WEAK_GAP_MM = 4.0, 1.0
_SPINE_DEGREES, _SPINE_GAP_MM = 30, 8.0  # beside the spine soft tissue lies between ribs and pleura
_WEAK_REACH = 6  # rays or slices around a strong gap
_MIN_SEEN = 1 / 3  # of the rays with a gap meet aerated lung, or lie below lung that disease has cut off
_OUTER_MARGIN_MM = 1.0
_WALL_TOLERANCE_MM = 3.0  # the wall is known to 2 mm (standard deviation)
_DOME_MM = 40.0  # a dome of the diaphragm rises less into the lung
_AGREES_MM = 10.0  # a blunt end at the side this little above the mirrored one is the lung's own
_APEX_TOLERANCE_MM = 40.0  # the lungs' upper ends at the wall differ by less, also if the patient lies askew
_OPENING_MM = 4.0
_MIN_ML = 3.0
_FLUID_HU = (-15.0, 15.0)  # simple fluid, undiseased; consolidation is denser
_FAT_HU = (-160, -50)  # exclusive; what is darker holds air


@dataclass(frozen=True, eq=False)
class DenseLung:
    """Result of :func:`find_dense_lung`.

    Attributes:
        labels: (X, Y, Z) uint8, 1 right and 2 left, only what is added.
        leak_suspected_ml: part of it on rays that meet no aerated lung, which do not show where it ends inside.
        possible_effusion_ml: volume between lung and wall with the density of fluid, which is not added.
    """

    labels: NDArray[np.uint8]
    leak_suspected_ml: float
    possible_effusion_ml: float


def find_dense_lung(hu: NDArray[Any], lungs: NDArray[np.uint8], spacing_mm: tuple[float, ...]) -> DenseLung:
    """Dense lung between ``lungs`` and the chest wall.

    Args:
        hu: (X, Y, Z), axes left, back, head, at about 2 mm.
        lungs: (X, Y, Z) labels 1 right, 2 left of the aerated lung, with its vessels.
        spacing_mm: of that grid.
    """
    rays = Rays(hu.shape, spacing_mm, chest_centre(hu, lungs, spacing_mm))
    maps = side_maps(hu, lungs, rays)
    found, within, unseen = (np.zeros(lungs.shape, np.uint8) for _ in range(3))
    for side, (own, other) in enumerate((maps, maps[::-1])):
        added = _missing_lung(own, other, spacing_mm[2])
        if not added.any():
            continue
        rays.paint(found, added, side, side + 1)
        rays.paint(within, _up_to(own.wall + _WALL_TOLERANCE_MM), side, side + 1)
        rays.paint(unseen, np.broadcast_to((own.last <= 0)[:, None], added.shape), side, 1)
    found[lungs > 0] = 0
    predicted, fluid = _without_fluid(found, hu, lungs, spacing_mm)
    within[fluid | ~_soft(hu)] = 0
    labels = _up_to_their_borders(predicted, within, hu, lungs, spacing_mm)
    leak_ml, fluid_ml = (np.count_nonzero(m) * _ml(spacing_mm) for m in ((labels > 0) & (unseen > 0), fluid))
    return DenseLung(labels, leak_ml, fluid_ml)


# ---- along rays ------------------------------------------------------------------------------------------------


def _missing_lung(own: SideMaps, other: SideMaps, z_mm: float) -> Mask:
    """(angle, mm, z) dense voxels that are lung by the predicted shape."""
    bottom, top, blunt, expected = _extent(own, other, z_mm)
    base = cut_base(own, other, z_mm)
    if base is not None:
        bottom, own = np.minimum(bottom, base[0]), replace(own, wall=_wall_everywhere(own.wall, z_mm))
    z = np.arange(own.wall.shape[1])
    inside = expected[:, None] & (z >= bottom[:, None]) & (z <= top[:, None])
    gap = np.where(np.isfinite(own.wall), own.wall - own.last, 0)
    rays = _rays_with_a_gap(inside, gap, own, blunt, cut_base=base is not None)
    if not rays.any():
        return np.zeros(own.lung.shape, dtype=bool)
    floor = diaphragm(own, other, bottom, blunt, expected, z_mm) if base is None else base[1]
    over_dome_mm = 0.0 if base is None else _DOME_MM
    start = np.where(own.last > 0, own.last + 1, _mediastinum(own, other, z_mm, over_dome_mm))
    radius = np.arange(REACH_MM)[None, :, None]
    between = (radius >= start[:, None]) & _up_to(own.wall + _OUTER_MARGIN_MM) & rays[:, None]
    return between & _soft(own.hu) & ~own.lung & (z >= floor[:, :, None] + 0.5)  # type: ignore[no-any-return]


def _up_to(wall: Plane) -> Mask:
    """(angle, mm, z) what lies within ``wall``; nothing where the wall is not known."""
    return np.arange(REACH_MM)[None, :, None] <= np.where(np.isfinite(wall), wall, -1)[:, None]  # type: ignore[no-any-return]


def _wall_everywhere(wall: Plane, z_mm: float) -> Plane:
    """``wall`` with its gaps filled from near rays."""
    known = np.isfinite(wall)
    return np.where(known, wall, spread(np.where(known, wall, 0), known, (1.0, z_mm / 2)))


def _rays_with_a_gap(inside: Mask, gap: Plane, own: SideMaps, blunt: Mask, *, cut_base: bool) -> Mask:
    """(angle, z) rays where lung should touch the wall and does not: clear ones, and less clear ones around them.

    A group of rays most of which meet no lung at all is no gap, unless disease cut off what is above: the patient lies
    askew, and the mirror misleads.
    """
    strong = inside & ~own.contact & (gap > np.where(DEGREES < _SPINE_DEGREES, _SPINE_GAP_MM, _STRONG_GAP_MM)[:, None])
    if cut_base:
        return strong
    strong &= (DEGREES < _MAX_FRONT_DEGREES)[:, None]
    groups, number = ndimage.label(ndimage.binary_opening(strong, structure=np.ones((3, 3))))
    seen = ndimage.mean((own.last > 0) | blunt[:, None], groups, np.arange(number + 1))
    strong = (groups > 0) & (np.atleast_1d(seen)[groups] >= _MIN_SEEN)
    around = ndimage.binary_dilation(strong, iterations=_WEAK_REACH)
    return ndimage.binary_propagation(strong, mask=strong | (inside & around & (gap > _WEAK_GAP_MM)))  # type: ignore[no-any-return]


def _extent(own: SideMaps, other: SideMaps, z_mm: float) -> tuple[Plane, Plane, Mask, Mask]:
    """Of every angle: lowest and highest slice of lung at the wall, whether its own edge is cut off, whether known."""
    low, high, enough, blunt = contact_line(own, z_mm)
    low2, high2, enough2, blunt2 = contact_line(other, z_mm)
    beside = (DEGREES > BACK_DEGREES) & (low > 1)
    tapers, tapers2 = enough & ~blunt, enough2 & ~blunt2
    lower_by = _shift(low - low2, tapers & tapers2 & beside, z_mm)
    alike = enough & enough2 & beside & (np.abs(high - high2) * z_mm < BLUNT_MM)
    higher = high2 + _shift(high - high2, alike, z_mm, level_at_spine=False)
    mirrored = low2 + lower_by
    # A blunt end holds unless the other lung goes clearly lower: at the spine healthy lung too ends blunt.
    agrees = enough & ((low - mirrored) * z_mm < np.where(AT_SIDE, _AGREES_MM, BLUNT_MM))
    bottom = np.where(tapers | agrees | ~enough2, low, mirrored)
    bottom = np.where(enough, np.minimum(bottom, low), bottom)
    cut_above = enough2 & AT_SIDE & ((higher - high) * z_mm > _APEX_TOLERANCE_MM)
    top = np.where(enough & ~cut_above, high, higher)
    # Contact at many angles where the other side has none: the patient lies askew, and the mirror says nothing.
    askew = np.count_nonzero(enough & ~enough2) * 180 / ANGLES > _ASKEW_DEGREES
    return bottom, top, blunt & ~agrees, enough if askew else enough | enough2


def _shift(difference: NDArray[Any], known: Mask, z_mm: float, *, level_at_spine: bool = True) -> Plane:
    """Difference of the two lungs' ends at every angle, from the angles where both are known."""
    if not known.any():
        return np.zeros(ANGLES)
    anchors = (DEGREES < _LEVEL_DEGREES) & level_at_spine
    usual, tolerance = np.median(difference[known]), BLUNT_MM / z_mm  # in front, disease may look like an end
    values = np.where(known, np.clip(difference, usual - tolerance, usual + tolerance), 0)
    return spread(values[:, None], (known | anchors)[:, None])[:, 0]


def _mediastinum(own: SideMaps, other: SideMaps, z_mm: float, over_dome_mm: float) -> Plane:
    """(angle, z) radius at which lung begins: this lung's, elsewhere the mirrored one shifted to its neighbours.

    Lung up to ``over_dome_mm`` higher counts, so that the dome of the diaphragm is not taken for the mediastinum.
    """
    first, first2 = (_first(_seen_from_below(maps.lung, over_dome_mm / z_mm)) for maps in (own, other))
    step_mm = (1.0, z_mm / 2)
    prior = spread(first2, first2 >= 0, step_mm)
    return prior + spread(first - prior, first >= 0, step_mm)


def _first(lung: Mask) -> NDArray[np.int64]:
    return np.where(lung.any(axis=1), lung.argmax(axis=1), -1)


def _seen_from_below(lung: Mask, slices: float) -> Mask:
    """``lung`` and what lies up to so many slices below it."""
    size = round(slices) + 1
    return ndimage.maximum_filter1d(lung, size, axis=2, origin=-(size // 2), mode="constant")  # type: ignore[no-any-return]


# ---- on the grid -----------------------------------------------------------------------------------------------


def _without_fluid(
    found: NDArray[np.uint8], hu: NDArray[Any], lungs: NDArray[np.uint8], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[np.uint8], Mask]:
    """The solid parts of ``found``, without fat, that have not the density of fluid, and those that have."""
    kept, fluid = np.zeros_like(found), np.zeros(found.shape, dtype=bool)
    for side in (1, 2):
        solid = _without_fat(found == side, hu, lungs == side, spacing_mm)
        for box, part in _solid_parts(solid, lungs == side, spacing_mm):
            if _is_fluid(hu[box][part]):
                fluid[box] |= part
            else:
                kept[box][part] = side
    return kept, fluid


def _is_fluid(hu: NDArray[Any]) -> bool:
    """Whether most of it is denser than fat, and that has the density of fluid: mixed voxels at a border are darker."""
    denser = hu[hu >= _FAT_HU[1]]
    return 2 * denser.size > hu.size and bool(_FLUID_HU[0] <= np.median(denser) <= _FLUID_HU[1])


def _up_to_their_borders(
    predicted: NDArray[np.uint8],
    allowed: NDArray[np.uint8],
    hu: NDArray[Any],
    lungs: NDArray[np.uint8],
    spacing_mm: tuple[float, ...],
) -> NDArray[np.uint8]:
    """The parts of ``predicted``, each up to where its own density ends, without fat.

    ``allowed`` says where each side may grow.
    """
    labels, known = np.zeros_like(predicted), (lungs > 0) | (predicted > 0)
    for side in (1, 2):
        moved = np.zeros(predicted.shape, dtype=bool)
        for box, inside in _solid_parts(predicted == side, lungs == side, spacing_mm):
            part = np.zeros_like(moved)
            part[box] = inside
            moved |= follow_density(hu, part, known & ~part, allowed == side, spacing_mm)
        moved = _without_fat(moved, hu, lungs == side, spacing_mm)
        for box, inside in _solid_parts(moved, lungs == side, spacing_mm):
            labels[box][inside] = side
    return labels


def _without_fat(found: Mask, hu: NDArray[Any], lung: Mask, spacing_mm: tuple[float, ...]) -> Mask:
    """``found``, but of each solid part that is mostly fat only what is denser: fat lies beside the spine, like lung.

    A part is mostly fat if more of its voxels have that density than hold more air, and than are denser.
    """
    kept = found.copy()
    for box, part in _solid_parts(found, lung, spacing_mm):
        airy, denser = part & (hu[box] <= _FAT_HU[0]), part & (hu[box] >= _FAT_HU[1])
        fat = part & ~airy & ~denser
        if np.count_nonzero(fat) > max(np.count_nonzero(airy), np.count_nonzero(denser)):
            kept[box] &= ~part | denser
    return kept


def _solid_parts(found: Mask, lung: Mask, spacing_mm: tuple[float, ...]) -> Iterator[tuple[tuple[slice, ...], Mask]]:
    """Box and mask in it of each connected part of ``found`` that is neither a thin sheet nor a crumb."""
    if not found.any():
        return
    box = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in ndimage.find_objects(found.view(np.uint8))[0])
    parts, _ = ndimage.label(_opened(found[box], lung[box], spacing_mm))
    volumes_ml = np.bincount(parts.ravel())[1:] * _ml(spacing_mm)
    for part in np.flatnonzero(volumes_ml >= _MIN_ML) + 1:
        yield box, parts == part


def _opened(found: Mask, lung: Mask, spacing_mm: tuple[float, ...]) -> Mask:
    """``found`` without what is thin even together with the lung."""
    together = sitk.GetImageFromArray((found | lung).astype(np.uint8).transpose())
    radius = [round(_OPENING_MM / 2 / side) for side in spacing_mm]
    opened = sitk.BinaryMorphologicalOpening(together, radius, sitk.sitkBox)
    return found & (sitk.GetArrayFromImage(opened).transpose() > 0)  # type: ignore[no-any-return]


def _soft(hu: NDArray[Any]) -> Mask:
    return (hu > _SOFT_HU[0]) & (hu < _SOFT_HU[1])  # type: ignore[no-any-return]


def _ml(spacing_mm: tuple[float, ...]) -> float:
    return float(np.prod(spacing_mm)) / 1000
