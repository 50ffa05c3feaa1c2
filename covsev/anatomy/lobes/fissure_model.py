"""Where people's fissures lie: a statistical model of the three fissures, and the lung frames that it is written in.

Every fissure is a surface of height z over the places (x, y) of one lung, in that lung's frame. Along each axis, 0.5 is
the lung's centre of mass. 0 and 1 lie two standard deviations of its mass below and above. x grows to the left, y to
the back, z to the head. A surface is a tensor product of cubic B-splines.

``build_fissure_model.py`` made the model from the fissures of 100 people. It holds the mean, how the mean changes with
the size and shape of the lungs, and the modes in which people still differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from covsev.labels import LEFT_LUNG, RIGHT_LUNG

LEFT_OBLIQUE, RIGHT_OBLIQUE, RIGHT_HORIZONTAL = FISSURES = ("left_oblique", "right_oblique", "right_horizontal")
FISSURES_OF = {LEFT_LUNG.id: (LEFT_OBLIQUE,), RIGHT_LUNG.id: (RIGHT_OBLIQUE, RIGHT_HORIZONTAL)}
"""The fissures of each lung."""
SPLINES = 8
"""Number of B-splines along x and along y in the model's surfaces; the shipped model has so many."""
SPLINE_DOMAIN = (-0.15, 1.15)
"""Frame coordinates that the splines cover: a lung reaches a little beyond two standard deviations of its mass."""

# Length of a frame's unit in standard deviations of the lung's mass. A bounding box would do for smooth lungs, but a
# spur or a cut tip moves a box and hardly moves the spread of the mass. The shipped model is written in this unit.
_FRAME_SDS = 4.0
# Order of the lungs in the model's shape numbers; the shipped arrays have it.
_FRAME_SIDES = (RIGHT_LUNG.id, LEFT_LUNG.id)
# Just within the domain, so that the last place lies between two knots, however those are rounded.
_LAST_PLACE = SPLINE_DOMAIN[1] - 1e-9
_Vector = NDArray[np.float64]


@dataclass(frozen=True)
class LungFrame:
    """Coordinates of one lung, from the mean and the spread of its volume along each axis.

    Attributes:
        centre_mm: (3,) centre of mass, canonical millimetres.
        size_mm: (3,) length of the frame's unit along each axis, four standard deviations of the lung's mass.
    """

    centre_mm: _Vector
    size_mm: _Vector

    @classmethod
    def around(cls, mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> LungFrame:
        """Frame of the True voxels of ``mask`` (X, Y, Z), measured from the centre of voxel (0, 0, 0)."""
        centres, sizes = [], []
        for axis, side_mm in enumerate(spacing_mm):
            # The mass of each plane is enough for the mean and the spread; no list of all voxels is made.
            others = tuple(other for other in range(3) if other != axis)
            mass = np.count_nonzero(mask, axis=others)
            place_mm = np.arange(mask.shape[axis]) * side_mm
            centre_mm = np.average(place_mm, weights=mass)
            sd_mm = np.sqrt(np.average((place_mm - centre_mm) ** 2, weights=mass))
            centres.append(centre_mm)
            sizes.append(_FRAME_SDS * max(sd_mm, side_mm / 2))  # a lung of one plane has no spread to divide by
        return cls(np.array(centres), np.array(sizes))

    def to_unit(self, points_mm: _Vector) -> _Vector:
        """Frame coordinates of points (N, 3)."""
        return (points_mm - self.centre_mm) / self.size_mm + 0.5

    def axis_to_unit(self, places_mm: _Vector, axis: int) -> _Vector:
        """Frame coordinates of places (N,) along one axis."""
        return (places_mm - self.centre_mm[axis]) / self.size_mm[axis] + 0.5

    def height_mm(self, heights: _Vector) -> _Vector:
        """Millimetres along z of frame coordinates."""
        return (heights - 0.5) * self.size_mm[2] + self.centre_mm[2]


@dataclass(frozen=True, eq=False)
class FissureModel:
    """Statistics of the fissures' spline coefficients over people, F = 3 fissures in the order of :data:`FISSURES`.

    Attributes:
        mean: (F, S, S) coefficients of a person whose lungs have the mean size and shape.
        by_shape: (6, F, S, S) change per unit of each number of :meth:`shape_of`, minus their mean.
        shape_mean: (6,) mean of those numbers.
        modes: (M, F, S, S) modes of what the shape does not explain, each one standard deviation long.
        reference_mm: (2, 3) frame size of the reference's right and left lung.
    """

    mean: _Vector
    by_shape: _Vector
    shape_mean: _Vector
    modes: _Vector
    reference_mm: _Vector

    def expected(self, frames: Mapping[int, LungFrame]) -> _Vector:
        """Coefficients (F, S, S) that are expected of lungs with these frames, by lung id."""
        shape = self.shape_of(frames) - self.shape_mean
        return self.mean + np.tensordot(shape, self.by_shape, axes=1)

    def shape_of(self, frames: Mapping[int, LungFrame]) -> _Vector:
        """Log sizes (6,) of the right and left lung's frame relative to the reference.

        Where one lung is missing, its size is taken to be the other's.

        Raises:
            ValueError: if ``frames`` is empty.
        """
        if not frames:
            raise ValueError("frames is empty: there is no lung to take the shape of")
        pair = next(iter(frames.values()))
        sizes_mm = np.array([frames.get(side, pair).size_mm for side in _FRAME_SIDES])
        return np.log(sizes_mm / self.reference_mm).ravel()


@cache
def load_fissure_model() -> FissureModel:
    """The model that covsev ships, read once a process."""
    # Stored in float32 to be small, used in float64: the fits solve linear systems.
    path = resources.files("covsev.anatomy.lobes") / "fissure_model.npz"
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return FissureModel(**{name: arrays[name].astype(np.float64) for name in arrays.files})


def splines(places: _Vector, count: int = SPLINES, derivative: int = 0) -> _Vector:
    """Values (N, count) of the cubic B-splines at frame coordinates (N,), or of their ``derivative``.

    Beyond the splines' domain the values at its end are returned.
    """
    if len(places) == 0:  # SciPy refuses a design matrix of no rows
        return np.zeros((0, count))
    # Cubic splines need three knots beyond each end of their domain.
    inner = np.linspace(*SPLINE_DOMAIN, count - 2)
    step = inner[1] - inner[0]
    before = inner[0] - step * np.arange(3, 0, -1)
    after = inner[-1] + step * np.arange(1, 4)
    knots = np.concatenate([before, inner, after])
    inside = np.clip(places, SPLINE_DOMAIN[0], _LAST_PLACE)
    if derivative == 0:
        return np.asarray(BSpline.design_matrix(inside, knots, 3).toarray(), dtype=np.float64)
    return np.asarray(BSpline(knots, np.eye(count), 3)(inside, nu=derivative), dtype=np.float64)


def spline_centres(count: int = SPLINES) -> _Vector:
    """Frame coordinates (count,) where the splines peak."""
    first, last = SPLINE_DOMAIN
    step = (last - first) / (count - 3)
    # The first and the last spline peak one step outside the domain.
    return first + step * (np.arange(count, dtype=np.float64) - 1)
