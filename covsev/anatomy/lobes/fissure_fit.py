"""Fit the fissure model to points that may lie on fissures: iteratively reweighted least squares with a prior.

The unknowns are spline coefficients of the three surfaces. Their prior is normal. Its mean is what is expected of lungs
of this size and shape. Its covariance holds the model's modes, and a small free part by which a surface can follow
evidence in detail.

Each point belongs to each fissure of its lung in part, or to none. Its weight falls with the distance to the surface
and with the angle between both. The scale of the distance is annealed from coarse to fine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, solve

from covsev.anatomy.lobes.fissure_model import (
    FISSURES,
    FISSURES_OF,
    RIGHT_HORIZONTAL,
    RIGHT_OBLIQUE,
    FissureModel,
    LungFrame,
    splines,
)
from covsev.anatomy.lobes.spline_columns import SplineColumns, refinement

SCALES_MM = (15.0, 11.0, 8.0, 6.0, 4.5, 3.5, 3.0)
"""Scales of the annealing, each a standard deviation of the distance of a fissure's points from it.

The first is wide enough to reach a fissure from the expected surface, which is off by some 8 to 11 mm (docs/lobes.md).
The last leaves strays out."""
_ROUNDS = 3  # of reweighting at each scale, since weights and surfaces depend on each other
# Standard deviation of a coefficient of the free part; the surface moves by half of it. At 0 a surface could only move
# as the modes do, which do not follow a person's fissure in detail.
_FREE_SD_MM = 6.0
_STRAY_DISTANCE = 2.5  # in scales: beyond it a point more likely belongs to nothing
# Weight of all points of a fissure together. Points are many, but neighbours are not independent: without a cap a large
# sheet would silence the prior.
_MAX_WEIGHT = 250.0
# A point's weight falls with this power of the cosine between its sheet's normal and the surface's. Sheets that cross
# the surface then hardly count.
_NORMAL_POWER = 4
_WEDGE_MM = 3.0  # the horizontal fissure ends at the oblique fissure, with this tolerance
_LEAST_TOTAL = 1e-9  # of a fissure's weights: where no point belongs to it, nothing is divided by 0
_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Points of one lung that may lie on its fissures.

    Attributes:
        points_mm: (N, 3) canonical millimetres.
        normals: (N, 3) unit normals of the sheet at each point, of either sign; zeros where unknown.
        weights: (N,) how much each point is trusted, in [0, 1].
    """

    points_mm: _Array
    normals: _Array
    weights: _Array

    @classmethod
    def of_points(cls, points_mm: _Array) -> Evidence:
        """Points (N, 3) without normals, all trusted alike."""
        return cls(points_mm, np.zeros_like(points_mm), np.ones(len(points_mm)))

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """All points of ``parts``, of which there may be none."""
        # An empty part at the end: nothing cannot be concatenated.
        parts = [*parts, cls.of_points(np.zeros((0, 3)))]
        return cls(
            np.concatenate([part.points_mm for part in parts]),
            np.concatenate([part.normals for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )

    def thinned(self, most: int) -> Evidence:
        """At most ``most`` points, evenly taken in their order."""
        every = -(-len(self.weights) // most)  # rounded up, so that never more are left
        some = slice(None, None, max(1, every))
        return Evidence(self.points_mm[some], self.normals[some], self.weights[some])


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Fissures as heights over the frames of the lungs.

    Attributes:
        frames: the lungs' frames, by lung id.
        coefficients: (3, S, S) spline coefficients, in the order of ``FISSURES``.
        belonging: by fissure, the weight (N,) that each point of evidence of its lung had in the fit, in [0, 1].
    """

    frames: Mapping[int, LungFrame]
    coefficients: _Array
    belonging: Mapping[str, _Array]

    def height_mm(self, fissure: str, x_mm: _Array, y_mm: _Array) -> _Array:
        """Height (X, Y), canonical mm, of a fissure over the columns at ``x_mm`` (X,) and ``y_mm`` (Y,)."""
        frame, own = self.frames[lung_of(fissure)], self.coefficients[FISSURES.index(fissure)]
        along_x = splines(frame.axis_to_unit(x_mm, 0), len(own))
        along_y = splines(frame.axis_to_unit(y_mm, 1), len(own))
        return frame.height_mm(along_x @ own @ along_y.T)

    def moved(self, by_mm: _Array) -> Surfaces:
        """The same surfaces and lungs, moved by ``by_mm`` (3,)."""
        frames = {side: replace(frame, centre_mm=frame.centre_mm + by_mm) for side, frame in self.frames.items()}
        return replace(self, frames=frames)

    def refined(self, count: int) -> Surfaces:
        """The same surfaces written in ``count`` splines along each axis.

        Raises:
            ValueError: if ``count`` is neither the present number nor the one that :func:`fit_surfaces` uses.
        """
        present = self.coefficients.shape[1]
        if count == present:
            return self
        refine = refinement(present)
        if count != len(refine):
            raise ValueError(f"count is {count}; {present} splines can be refined to {len(refine)}")
        return replace(self, coefficients=refine @ self.coefficients @ refine.T)


def lung_of(fissure: str) -> int:
    """Id of the lung that a fissure divides."""
    return next(side for side, names in FISSURES_OF.items() if fissure in names)


def expected_surfaces(model: FissureModel, frames: Mapping[int, LungFrame]) -> Surfaces:
    """The prior alone: the surfaces expected of lungs of this size and shape."""
    return Surfaces(frames, model.expected(frames), {})


def fit_surfaces(
    model: FissureModel,
    frames: Mapping[int, LungFrame],
    evidence: Mapping[int, Evidence],
    *,
    start: Surfaces | None = None,
    scales_mm: tuple[float, ...] = SCALES_MM,
) -> Surfaces:
    """The most probable surfaces, given points that may lie on them.

    Args:
        model: the prior.
        frames: of each lung, by lung id.
        evidence: of each lung to fit, by lung id. Given both lungs, each tells a little of the other's surfaces, since
            the modes move all fissures together.
        start: surfaces of the model to begin with; by default the expected ones.
        scales_mm: of the annealing, from coarse to fine.

    Returns:
        Surfaces in finer splines than the model's. Fissures without evidence stay as in ``start``.
    """
    # Half the knots' distance: the free part can follow what the model's splines are too coarse for.
    refine = refinement(model.mean.shape[1])
    names = [name for side in evidence for name in FISSURES_OF[side]]
    own = [FISSURES.index(name) for name in names]
    expected = refine @ model.expected(frames)[own] @ refine.T
    precision = _prior_precision(refine @ model.modes[:, own] @ refine.T, frames)
    # The points do not move, so their splines are computed once for all rounds.
    columns = {
        name: SplineColumns.at(found.points_mm, frames[side], len(refine))
        for side, found in evidence.items()
        for name in FISSURES_OF[side]
    }
    surfaces = (start or expected_surfaces(model, frames)).refined(len(refine))
    fitted = dict(zip(names, surfaces.coefficients[own], strict=True))
    belonging: dict[str, _Array] = {}
    for scale_mm in scales_mm:
        for _ in range(_ROUNDS):
            belonging = {}
            for side, found in evidence.items():
                belonging |= _belonging(found, FISSURES_OF[side], columns, fitted, scale_mm)
            fitted = _most_probable(expected, precision, columns, fitted, belonging, scale_mm)
    coefficients = surfaces.coefficients.copy()
    coefficients[own] = list(fitted.values())
    return Surfaces(frames, coefficients, belonging)


def surfaces_through(
    model: FissureModel, frames: Mapping[int, LungFrame], points_mm: Mapping[str, _Array], *, noise_mm: float = 3.0
) -> Surfaces:
    """The most probable surfaces, given points that are known to lie on the fissures.

    Unlike :func:`fit_surfaces` this is one linear regression, so that many guesses can be tried.

    Args:
        model: the prior.
        frames: of each lung, by lung id.
        points_mm: (N, 3) of each fissure that is known, by its name. Other fissures stay as expected.
        noise_mm: standard deviation of the points' distance from their fissure.
    """
    refine = refinement(model.mean.shape[1])
    names = list(points_mm)
    own = [FISSURES.index(name) for name in names]
    expected = expected_surfaces(model, frames).refined(len(refine))
    modes = refine @ model.modes[:, own] @ refine.T
    modes = modes.reshape(len(modes), -1)
    design, rise, noise = _heights_by_coefficient(expected, points_mm)
    # Written by the covariance of the heights: there are fewer points than coefficients to solve for.
    free = (_FREE_SD_MM / _mean_height_mm(frames)) ** 2
    spread = design @ modes.T @ modes + free * design  # covariance of heights and unknowns
    covariance = spread @ design.T + np.diag((noise_mm * noise) ** 2)
    change = spread.T @ solve(covariance, rise, assume_a="pos")
    coefficients = expected.coefficients.copy()
    coefficients[own] += change.reshape(len(own), len(refine), len(refine))
    return replace(expected, coefficients=coefficients)


def _heights_by_coefficient(expected: Surfaces, points_mm: Mapping[str, _Array]) -> tuple[_Array, _Array, _Array]:
    """Of all points: derivatives (N, D) by coefficient, rise (N,) and noise of 1 mm (N,), in frame units."""
    designs, rises, noises = [], [], []
    for name, points in points_mm.items():
        frame, own = expected.frames[lung_of(name)], expected.coefficients[FISSURES.index(name)]
        columns = SplineColumns.at(points, frame, len(own))
        distance_mm, normals = columns.distance_mm(own)
        products = columns.along_x[:, :, None] * columns.along_y[:, None, :]
        designs.append(products.reshape(len(points), -1))
        # A distance across a steep surface is a longer way in height.
        rises.append(distance_mm / normals[:, 2] / frame.size_mm[2])
        noises.append(1 / normals[:, 2] / frame.size_mm[2])
    return block_diag(*designs), np.concatenate(rises), np.concatenate(noises)


def _mean_height_mm(frames: Mapping[int, LungFrame]) -> float:
    """Frame height, in the mean of the lungs: what one unit of a coefficient is worth."""
    return float(np.mean([frame.size_mm[2] for frame in frames.values()]))


def _prior_precision(modes: _Array, frames: Mapping[int, LungFrame]) -> _Array:
    """Inverse covariance (D, D) of the coefficients of some fissures: the modes and the free part.

    Other fissures are left out of it: a part of a normal vector is normal, with its part of the covariance.
    """
    flat = modes.reshape(len(modes), -1)
    free = (_FREE_SD_MM / _mean_height_mm(frames)) ** 2
    # By the matrix inversion lemma only a matrix as small as the number of modes is inverted.
    small = free * np.eye(len(flat)) + flat @ flat.T
    inner = np.linalg.inv(small)
    identity = np.eye(flat.shape[1])
    return np.asarray((identity - flat.T @ inner @ flat) / free)


def _belonging(
    evidence: Evidence,
    names: tuple[str, ...],
    columns: Mapping[str, SplineColumns],
    fitted: Mapping[str, _Array],
    scale_mm: float,
) -> dict[str, _Array]:
    """How much each point of a lung belongs to each of its fissures; the rest of it belongs to none."""
    likely, distances = {}, {}
    for name in names:
        distances[name], normals = columns[name].distance_mm(fitted[name])
        cosines = np.abs((evidence.normals * normals).sum(axis=1))  # normals have no sign
        agreement = cosines**_NORMAL_POWER
        agreement[~evidence.normals.any(axis=1)] = 1.0
        scaled2 = (distances[name] / scale_mm) ** 2
        likely[name] = agreement * np.exp(-scaled2 / 2)
    if RIGHT_HORIZONTAL in likely:
        # Below the oblique fissure there is no horizontal one.
        likely[RIGHT_HORIZONTAL] *= distances[RIGHT_OBLIQUE] > -_WEDGE_MM
    # Stray points are as likely everywhere, as a fissure's are at the stray distance from it.
    stray = np.exp(-(_STRAY_DISTANCE**2) / 2)
    total = sum(likely.values()) + stray
    return {name: evidence.weights * values / total for name, values in likely.items()}


def _most_probable(
    expected: _Array,
    precision: _Array,
    columns: Mapping[str, SplineColumns],
    fitted: Mapping[str, _Array],
    belonging: Mapping[str, _Array],
    scale_mm: float,
) -> dict[str, _Array]:
    """Coefficients (S, S) of each fissure by weighted least squares, linearised at the present ones (Gauss-Newton)."""
    # All fissures at once: the prior's precision (D, D) ties them, the points add to each one's own block.
    present, count = np.array(list(fitted.values())), expected[0].size
    matrix = precision.copy()
    right = -precision @ (present - expected).ravel()
    for i, (name, coefficients) in enumerate(fitted.items()):
        weights, own = belonging[name], slice(i * count, (i + 1) * count)
        cap = min(1.0, _MAX_WEIGHT / max(weights.sum(), _LEAST_TOTAL))
        capped = weights * cap / scale_mm**2
        normal, side = columns[name].equations(coefficients, capped)
        matrix[own, own] += normal
        right[own] += side
    # A precision plus squares is positive definite, so the fastest solver does; it may spoil the matrix, used but once.
    change = solve(matrix, right, assume_a="pos", overwrite_a=True, check_finite=False)
    return dict(zip(fitted, present + change.reshape(expected.shape), strict=True))
