"""The splines of a fissure in the columns of points: how far the points lie from it, and the equations of a fit.

Also how splines are written in finer ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.fissure_model import SPLINE_DOMAIN, LungFrame, splines

# Weight of a point by square millimetre, below which it is left out: it would change nothing but the time.
_MIN_WEIGHT = 1e-5
_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SplineColumns:
    """One fissure's splines in the columns of N points.

    Attributes:
        z_mm: (N,) height of the points, canonical mm.
        frame: of the lung.
        along_x, along_y: (N, S) values of the splines along each axis.
        change_x, change_y: (N, S) their derivatives by mm.
    """

    z_mm: _Array
    frame: LungFrame
    along_x: _Array
    along_y: _Array
    change_x: _Array
    change_y: _Array

    @classmethod
    def at(cls, points_mm: _Array, frame: LungFrame, count: int) -> SplineColumns:
        """The ``count`` splines at points (N, 3) in canonical mm."""
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
        # A height difference becomes a distance by the normal's part along z, exact where the surface is plane.
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
        roots = np.sqrt(weights[some])
        products = self.along_x[some, :, None] * self.along_y[some, None, :]
        design = products.reshape(len(some), own.size)  # a count, not -1: there may be no point at all
        # The surface's slope is held fixed: a height counts as a distance, by the cosine of its inclination.
        to_distance = roots * normals[some, 2] * self.frame.size_mm[2]
        design *= to_distance[:, None]
        return design.T @ design, design.T @ (roots * distance_mm[some])


def _sum_of_splines(own: _Array, along_x: _Array, along_y: _Array) -> _Array:
    return np.asarray(((along_x @ own) * along_y).sum(axis=1))


def refinement(count: int) -> _Array:
    """Matrix (2 count - 3, count) that writes a spline of ``count`` coefficients with half the knots' distance."""
    # The finer splines span the coarser ones, so least squares over more sites than unknowns finds them exactly.
    finer = 2 * count - 3
    sites = np.linspace(*SPLINE_DOMAIN, 4 * finer)
    solution = np.linalg.lstsq(splines(sites, finer), splines(sites, count), rcond=None)
    return np.asarray(solution[0])
