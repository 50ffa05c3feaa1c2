"""The five lobes: the fissures of 100 people, shaped to these lungs and drawn to the fissures that the scan shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from covsev.anatomy.fissure_fit import Evidence, Surfaces, expected_surfaces, fit_surfaces, lung_of
from covsev.anatomy.fissure_model import (
    FISSURES,
    FISSURES_OF,
    LEFT_OBLIQUE,
    RIGHT_HORIZONTAL,
    RIGHT_OBLIQUE,
    FissureModel,
    LungFrame,
    load_fissure_model,
)
from covsev.anatomy.fissure_search import search_modes
from covsev.anatomy.fissureness import find_sheets, support, unfold
from covsev.labels import (
    LEFT_LOWER,
    LEFT_LUNG,
    LEFT_UPPER,
    RIGHT_LOWER,
    RIGHT_LUNG,
    RIGHT_MIDDLE,
    RIGHT_UPPER,
)
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, require_same_grid, to_canonical

_MAX_CUT_SHARE = 0.35  # an apex or a costophrenic angle cut off is less, half a lung is more
_MAX_SPACING_MM = 3.5  # in thicker slices fissures are blurred away
_MIN_LUNG_ML = 50.0
_REACH_MM, _NEAR_MM, _SUPPORT_MM = 36, 6, 2  # of the search, of the points for the fit, of the support
_FINE_SCALES_MM = (3.0, 2.0, 2.0)
_MIN_SUPPORT = 0.08  # of the oblique fissure; surfaces in mere noise have about this much
_MIDDLE_SHARE = (0.04, 0.30)  # of the right lung
_SEEDS = (0, 1)
_LESION_MARGIN_MM = 3.0
_Lungs = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LobeSegmentation:
    """Result of :func:`segment_lobes`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid, ids of :data:`covsev.labels.LOBES`.
        method: how the fissures were placed: ``fissures``, drawn to what the scan shows in at least one lung;
            ``prior``, where lungs of this size and shape have them on average; or ``none``, without lobes, where a
            lung is cut by the scan's end so far that its shape says nothing of its lobes.
        fissure_support: share, 0 to 1, of each surface on which the scan shows a sheet; keys as in
            :data:`covsev.anatomy.fissure_model.FISSURES`. Surfaces in mere noise reach about 0.1.
        reason: why this method, in plain words.
    """

    labels: NDArray[np.uint8]
    method: str
    fissure_support: Mapping[str, float]
    reason: str


def segment_lobes(
    scan: Scan, lungs: _Lungs, *, lesions_mask: NDArray[np.bool_] | None = None, use_fissures: bool = True
) -> LobeSegmentation:
    """Divide the lungs into five lobes.

    Args:
        scan: the scan; without ``use_fissures`` only its grid is used.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment_lungs`.
        lesions_mask: (X, Y, Z) disease, in which no fissure is sought.
        use_fissures: look for the fissures in the scan; otherwise the model alone places them.

    Raises:
        GridMismatchError: if ``lungs`` or ``lesions_mask`` has another shape than the scan.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung labels")
    if lesions_mask is not None:
        require_same_grid(scan, lesions_mask.shape, scan.affine, name="the lesion mask")
    sides, spacing_mm = to_canonical(lungs, scan.affine), canonical_spacing_mm(scan)
    nothing = dict.fromkeys(FISSURES, 0.0)
    cut = _cut_share(sides > 0)
    if cut > _MAX_CUT_SHARE or not sides.any():
        reason = (
            f"the scan's end cuts the lungs where they have {100 * cut:.0f} % of their largest area"
            if sides.any()
            else "there is no lung"
        )
        return LobeSegmentation(np.zeros_like(lungs), "none", nothing, reason)
    frames = {side: LungFrame.around(sides == side, spacing_mm) for side in FISSURES_OF if (sides == side).any()}
    expected = expected_surfaces(load_fissure_model(), frames)
    hindrance = _hindrance(spacing_mm) if use_fissures else "the scan's grey values were not used"
    if hindrance:
        labels = from_canonical(divide_lungs(sides, spacing_mm, expected), scan.affine)
        return LobeSegmentation(labels, "prior", nothing, f"{hindrance}: {_AVERAGE}")
    lesions = None if lesions_mask is None else to_canonical(lesions_mask, scan.affine)
    chest = _Chest(to_canonical(scan.hu, scan.affine), sides, _searched(sides, lesions, spacing_mm), spacing_mm)
    surfaces, found = _fit_lungs(chest, expected)
    shares = {name: chest.support(surfaces, name) if chest.is_large(lung_of(name)) else 0.0 for name in FISSURES}
    labels = from_canonical(divide_lungs(sides, spacing_mm, surfaces), scan.affine)
    return LobeSegmentation(labels, "fissures" if found else "prior", shares, _reason(frames, found, shares))


_AVERAGE = "the fissures lie where 100 people with lungs of this size and shape have them on average"


def _hindrance(spacing_mm: tuple[float, ...]) -> str:
    """Why fissures cannot be seen on such a grid, empty if they can."""
    thick = max(spacing_mm)
    return f"voxels of {thick:.1f} mm are too thick to see fissures" if thick > _MAX_SPACING_MM else ""


def _reason(frames: Mapping[int, LungFrame], found: set[int], shares: Mapping[str, float]) -> str:
    seen = [f"{n.replace('_', ' ')} on {100 * shares[n]:.0f} %" for s in sorted(found) for n in FISSURES_OF[s]]
    parts = [f"sheets in the scan support the {', the '.join(seen)} of its surface"] if seen else []
    missed = [lung.text for lung in (RIGHT_LUNG, LEFT_LUNG) if lung.id in frames and lung.id not in found]
    parts += [f"no fissure could be made out in the {text}: there {_AVERAGE}" for text in missed]
    return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class _Chest:
    """What the search works on, in canonical axes; ``searched`` holds the lung ids without disease."""

    hu: NDArray[np.generic]
    sides: _Lungs
    searched: _Lungs
    spacing_mm: tuple[float, ...]

    def is_large(self, side: int) -> bool:
        """Whether there is enough of a lung to look for fissures in it."""
        volume_ml = np.count_nonzero(self.sides == side) * np.prod(self.spacing_mm) / 1000
        return bool(volume_ml >= _MIN_LUNG_ML)

    def sheets(self, surfaces: Surfaces, side: int) -> Evidence:
        """Points on sheets near the surfaces of one lung."""
        mask = self.searched == side
        return Evidence.joined(
            [
                find_sheets(unfold(self.hu, mask, self.spacing_mm, surfaces, name, _NEAR_MM))
                for name in FISSURES_OF[side]
            ]
        )

    def support(self, surfaces: Surfaces, fissure: str) -> float:
        """Share of a surface in its lung, the horizontal one only above the oblique one, that shows a sheet."""
        mask = self.sides == lung_of(fissure)
        unfolded = unfold(self.hu, mask, self.spacing_mm, surfaces, fissure, _SUPPORT_MM)
        real = unfolded.lung_mask[..., unfolded.lung_mask.shape[2] // 2].copy()
        if fissure == RIGHT_HORIZONTAL:
            x, y = unfolded.points_mm[:, 0, 0], unfolded.points_mm[0, :, 1]
            real &= unfolded.points_mm[..., 2] > surfaces.height_mm(RIGHT_OBLIQUE, x, y)
        return round(float(support(unfolded)[real].mean()), 3) if real.any() else 0.0


def _searched(sides: _Lungs, lesions: NDArray[np.bool_] | None, spacing_mm: tuple[float, ...]) -> _Lungs:
    """Lungs without disease and its border."""
    if lesions is None or not lesions.any():
        return sides
    reach = [2 * max(1, round(_LESION_MARGIN_MM / side)) + 1 for side in spacing_mm]
    grown = lesions.astype(bool)
    for axis, size in enumerate(reach):
        shape = [size if other == axis else 1 for other in range(3)]
        grown = binary_dilation(grown, np.ones(shape, dtype=bool))
    return np.where(grown, np.uint8(0), sides)


def _fit_lungs(chest: _Chest, expected: Surfaces) -> tuple[Surfaces, set[int]]:
    """Surfaces, and in which lungs they were found in the scan rather than expected."""
    model, surfaces, found = load_fissure_model(), expected, set()
    for side in expected.frames:
        fitted = _fit_lung(chest, model, expected, side) if chest.is_large(side) else None
        if fitted is not None:
            surfaces = _with_lung(surfaces, fitted, side)
            found.add(side)
    return surfaces, found


def _fit_lung(chest: _Chest, model: FissureModel, expected: Surfaces, side: int) -> Surfaces | None:
    """Surfaces drawn to the fissures of one lung; None where none can be made out or the lobes would be absurd.

    Of the fits that begin at the expected surfaces and at those of each search, the best supported one.
    """
    names = FISSURES_OF[side]
    unfolded = {
        name: unfold(chest.hu, chest.searched == side, chest.spacing_mm, expected, name, _REACH_MM) for name in names
    }
    modes = search_modes(model, expected.frames[side], unfolded, seeds=_SEEDS)
    best, best_support = None, 0.0
    for weights in [np.zeros(len(model.modes)), *modes]:
        start = replace(expected, coefficients=expected.coefficients + np.tensordot(weights, model.modes, axes=1))
        evidence = {side: chest.sheets(start, side)}
        fitted = fit_surfaces(model, expected.frames, evidence, start=start, scales_mm=_FINE_SCALES_MM)
        shares = [chest.support(fitted, name) for name in names]
        if shares[0] >= _MIN_SUPPORT and np.mean(shares) > best_support and _plausible(chest, fitted, side):
            best, best_support = fitted, float(np.mean(shares))
    return best


def _plausible(chest: _Chest, surfaces: Surfaces, side: int) -> bool:
    """Whether the middle lobe has a share of the right lung as middle lobes have."""
    if side != RIGHT_LUNG.id:
        return True
    right, (x_mm, y_mm, z_mm) = chest.sides[::2, ::2], chest.spacing_mm
    lobes = divide_lungs(np.where(right == side, right, 0), (2 * x_mm, 2 * y_mm, z_mm), surfaces)
    share = float((lobes == RIGHT_MIDDLE.id).sum() / max(1, (lobes > 0).sum()))
    return _MIDDLE_SHARE[0] <= share <= _MIDDLE_SHARE[1]


def _with_lung(surfaces: Surfaces, fitted: Surfaces, side: int) -> Surfaces:
    """``surfaces`` with one lung's fissures replaced; both may be written in splines of different number."""
    coefficients = surfaces.refined(fitted.coefficients.shape[1]).coefficients.copy()
    for name in FISSURES_OF[side]:
        coefficients[FISSURES.index(name)] = fitted.coefficients[FISSURES.index(name)]
    return replace(surfaces, coefficients=coefficients)


def divide_lungs(sides: _Lungs, spacing_mm: tuple[float, ...], surfaces: Surfaces) -> _Lungs:
    """Lobe labels of lungs at given surfaces.

    Args:
        sides: (X, Y, Z) lung labels in canonical axes.
        spacing_mm: of the voxels.
        surfaces: of every lung that ``surfaces.frames`` names; other lungs get no lobes.
    """
    lobes = np.zeros_like(sides)
    x, y, z = (np.arange(n) * side for n, side in zip(sides.shape, spacing_mm, strict=True))
    for side in surfaces.frames:
        heights = {name: surfaces.height_mm(name, x, y)[:, :, None] for name in FISSURES_OF[side]}
        mask = sides == side
        if side == LEFT_LUNG.id:
            lobe = np.where(z < heights[LEFT_OBLIQUE], np.uint8(LEFT_LOWER.id), np.uint8(LEFT_UPPER.id))
        else:
            lobe = np.where(z < heights[RIGHT_HORIZONTAL], np.uint8(RIGHT_MIDDLE.id), np.uint8(RIGHT_UPPER.id))
            lobe[z < heights[RIGHT_OBLIQUE]] = RIGHT_LOWER.id
        np.copyto(lobes, lobe, where=mask)
    return lobes


def _cut_share(lung: NDArray[np.bool_]) -> float:
    """Lung area in the lowest or highest slice of the scan, as a share of the largest slice's; 0 if uncut."""
    areas = np.count_nonzero(lung, axis=(0, 1))
    return float(max(areas[0], areas[-1]) / max(1, areas.max()))
