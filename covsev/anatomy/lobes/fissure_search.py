"""Find where the model's surfaces lie in one lung: a search over its modes for the brightest, least crossed sheets.

Every candidate is a whole surface (in the right lung, two), and its score is summed over all of it. So fissures are
found that are lost in the noise at any one place. The score is the contrast of patches tilted as the surface is, less
the density of vessels, which seldom cross a fissure.

The search is the cross-entropy method (Rubinstein and Kroese 2004): draw surfaces from a normal distribution over the
modes, keep the best, and draw again around them. A lung has more than one sheet. So the search begins at several
surfaces that are unlike each other: the expected ones, and the best of a wide first draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from covsev.anatomy.lobes.fissure_model import (
    FISSURES,
    RIGHT_HORIZONTAL,
    RIGHT_OBLIQUE,
    FissureModel,
    LungFrame,
    splines,
)
from covsev.anatomy.lobes.fissureness import STEP_MM, TILTS, WIDE_STRIDE, Unfolded, vessel_density

# Contrasts are cut to this. Above, a patch counts no more, so that a few bright ones do not stand for a whole surface.
# Below 0 lie the flanks of a sheet. Uncut they would cancel it in the blur, and the search missed even plain sheets.
_CONTRAST_HU = (0.0, 30.0)
_VESSEL_WEIGHT = 0.5  # of the vessels' density against the contrast, both in standard deviations
_PRIOR_WEIGHT = 20.0  # of the modes' squared length against the columns' summed scores
# Of the columns whose contrast is known, every second is scored along x and along y: a quarter of the look-ups.
_SPARSE = 2
_STRIDE = WIDE_STRIDE * _SPARSE
# The wide first draw: how many surfaces, and the standard deviation of their weights. It is above the modes' own, which
# is 1, so that rare lungs are met.
_FIRST_DRAWS, _FIRST_SD = 1500, 1.4
_UNLIKE_MM = 8.0  # least mean distance of two beginnings, or both would find one sheet
_DRAWS, _ELITE = 300, 30  # surfaces of a round, and how many of the best are drawn around next
# The score is smooth at first, since a sharp one has no slope to a sheet far away; so many rounds at each smoothness.
_BLURS_MM, _ROUNDS = (6.0, 3.0, 1.5, 0.0), 5
# A run's first standard deviation of the weights; what is added to it in each round, lest it shrink to 0 too early; and
# the share of the last mean and deviation that stays, the method's smoothing.
_NEXT_SD, _LEAST_SD, _KEPT = 1.2, 0.02, 0.3
_LEAST_SPREAD = 1e-3  # HU; a lung whose patches all have one contrast has no spread to divide by
_Array = NDArray[np.float64]
_Volume = NDArray[np.float32]


def search_modes(
    model: FissureModel,
    frame: LungFrame,
    unfolded: Mapping[str, Unfolded],
    contrast_hu: Mapping[str, _Volume],
    *,
    count: int = 2,
    seed: int = 0,
) -> list[_Array]:
    """Mode weights (M,) of the surfaces that score best in one lung, the best first.

    Args:
        model: the prior.
        frame: of the lung.
        unfolded: the lung, unfolded about the expected surface of each of its fissures, the oblique one first.
        contrast_hu: of each fissure, :func:`covsev.anatomy.lobes.fissureness.sheet_contrast` of every
            ``WIDE_STRIDE``-th column of ``unfolded``.
        count: of the results, each from another beginning.
        seed: of the draws; the result is the same each time.
    """
    parts = [_Candidates.of(model, frame, name, part, contrast_hu[name]) for name, part in unfolded.items()]
    levels = [[part.blurred(blur_mm) for part in parts] for blur_mm in _BLURS_MM]
    draw = np.random.default_rng(seed)
    found = [_search(levels, mean, draw) for mean in _beginnings(levels[0], len(model.modes), count, draw)]
    return [weights for _, weights in sorted(found, key=lambda pair: -pair[0])]


def _beginnings(parts: list[_Candidates], modes: int, count: int, draw: np.random.Generator) -> list[_Array]:
    """The expected surfaces, then the best of many; ``count`` in all, unlike each other."""
    weights = _FIRST_SD * draw.standard_normal((_FIRST_DRAWS, modes))
    begun = [np.zeros(modes)]
    best_first = np.argsort(-_scores(parts, weights))
    for own in weights[best_first]:
        if len(begun) == count:
            break
        if all(_mean_distance_mm(parts, own - other) > _UNLIKE_MM for other in begun):
            begun.append(own)
    return begun


def _mean_distance_mm(parts: list[_Candidates], change: _Array) -> float:
    """How far a change of the weights moves the surfaces that it moves most."""
    rises_mm = (np.tensordot(change, part.modes_mm, axes=1) * part.cosines for part in parts)
    return max(float(np.abs(rise_mm).mean()) for rise_mm in rises_mm)


def _search(levels: list[list[_Candidates]], mean: _Array, draw: np.random.Generator) -> tuple[float, _Array]:
    """Score, on the last and sharpest of ``levels``, and weights of one run that begins around ``mean``."""
    sd = np.full(len(mean), _NEXT_SD)
    for parts in levels:
        for _ in range(_ROUNDS):
            weights = mean + sd * draw.standard_normal((_DRAWS, len(mean)))
            scores = _scores(parts, weights)
            elite = np.argsort(-scores)[:_ELITE]
            best = weights[elite]
            mean = _KEPT * mean + (1 - _KEPT) * best.mean(axis=0)
            narrowed = _KEPT * sd + (1 - _KEPT) * best.std(axis=0)
            sd = narrowed + _LEAST_SD
    return float(scores[elite[0]]), best[0]


def _sheet_score(unfolded: Unfolded, contrast_hu: _Volume) -> _Volume:
    """Score (5, 5, X, Y, T) of a patch of each tilt: contrast less vessels, in standard deviations; 0 where unknown."""
    # Both parts in their own standard deviations, so that noisy and quiet scans are searched alike.
    contrast = contrast_hu[:, :, ::_SPARSE, ::_SPARSE]
    known = contrast != 0
    if not known.any():
        return np.zeros_like(contrast)
    contrast = np.clip(contrast, *_CONTRAST_HU)
    level, spread = contrast[known].mean(), contrast[known].std()
    contrast = np.where(known, (contrast - level) / max(spread, _LEAST_SPREAD), 0)
    vessels = vessel_density(unfolded)[::_STRIDE, ::_STRIDE]
    spread = vessels[vessels != 0].std() if vessels.any() else 1.0
    return np.asarray(contrast - _VESSEL_WEIGHT * vessels / spread, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """One fissure's score volume and how the modes move the surface in it.

    Attributes:
        fissure: its name.
        height_mm: (X, Y) of the expected surface.
        modes_mm: (M, X, Y) change of that height by mode.
        cosines: (X, Y) of the expected surface's inclination.
        places: (M, 3, X, Y) change by mode of the place along the column and of the two tilts, in steps of ``score``.
        score: (5, 5, X, Y, T).
    """

    fissure: str
    height_mm: _Array
    modes_mm: _Array
    cosines: _Array
    places: _Volume
    score: _Volume

    @classmethod
    def of(
        cls, model: FissureModel, frame: LungFrame, fissure: str, unfolded: Unfolded, contrast_hu: _Volume
    ) -> _Candidates:
        """One fissure of one lung, given its contrast; see :func:`search_modes`."""
        # All that depends on the modes alone is computed once. A candidate is then a sum of modes and a look-up.
        some = (slice(None, None, _STRIDE), slice(None, None, _STRIDE))
        middles, cosines = unfolded.points_mm[some], unfolded.normals[some][..., 2]
        along_x = splines(frame.axis_to_unit(middles[:, 0, 0], 0))
        along_y = splines(frame.axis_to_unit(middles[0, :, 1], 1))
        modes = model.modes[:, FISSURES.index(fissure)]
        modes_mm = along_x @ modes @ along_y.T * frame.size_mm[2]
        # A change of height, seen along the column, which stands on the surface; and how much steeper it makes it.
        offsets_mm = modes_mm * cosines
        slopes = (np.gradient(offsets_mm, STEP_MM * _STRIDE, axis=axis) for axis in (1, 2))
        tilt_steps = [slope / (TILTS[1] - TILTS[0]) for slope in slopes]
        places = np.stack([offsets_mm, *tilt_steps], axis=1).astype(np.float32)
        return cls(fissure, middles[..., 2], modes_mm, cosines, places, _sheet_score(unfolded, contrast_hu))

    def blurred(self, blur_mm: float) -> _Candidates:
        """The same with the score smoothed along the columns, and among tilts as far as they move them."""
        if blur_mm == 0:
            return self
        tilts = blur_mm / 4
        score = gaussian_filter(self.score, (tilts, tilts, 0, 0, blur_mm), truncate=3.0)
        # A thin sheet fades with the blur; without the factor the prior would outweigh it.
        return replace(self, score=score * np.float32(blur_mm))

    def look_up(self, weights: _Array) -> _Volume:
        """Score (K, X, Y) of surfaces of mode weights (K, M)."""
        tilts, _, *columns, size = self.score.shape
        # One matrix product for all candidates; the nearest place and tilts are read, not interpolated.
        moved = weights.astype(np.float32) @ self.places.reshape(len(self.places), -1)
        by_kind = moved.reshape(len(weights), 3, *columns).swapaxes(0, 1)
        place, *tilted = np.rint(by_kind).astype(np.int32)
        place += size // 2
        tilt_x, tilt_y = (np.clip(tilt + tilts // 2, 0, tilts - 1) for tilt in tilted)
        column = np.arange(columns[0] * columns[1], dtype=np.int32).reshape(columns)
        # One array of indices into the flat score, not one for each of its five axes.
        patch = (tilt_x * tilts + tilt_y) * column.size + column
        index = patch * size + np.clip(place, 0, size - 1)
        # Beyond the column nothing is known, and a candidate gains nothing there.
        inside = (place >= 0) & (place < size)
        return np.where(inside, self.score.ravel()[index], np.float32(0))


def _scores(parts: list[_Candidates], weights: _Array) -> _Array:
    """Score (K,) of each row of mode weights (K, M); the horizontal fissure counts above the oblique one only."""
    # The log of the modes' normal density, weighted: unlikely surfaces must earn their place.
    total = -_PRIOR_WEIGHT / 2 * (weights**2).sum(axis=1)
    rises_mm = {part.fissure: np.tensordot(weights, part.modes_mm, axes=1) for part in parts}
    heights_mm = {part.fissure: part.height_mm + rises_mm[part.fissure] for part in parts}
    for part in parts:
        score = part.look_up(weights)
        if part.fissure == RIGHT_HORIZONTAL:
            score = np.where(heights_mm[RIGHT_HORIZONTAL] > heights_mm[RIGHT_OBLIQUE], score, 0.0)
        total += _STRIDE**2 * score.sum(axis=(1, 2))  # as if every column counted, whatever the stride
    return np.asarray(total)
