"""Draw the expected fissures to those that the scan shows, lung by lung.

Several guesses are fitted to sheets nearby, and the best supported fit is kept. A lung in which none can be made out
keeps the expected fissures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from covsev.anatomy.lobes.coarse_chest import CoarseChest
from covsev.anatomy.lobes.division import divide_lungs
from covsev.anatomy.lobes.fissure_fit import Evidence, Surfaces, fit_surfaces, lung_of, surfaces_through
from covsev.anatomy.lobes.fissure_model import (
    FISSURES,
    FISSURES_OF,
    RIGHT_HORIZONTAL,
    RIGHT_OBLIQUE,
    load_fissure_model,
)
from covsev.anatomy.lobes.fissure_search import search_modes
from covsev.anatomy.lobes.fissureness import WIDE_STRIDE, find_sheets, large_sheets, sheet_contrast, support, unfold
from covsev.inference.threads import thread_share
from covsev.labels import RIGHT_LUNG, RIGHT_MIDDLE

# In a smaller lung there is too little to see. It keeps the expected surfaces, and its support is 0.
_MIN_LUNG_ML = 50.0
# How far from the expected surface the search looks. Visible fissures were met some 30 mm from where the model expects
# them; beyond the reach no guess begins.
_REACH_MM = 46
# How far from a candidate the fit takes points, and the reach in which support is measured: the very surface. Support
# needs 1 mm to each side of it.
_NEAR_MM, _SUPPORT_MM = 6, 2
# Scales of the fit's annealing. Its points lie within _NEAR_MM, so coarser scales have nothing more to draw from.
_FINE_SCALES_MM = (3.0, 2.0, 2.0)
# Least support of the oblique fissure: surfaces in mere noise have about this much. Without it they would be believed.
_MIN_SUPPORT = 0.08
# Least and most share of the right lung that a middle lobe may have, chosen with the scans of docs/lobes.md in view. A
# fit beyond it is taken to have followed other sheets. A few people have rarer middle lobes, so wider bounds hold where
# the mean support of the lung's fissures is clear.
_MIDDLE_SHARE = (0.06, 0.22)
_CLEAR_SUPPORT = 0.5
_MIDDLE_SHARE_IF_CLEAR = (0.04, 0.30)
# Candidates of each kind: from searches over the modes, and through large sheets. Each costs a fit.
_SEARCHES, _GUESSES = 2, 2
# So many of the largest sheets found about the oblique and about the horizontal fissure are tried, in all pairs.
_SHEETS = (4, 2)
# Points of a sheet that a guess is laid through: one linear system of as many equations is solved for each guess.
_SHEET_POINTS = 60


def find_fissures(chest: CoarseChest, expected: Surfaces) -> tuple[Surfaces, Mapping[str, float], set[int]]:
    """Draw the expected surfaces to the scan's fissures.

    Returns:
        The surfaces; the supported share of each; and the ids of the lungs whose surfaces were found in the scan. Those
        of other lungs are the expected ones.
    """
    surfaces, found = expected, set()
    sides = [side for side in expected.frames if _is_large(chest, side)]
    with ThreadPoolExecutor(thread_share()) as threads:
        fits = _fit_lungs(chest, expected, sides, threads)
        for side, fitted in fits.items():
            surfaces = _with_lung(surfaces, fitted, side)
            found.add(side)
        # Measured for expected surfaces, too: a lung where nothing was found may still show its fissures there.
        names = [name for name in FISSURES if lung_of(name) in sides]
        supports = threads.map(lambda name: _supported_share(chest, surfaces, name), names)
        shares = dict.fromkeys(FISSURES, 0.0) | dict(zip(names, supports, strict=True))
    return surfaces, shares, found


def _is_large(chest: CoarseChest, side: int) -> bool:
    """Whether there is enough of a lung to look for fissures in it."""
    voxels = np.count_nonzero(chest.sides == side)
    volume_ml = voxels * np.prod(chest.spacing_mm) / 1000
    return bool(volume_ml >= _MIN_LUNG_ML)


def _fit_lungs(chest: CoarseChest, expected: Surfaces, sides: Sequence[int], threads: Executor) -> dict[int, Surfaces]:
    """Surfaces drawn to the fissures of each lung; none where none can be made out or the lobes would be absurd.

    Fits begin at the expected surfaces, at those of each search, and at those through large sheets. The best supported
    fit is returned.
    """
    # Both lungs, and all fits of a lung, are computed side by side: none needs another.
    starts = threads.map(lambda side: [expected, *_starts(chest, expected, side)], sides)
    begun = [(side, start) for side, of_side in zip(sides, starts, strict=True) for start in of_side]
    fits = threads.map(lambda pair: _fit(chest, expected, *pair), begun)
    best: dict[int, _Fit] = {}
    for (side, _), fit in zip(begun, fits, strict=True):  # in order, whichever ends first
        is_better = fit.seen and (side not in best or fit.support > best[side].support)
        if is_better and _plausible(chest, fit.surfaces, side, fit.support):
            best[side] = fit
    return {side: fit.surfaces for side, fit in best.items()}


@dataclass(frozen=True, eq=False)
class _Fit:
    """Surfaces fitted to one lung, their mean support, and whether its oblique fissure is seen."""

    surfaces: Surfaces
    support: float
    seen: bool


def _fit(chest: CoarseChest, expected: Surfaces, side: int, start: Surfaces) -> _Fit:
    """Surfaces of one lung fitted from ``start``."""
    model = load_fissure_model()
    evidence = {side: _sheets(chest, start, side)}
    fitted = fit_surfaces(model, expected.frames, evidence, start=start, scales_mm=_FINE_SCALES_MM)
    shares = [_supported_share(chest, fitted, name) for name in FISSURES_OF[side]]
    # The oblique fissure, the first of each lung, must be seen; the horizontal one alone does not do.
    return _Fit(fitted, float(np.mean(shares)), shares[0] >= _MIN_SUPPORT)


def _starts(chest: CoarseChest, expected: Surfaces, side: int) -> list[Surfaces]:
    """Surfaces where the fissures of one lung may lie: by searches over the modes, and through large sheets."""
    model, searched = load_fissure_model(), chest.searched == side
    # Unfolded once, and its contrast taken once: the search and the sheets read the same volumes.
    unfolded = {
        name: unfold(chest.hu, searched, chest.spacing_mm, expected, name, _REACH_MM) for name in FISSURES_OF[side]
    }
    contrast_hu = {name: sheet_contrast(part, WIDE_STRIDE) for name, part in unfolded.items()}
    modes = search_modes(model, expected.frames[side], unfolded, contrast_hu, count=_SEARCHES)
    sheets = {name: large_sheets(part, contrast_hu[name]) for name, part in unfolded.items()}
    moved = [np.tensordot(weights, model.modes, axes=1) for weights in modes]
    return [
        *(replace(expected, coefficients=expected.coefficients + change) for change in moved),
        *_through_sheets(chest, expected, sheets),
    ]


def _through_sheets(chest: CoarseChest, expected: Surfaces, sheets: Mapping[str, list[Evidence]]) -> list[Surfaces]:
    """The best supported of the surfaces through one of the largest sheets, or none, for each fissure."""
    names = tuple(sheets)
    # None: this fissure is not laid through any sheet. The left lung has but the oblique fissure, hence not strict.
    choices = [[None, *sheets[name][:most]] for name, most in zip(names, _SHEETS, strict=False)]
    guesses = []
    for chosen in product(*choices):
        named = zip(names, chosen, strict=True)
        points = {name: part.thinned(_SHEET_POINTS).points_mm for name, part in named if part}
        if points:
            guesses.append(surfaces_through(load_fissure_model(), expected.frames, points))
    supports = [sum(_supported_share(chest, guess, name) for name in names) for guess in guesses]
    best_first = np.argsort(supports)[::-1]
    return [guesses[i] for i in best_first[:_GUESSES]]


def _sheets(chest: CoarseChest, surfaces: Surfaces, side: int) -> Evidence:
    """Points on sheets near the surfaces of one lung."""
    searched = chest.searched == side
    unfolded = (unfold(chest.hu, searched, chest.spacing_mm, surfaces, n, _NEAR_MM) for n in FISSURES_OF[side])
    return Evidence.joined([find_sheets(part) for part in unfolded])


def _supported_share(chest: CoarseChest, surfaces: Surfaces, fissure: str) -> float:
    """Share of a surface in its lung, the horizontal one only above the oblique one, that shows a sheet."""
    mask = chest.sides == lung_of(fissure)
    unfolded = unfold(chest.hu, mask, chest.spacing_mm, surfaces, fissure, _SUPPORT_MM)
    middle = unfolded.lung_mask.shape[2] // 2
    real = unfolded.lung_mask[..., middle].copy()
    if fissure == RIGHT_HORIZONTAL:
        x, y = unfolded.points_mm[:, 0, 0], unfolded.points_mm[0, :, 1]
        real &= unfolded.points_mm[..., 2] > surfaces.height_mm(RIGHT_OBLIQUE, x, y)
    if not real.any():
        return 0.0
    share = support(unfolded)[real].mean()
    return round(float(share), 3)


def _plausible(chest: CoarseChest, surfaces: Surfaces, side: int, mean_support: float) -> bool:
    """Whether the middle lobe has a common share of the right lung, or a rare one and clearly seen fissures."""
    if side != RIGHT_LUNG.id:
        return True
    # Every other voxel along x and y: enough for a share, and divided for every candidate.
    sides, (x_mm, y_mm, z_mm) = chest.sides[::2, ::2], chest.spacing_mm
    right = np.where(sides == side, sides, 0)
    lobes = divide_lungs(right, (2 * x_mm, 2 * y_mm, z_mm), surfaces)
    middle, all_lobes = (lobes == RIGHT_MIDDLE.id).sum(), (lobes > 0).sum()
    share = float(middle / max(1, all_lobes))
    least, most = _MIDDLE_SHARE if mean_support < _CLEAR_SUPPORT else _MIDDLE_SHARE_IF_CLEAR
    return least <= share <= most


def _with_lung(surfaces: Surfaces, fitted: Surfaces, side: int) -> Surfaces:
    """``surfaces`` with one lung's fissures replaced by the fitted ones."""
    # A fit has more splines than the model; the lung that was not fitted must be written in as many.
    coefficients = surfaces.refined(fitted.coefficients.shape[1]).coefficients.copy()
    for name in FISSURES_OF[side]:
        coefficients[FISSURES.index(name)] = fitted.coefficients[FISSURES.index(name)]
    return replace(surfaces, coefficients=coefficients)
