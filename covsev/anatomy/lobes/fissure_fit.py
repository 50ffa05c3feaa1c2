"""Fit the fissure model to points that may lie on fissures: iteratively reweighted least squares with a prior.

The unknowns are spline coefficients of the three surfaces. Their prior is normal: the mean expected of lungs of this
size and shape, the model's modes, and a small free part that lets a surface follow evidence in detail. Each point
belongs to each fissure of its lung in part, or to none: its weight falls with the distance and with the angle to the
surface, on a scale that is annealed from coarse to fine.
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
    SPLINE_DOMAIN,
    FissureModel,
    LungFrame,
    splines,
)

SCALES_MM = (15.0, 11.0, 8.0, 6.0, 4.5, 3.5, 3.0)
"""Scales of the annealing, each a standard deviation of the distance of a fissure's points from it."""
_ROUNDS = 3  # of reweighting at each scale
_FREE_SD_MM = 6.0  # of a coefficient of the free part; the surface moves by half of it
_STRAY_DISTANCE = 2.5  # in scales: beyond it a point more likely belongs to nothing
_MAX_WEIGHT = 250.0  # of all points of a fissure together; points are many, but neighbours are not independent
_MIN_WEIGHT = 1e-5  # of a point by square millimetre, below which it is left out
_NORMAL_POWER = 4
_WEDGE_MM = 3.0  # the horizontal fissure ends at the oblique fissure, with this tolerance
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
        """Points without normals, all trusted alike."""
        return cls(points_mm, np.zeros_like(points_mm), np.ones(len(points_mm)))

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """All points of several."""
        parts = [*parts, cls.of_points(np.zeros((0, 3)))]
        return cls(
            np.concatenate([part.points_mm for part in parts]),
            np.concatenate([part.normals for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )

    def thinned(self, most: int) -> Evidence:
        """At most ``most`` points, evenly taken."""
        some = slice(None, None, max(1, -(-len(self.weights) // most)))
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
        u, v = frame.axis_to_unit(x_mm, 0), frame.axis_to_unit(y_mm, 1)
        return frame.height_mm(splines(u, len(own)) @ own @ splines(v, len(own)).T)

    def moved(self, by_mm: _Array) -> Surfaces:
        """The same surfaces and lungs, moved by ``by_mm`` (3,)."""
        frames = {side: replace(frame, centre_mm=frame.centre_mm + by_mm) for side, frame in self.frames.items()}
        return replace(self, frames=frames)

    def refined(self, count: int) -> Surfaces:
        """The same surfaces in ``count`` splines along each axis: as many as now, or as :func:`fit_surfaces` uses.

        Raises:
            ValueError: if that is another number.
        """
        present = self.coefficients.shape[1]
        if count == present:
            return self
        refine = _refinement(present)
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
        evidence: of each lung to fit, by lung id; if of both, each tells a little of the other's surfaces.
        start: surfaces of the model to begin with; by default the expected ones.
        scales_mm: of the annealing, from coarse to fine.
    """
    refine = _refinement(model.mean.shape[1])
    names = [name for side in evidence for name in FISSURES_OF[side]]
    own = [FISSURES.index(name) for name in names]
    expected = refine @ model.expected(frames)[own] @ refine.T
    precision = _prior_precision(refine @ model.modes[:, own] @ refine.T, frames)
    columns = {
        name: _Columns.at(found.points_mm, frames[side], len(refine))
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
    """The most probable surfaces, given points (N, 3) that certainly lie on each named fissure, up to noise in height.

    Unlike :func:`fit_surfaces` this is one linear regression, so that many guesses can be tried.
    """
    refine = _refinement(model.mean.shape[1])
    names = list(points_mm)
    own = [FISSURES.index(name) for name in names]
    expected = expected_surfaces(model, frames).refined(len(refine))
    modes = (refine @ model.modes[:, own] @ refine.T).reshape(len(model.modes), -1)
    design, rise, noise = _heights_by_coefficient(expected, points_mm)
    height_mm = float(np.mean([frame.size_mm[2] for frame in frames.values()]))
    spread = design @ modes.T @ modes + (_FREE_SD_MM / height_mm) ** 2 * design  # covariance of heights and unknowns
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
        columns = _Columns.at(points, frame, len(own))
        distance_mm, normals = columns.distance_mm(own)
        designs.append((columns.along_x[:, :, None] * columns.along_y[:, None, :]).reshape(len(points), -1))
        rises.append(distance_mm / normals[:, 2] / frame.size_mm[2])
        noises.append(1 / normals[:, 2] / frame.size_mm[2])
    return block_diag(*designs), np.concatenate(rises), np.concatenate(noises)


def _refinement(count: int) -> _Array:
    """Matrix (2 count - 3, count) that writes a spline of ``count`` coefficients with half the knots' distance."""
    finer = 2 * count - 3
    sites = np.linspace(*SPLINE_DOMAIN, 4 * finer)
    return np.asarray(np.linalg.lstsq(splines(sites, finer), splines(sites, count), rcond=None)[0])


def _prior_precision(modes: _Array, frames: Mapping[int, LungFrame]) -> _Array:
    """Inverse covariance (D, D) of the coefficients of some fissures: the modes and the free part.

    What the modes say of the other fissures is integrated out, for a part of a normal vector is normal.
    """
    flat = modes.reshape(len(modes), -1)
    height_mm = float(np.mean([frame.size_mm[2] for frame in frames.values()]))
    free = (_FREE_SD_MM / height_mm) ** 2
    inner = np.linalg.inv(free * np.eye(len(flat)) + flat @ flat.T)  # the matrix inversion lemma
    return np.asarray((np.eye(flat.shape[1]) - flat.T @ inner @ flat) / free)


@dataclass(frozen=True, eq=False)
class _Columns:
    """One fissure's splines over the points: ``along_x`` and ``along_y`` (N, S), and their derivatives by mm."""

    z_mm: _Array
    frame: LungFrame
    along_x: _Array
    along_y: _Array
    change_x: _Array
    change_y: _Array

    @classmethod
    def at(cls, points_mm: _Array, frame: LungFrame, count: int) -> _Columns:
        u, v = frame.axis_to_unit(points_mm[:, 0], 0), frame.axis_to_unit(points_mm[:, 1], 1)
        return cls(
            points_mm[:, 2],
            frame,
            splines(u, count),
            splines(v, count),
            splines(u, count, derivative=1) / frame.size_mm[0],
            splines(v, count, derivative=1) / frame.size_mm[1],
        )

    def distance_mm(self, own: _Array) -> tuple[_Array, _Array]:
        """Signed distance (N,) of the points above the surface ``own`` (S, S), and its normals (N, 3)."""
        height = _sum_of_splines(own, self.along_x, self.along_y)
        slope_x = _sum_of_splines(own, self.change_x, self.along_y) * self.frame.size_mm[2]
        slope_y = _sum_of_splines(own, self.along_x, self.change_y) * self.frame.size_mm[2]
        normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], axis=1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return (self.z_mm - self.frame.height_mm(height)) * normals[:, 2], normals

    def equations(self, own: _Array, weights: _Array) -> tuple[_Array, _Array]:
        """Normal matrix (S * S, S * S) and right side (S * S,) of the points' weighted squared distances in mm2."""
        some = np.flatnonzero(weights > _MIN_WEIGHT)
        distance_mm, normals = self.distance_mm(own)
        design = (self.along_x[some, :, None] * self.along_y[some, None, :]).reshape(len(some), own.size)
        design *= (np.sqrt(weights[some]) * normals[some, 2] * self.frame.size_mm[2])[:, None]
        return design.T @ design, design.T @ (np.sqrt(weights[some]) * distance_mm[some])


def _sum_of_splines(own: _Array, along_x: _Array, along_y: _Array) -> _Array:
    return np.asarray(((along_x @ own) * along_y).sum(axis=1))


def _belonging(
    evidence: Evidence,
    names: tuple[str, ...],
    columns: Mapping[str, _Columns],
    fitted: Mapping[str, _Array],
    scale_mm: float,
) -> dict[str, _Array]:
    """How much each point of a lung belongs to each of its fissures, the rest being stray."""
    likely, distances = {}, {}
    for name in names:
        distances[name], normals = columns[name].distance_mm(fitted[name])
        agreement = np.abs((evidence.normals * normals).sum(axis=1)) ** _NORMAL_POWER
        agreement[~evidence.normals.any(axis=1)] = 1.0
        likely[name] = agreement * np.exp(-((distances[name] / scale_mm) ** 2) / 2)
    if RIGHT_HORIZONTAL in likely:
        likely[RIGHT_HORIZONTAL] *= distances[RIGHT_OBLIQUE] > -_WEDGE_MM
    total = sum(likely.values()) + np.exp(-(_STRAY_DISTANCE**2) / 2)
    return {name: evidence.weights * values / total for name, values in likely.items()}


def _most_probable(
    expected: _Array,
    precision: _Array,
    columns: Mapping[str, _Columns],
    fitted: Mapping[str, _Array],
    belonging: Mapping[str, _Array],
    scale_mm: float,
) -> dict[str, _Array]:
    """Coefficients (S, S) of each fissure by the weighted least squares, linearised at the present ones."""
    present, count = np.array(list(fitted.values())), expected[0].size
    matrix = precision.copy()
    right = -precision @ (present - expected).ravel()
    for i, (name, coefficients) in enumerate(fitted.items()):
        weights, own = belonging[name], slice(i * count, (i + 1) * count)
        capped = weights * min(1.0, _MAX_WEIGHT / max(weights.sum(), 1e-9)) / scale_mm**2
        normal, side = columns[name].equations(coefficients, capped)
        matrix[own, own] += normal
        right[own] += side
    change = solve(matrix, right, assume_a="pos", overwrite_a=True, check_finite=False)
    return dict(zip(fitted, present + change.reshape(expected.shape), strict=True))
