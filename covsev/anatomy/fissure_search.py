"""Find where the model's surfaces lie in one lung: a search over its modes for the brightest, least crossed sheets.

Every candidate is a whole surface (in the right lung, two), and its score is summed over all of it, so that fissures
are found that are lost in the noise at any one place: the contrast of patches tilted as the surface is, less the
density of vessels, which seldom cross a fissure. The search is the cross-entropy method (Rubinstein and Kroese 2004):
draw surfaces from a normal distribution over the modes, keep the best, and draw again around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from covsev.anatomy.fissure_model import FISSURES, RIGHT_HORIZONTAL, RIGHT_OBLIQUE, FissureModel, LungFrame, splines
from covsev.anatomy.fissureness import STEP_MM, TILTS, Unfolded, sheet_contrast, vessel_density

_CONTRAST_HU = (0.0, 30.0)  # beyond, a patch counts no more; below, so that flanks do not cancel a sheet in the blur
_VESSEL_WEIGHT = 0.5
_PRIOR_WEIGHT = 20.0  # of the modes' squared length against the columns' summed scores
_STRIDE = 3  # of the columns
_DRAWS, _ELITE = 300, 30
_BLURS_MM, _ROUNDS = (6.0, 3.0, 1.5, 0.0), 5  # the score is smooth at first; rounds at each
_FIRST_SD, _LEAST_SD, _KEPT = 1.2, 0.02, 0.3
_Array = NDArray[np.float64]
_Volume = NDArray[np.float32]


def search_modes(
    model: FissureModel, frame: LungFrame, unfolded: Mapping[str, Unfolded], *, seeds: tuple[int, ...] = (0,)
) -> list[_Array]:
    """Weights (M,) of the modes whose surfaces score best in one lung, one result for each seed, the best first.

    Args:
        model: the prior.
        frame: of the lung.
        unfolded: the lung, unfolded about the expected surface of each of its fissures, the oblique one first.
        seeds: of the draws; the result is the same each time.
    """
    parts = [_Candidates.of(model, frame, name, part) for name, part in unfolded.items()]
    levels = [[part.blurred(blur_mm) for part in parts] for blur_mm in _BLURS_MM]
    found = [_search(levels, len(model.modes), np.random.default_rng(seed)) for seed in seeds]
    return [weights for _, weights in sorted(found, key=lambda pair: -pair[0])]


def _search(levels: list[list[_Candidates]], modes: int, draw: np.random.Generator) -> tuple[float, _Array]:
    """Score, on the last and sharpest of ``levels``, and weights of one run."""
    mean, sd = np.zeros(modes), np.full(modes, _FIRST_SD)
    for parts in levels:
        for _ in range(_ROUNDS):
            weights = mean + sd * draw.standard_normal((_DRAWS, modes))
            scores = _scores(parts, weights)
            elite = np.argsort(-scores)[:_ELITE]
            mean = _KEPT * mean + (1 - _KEPT) * weights[elite].mean(axis=0)
            sd = _KEPT * sd + (1 - _KEPT) * weights[elite].std(axis=0) + _LEAST_SD
    return float(scores[elite[0]]), weights[elite[0]]


def sheet_score(unfolded: Unfolded) -> _Volume:
    """Score (5, 5, X, Y, T) of a patch of each tilt: contrast less vessels, in standard deviations; 0 where unknown."""
    contrast = sheet_contrast(unfolded)
    known = contrast != 0
    if not known.any():
        return contrast
    contrast = np.clip(contrast, *_CONTRAST_HU)
    level, spread = contrast[known].mean(), contrast[known].std()
    contrast = np.where(known, (contrast - level) / max(spread, 1e-3), 0)
    vessels = vessel_density(unfolded)
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
        score: (5, 5, X, Y, T).
    """

    fissure: str
    height_mm: _Array
    modes_mm: _Array
    cosines: _Array
    score: _Volume

    @classmethod
    def of(cls, model: FissureModel, frame: LungFrame, fissure: str, unfolded: Unfolded) -> _Candidates:
        some = (slice(None, None, _STRIDE), slice(None, None, _STRIDE))
        middles = unfolded.points_mm[some]
        along_x = splines(frame.axis_to_unit(middles[:, 0, 0], 0))
        along_y = splines(frame.axis_to_unit(middles[0, :, 1], 1))
        modes = along_x @ model.modes[:, FISSURES.index(fissure)] @ along_y.T * frame.size_mm[2]
        score = np.ascontiguousarray(sheet_score(unfolded)[:, :, *some])
        return cls(fissure, middles[..., 2], modes, unfolded.normals[some][..., 2], score)

    def blurred(self, blur_mm: float) -> _Candidates:
        """The same with the score smoothed along the columns, and among tilts as far as they move them."""
        if blur_mm == 0:
            return self
        score = gaussian_filter(self.score, (blur_mm / 4, blur_mm / 4, 0, 0, blur_mm))
        return replace(self, score=score * np.float32(blur_mm))

    def look_up(self, rise_mm: _Array) -> _Array:
        """Score (K, X, Y) of surfaces raised by ``rise_mm`` (K, X, Y) above the expected one."""
        offset_mm = rise_mm * self.cosines
        tilts = [_tilt_index(np.gradient(offset_mm, STEP_MM * _STRIDE, axis=axis)) for axis in (1, 2)]
        places = np.rint(offset_mm).astype(np.intp) + self.score.shape[-1] // 2
        inside = (places >= 0) & (places < self.score.shape[-1])
        x, y = np.ogrid[: rise_mm.shape[1], : rise_mm.shape[2]]
        return np.where(inside, self.score[tilts[0], tilts[1], x, y, np.where(inside, places, 0)], 0.0)


def _tilt_index(slopes: _Array) -> NDArray[np.intp]:
    """Index of the nearest of ``TILTS``."""
    step = TILTS[1] - TILTS[0]
    return np.clip(np.rint((slopes - TILTS[0]) / step), 0, len(TILTS) - 1).astype(np.intp)


def _scores(parts: list[_Candidates], weights: _Array) -> _Array:
    """Score (K,) of each row of mode weights (K, M); the horizontal fissure counts above the oblique one only."""
    total = -_PRIOR_WEIGHT / 2 * (weights**2).sum(axis=1)
    heights = {}
    for part in parts:
        rise_mm = np.tensordot(weights, part.modes_mm, axes=1)
        heights[part.fissure] = part.height_mm + rise_mm
        score = part.look_up(rise_mm)
        if part.fissure == RIGHT_HORIZONTAL:
            score = np.where(heights[RIGHT_HORIZONTAL] > heights[RIGHT_OBLIQUE], score, 0.0)
        total += _STRIDE**2 * score.sum(axis=(1, 2))
    return np.asarray(total)
