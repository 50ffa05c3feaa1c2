"""Draw the expected fissures to those that the scan shows, lung by lung, where they can be made out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from covsev.labels import RIGHT_LUNG, RIGHT_MIDDLE

_MIN_LUNG_ML = 50.0
_REACH_MM, _NEAR_MM, _SUPPORT_MM = 46, 6, 2  # of the search, of the points for the fit, of the support
_FINE_SCALES_MM = (3.0, 2.0, 2.0)
_MIN_SUPPORT = 0.08  # of the oblique fissure; surfaces in mere noise have about this much
_MIDDLE_SHARE = (0.06, 0.22)  # of the right lung
_CLEAR_SUPPORT = 0.5  # mean of a lung's fissures from which they may lie where few people's do
_MIDDLE_SHARE_IF_CLEAR = (0.04, 0.30)
_SEARCHES, _GUESSES = 2, 2
_SHEETS = (4, 2)  # of those found about the oblique and about the horizontal fissure, the largest are tried
_SHEET_POINTS = 60


def find_fissures(chest: CoarseChest, expected: Surfaces) -> tuple[Surfaces, Mapping[str, float], set[int]]:
    """Surfaces, the supported share of each, and in which lungs they were found in the scan rather than expected."""
    surfaces, found = expected, set()
    for side in expected.frames:
        fitted = _fit_lung(chest, expected, side) if _is_large(chest, side) else None
        if fitted is not None:
            surfaces = _with_lung(surfaces, fitted, side)
            found.add(side)
    shares = {n: _supported_share(chest, surfaces, n) if _is_large(chest, lung_of(n)) else 0.0 for n in FISSURES}
    return surfaces, shares, found


def _is_large(chest: CoarseChest, side: int) -> bool:
    """Whether there is enough of a lung to look for fissures in it."""
    volume_ml = np.count_nonzero(chest.sides == side) * np.prod(chest.spacing_mm) / 1000
    return bool(volume_ml >= _MIN_LUNG_ML)


def _fit_lung(chest: CoarseChest, expected: Surfaces, side: int) -> Surfaces | None:
    """Surfaces drawn to the fissures of one lung; None where none can be made out or the lobes would be absurd.

    Of the fits that begin at the expected surfaces, at those of each search and at those through large sheets, the
    best supported one.
    """
    model, names = load_fissure_model(), FISSURES_OF[side]
    best, best_support = None, 0.0
    for start in [expected, *_starts(chest, expected, side)]:
        evidence = {side: _sheets(chest, start, side)}
        fitted = fit_surfaces(model, expected.frames, evidence, start=start, scales_mm=_FINE_SCALES_MM)
        shares = [_supported_share(chest, fitted, name) for name in names]
        mean_support = float(np.mean(shares))
        if shares[0] >= _MIN_SUPPORT and mean_support > best_support and _plausible(chest, fitted, side, mean_support):
            best, best_support = fitted, mean_support
    return best


def _starts(chest: CoarseChest, expected: Surfaces, side: int) -> list[Surfaces]:
    """Surfaces where the fissures of one lung may lie: by searches over the modes, and through large sheets."""
    model, searched = load_fissure_model(), chest.searched == side
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
    choices = [[None, *sheets[name][:most]] for name, most in zip(names, _SHEETS, strict=False)]
    guesses = []
    for chosen in product(*choices):
        points = {n: part.thinned(_SHEET_POINTS).points_mm for n, part in zip(names, chosen, strict=True) if part}
        if points:
            guesses.append(surfaces_through(load_fissure_model(), expected.frames, points))
    supports = [sum(_supported_share(chest, guess, name) for name in names) for guess in guesses]
    return [guesses[i] for i in np.argsort(supports)[::-1][:_GUESSES]]


def _sheets(chest: CoarseChest, surfaces: Surfaces, side: int) -> Evidence:
    """Points on sheets near the surfaces of one lung."""
    searched = chest.searched == side
    unfolded = (unfold(chest.hu, searched, chest.spacing_mm, surfaces, n, _NEAR_MM) for n in FISSURES_OF[side])
    return Evidence.joined([find_sheets(part) for part in unfolded])


def _supported_share(chest: CoarseChest, surfaces: Surfaces, fissure: str) -> float:
    """Share of a surface in its lung, the horizontal one only above the oblique one, that shows a sheet."""
    mask = chest.sides == lung_of(fissure)
    unfolded = unfold(chest.hu, mask, chest.spacing_mm, surfaces, fissure, _SUPPORT_MM)
    real = unfolded.lung_mask[..., unfolded.lung_mask.shape[2] // 2].copy()
    if fissure == RIGHT_HORIZONTAL:
        x, y = unfolded.points_mm[:, 0, 0], unfolded.points_mm[0, :, 1]
        real &= unfolded.points_mm[..., 2] > surfaces.height_mm(RIGHT_OBLIQUE, x, y)
    return round(float(support(unfolded)[real].mean()), 3) if real.any() else 0.0


def _plausible(chest: CoarseChest, surfaces: Surfaces, side: int, mean_support: float) -> bool:
    """Whether the middle lobe has a share of the right lung as middle lobes have; rarer ones must be clearly seen."""
    if side != RIGHT_LUNG.id:
        return True
    right, (x_mm, y_mm, z_mm) = chest.sides[::2, ::2], chest.spacing_mm
    lobes = divide_lungs(np.where(right == side, right, 0), (2 * x_mm, 2 * y_mm, z_mm), surfaces)
    share = float((lobes == RIGHT_MIDDLE.id).sum() / max(1, (lobes > 0).sum()))
    least, most = _MIDDLE_SHARE if mean_support < _CLEAR_SUPPORT else _MIDDLE_SHARE_IF_CLEAR
    return least <= share <= most


def _with_lung(surfaces: Surfaces, fitted: Surfaces, side: int) -> Surfaces:
    """``surfaces`` with one lung's fissures replaced; both may be written in splines of different number."""
    coefficients = surfaces.refined(fitted.coefficients.shape[1]).coefficients.copy()
    for name in FISSURES_OF[side]:
        coefficients[FISSURES.index(name)] = fitted.coefficients[FISSURES.index(name)]
    return replace(surfaces, coefficients=coefficients)
