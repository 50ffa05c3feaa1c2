"""The inner surface of the chest wall, seen along rays from the middle of the chest.

In axial slices, rays leave the midline of the chest in all directions. Along each ray of a side lie mediastinum,
lung and wall. Where ribs are hit, the wall is known; between them it is interpolated. How far the pleura lies inside
the ribs is learned from the rays on which aerated lung touches the wall, of this side and of the other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ANGLES = 90
"""Rays from the back (0 degrees) over the side to the front (180 degrees), for each side of the chest."""
DEGREES = (np.arange(ANGLES) + 0.5) * 180 / ANGLES
REACH_MM = 210
"""Samples of a ray, 1 mm apart."""

_BONE_HU = 180
_RIB_PITCH_MM = 32.0  # of neighbouring ribs; an opening of this height keeps the inner face of the rib cage
_RIB_DEPTH_MM = 4.0
_MIN_RADIUS_MM = 25  # nearer lung is not at the wall
_MAX_STEP_MM = 4.0  # aerated lung this near to the expected pleura touches the wall
_MEDIASTINAL_GAP_MM = 12  # vessels and bronchi along a ray
_UNKNOWN_MM = 400.0

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Rays:
    """Rays of both sides through a grid with axes left, back, head.

    Args:
        shape: of the grid.
        spacing_mm: of the grid.
        centre: where the rays start, as voxel coordinates in the axial plane.
    """

    def __init__(self, shape: tuple[int, ...], spacing_mm: tuple[float, ...], centre: tuple[float, float]) -> None:
        self.spacing_mm = spacing_mm
        angle, radius = np.deg2rad(DEGREES)[:, None], np.arange(REACH_MM)
        self._index = [
            (
                np.rint(centre[0] + sign * np.sin(angle) * radius / spacing_mm[0]).astype(int),
                np.rint(centre[1] + np.cos(angle) * radius / spacing_mm[1]).astype(int),
            )
            for sign in (-1, 1)
        ]
        self._shape = shape
        x_mm, y_mm = ((np.arange(n) - c) * side for n, c, side in zip(shape, centre, spacing_mm, strict=False))
        radius_mm = np.hypot(x_mm[:, None], y_mm[None, :])
        angles = np.arctan2(np.abs(x_mm[:, None]), y_mm[None, :])
        self._angle = np.clip((angles * ANGLES / np.pi).astype(int), 0, ANGLES - 1)
        self._radius = np.clip(np.rint(radius_mm).astype(int), 0, REACH_MM - 1)
        near = radius_mm < REACH_MM - 1
        self._half = (near & (x_mm <= 0)[:, None], near & (x_mm > 0)[:, None])

    def sample(self, volume: NDArray[Any], side: int, outside: float) -> NDArray[Any]:
        """``volume`` along the rays of one side (0 right, 1 left): (angle, mm, z); ``outside`` beyond the grid."""
        x, y = self._index[side]
        inside = (x >= 0) & (x < self._shape[0]) & (y >= 0) & (y < self._shape[1])
        values = volume[np.clip(x, 0, self._shape[0] - 1), np.clip(y, 0, self._shape[1] - 1)]
        values[~inside] = outside
        return values

    def paint(self, volume: NDArray[Any], along_rays: Mask, side: int, value: int) -> None:
        """Set ``volume`` to ``value`` where ``along_rays`` (angle, mm, z) of one side is set."""
        half = self._half[side]
        volume[half] = np.where(along_rays[self._angle[half], self._radius[half]], value, volume[half])


@dataclass(frozen=True, eq=False)
class SideMaps:
    """What the rays of one side of the chest meet.

    Attributes:
        hu: (angle, mm, z) along the rays.
        lung: (angle, mm, z) lung that is known.
        last: (angle, z) radius in mm of the outermost lung, -1 where a ray meets none.
        wall: (angle, z) radius of the pleura at the chest wall; infinite where no rib is near.
        contact: (angle, z) rays on which known lung touches the wall.
        thickness: (angle, z) of the stretch of lung that ends at ``last``, in mm.
    """

    hu: NDArray[Any]
    lung: Mask
    last: NDArray[np.int64]
    wall: Plane
    contact: Mask
    thickness: NDArray[np.int64]


def chest_centre(hu: NDArray[Any], lungs: NDArray[np.uint8], spacing_mm: tuple[float, ...]) -> tuple[float, float]:
    """Voxel coordinates in the axial plane: x of the spine, which disease does not move, and the lungs' middle y."""
    x, y, z = (np.flatnonzero((lungs > 0).any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    middle_x, middle_y = (x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2
    bone_x = np.nonzero(hu[:, int(middle_y) :, z[0] : z[-1] + 1] > _BONE_HU)[0]
    for half_width_mm in (60, 40, 30):
        spine = bone_x[np.abs(bone_x - middle_x) * spacing_mm[0] < half_width_mm]
        middle_x = float(np.median(spine)) if spine.size else middle_x
    return float(middle_x), float(middle_y)


def side_maps(hu: NDArray[Any], lungs: NDArray[np.uint8], rays: Rays) -> tuple[SideMaps, SideMaps]:
    """Right and left side of the chest along ``rays``.

    Args:
        hu: (X, Y, Z), axes left, back, head.
        lungs: (X, Y, Z) labels 1 right, 2 left of the lung that is known.
        rays: of that grid.
    """
    z_mm = rays.spacing_mm[2]
    values = [rays.sample(hu, side, -1024) for side in (0, 1)]
    known = [rays.sample(lungs == side + 1, side, False) for side in (0, 1)]
    last = [_last(lung) for lung in known]
    # Bone nearer than this is spine or calcified heart, on rays that meet no lung of their own side too.
    from_mm = [0.85 * np.maximum(last[s], ndimage.grey_closing(last[1 - s], size=(3, 3))) for s in (0, 1)]
    cage = [_rib_cage(values[s], last[s], from_mm[s], z_mm) for s in (0, 1)]
    gap = [cage[s] - last[s] for s in (0, 1)]
    touching = [_touching(gap[s], last[s]) for s in (0, 1)]
    maps = []
    for own, other in ((0, 1), (1, 0)):
        depth = _depth(gap[own], touching[own], gap[other], touching[other], z_mm)
        wall = np.where(np.isfinite(cage[own]), cage[own] - depth, np.inf)
        contact = (last[own] > _MIN_RADIUS_MM) & (wall - last[own] <= _MAX_STEP_MM)
        contact = ndimage.binary_opening(contact, structure=np.ones((3, 2)))
        thickness = _thickness(known[own], last[own])
        maps.append(SideMaps(values[own], known[own], last[own], wall, contact, thickness))
    return maps[0], maps[1]


def spread(values: NDArray[Any], known: Mask, step_mm: tuple[float, float] = (1.0, 1.0)) -> Plane:
    """``values`` where ``known``, elsewhere a mean of the known ones that weighs near ones more; 0 if none is known.

    A sum of normalised Gaussians whose weight falls with the cube of their width stands for inverse distances.

    Args:
        values: (A, B) map.
        known: (A, B) where it holds.
        step_mm: scale of each axis; only their ratio counts.
    """
    weights, sums, total = known.astype(float), np.zeros(known.shape), np.zeros(known.shape)
    weighted = np.where(known, values, 0.0)
    for width in (1, 2, 4, 8, 16, 32):
        sigma = (width / step_mm[0], width / step_mm[1])
        sums += ndimage.gaussian_filter(weighted, sigma, mode="nearest", truncate=3) / width**3
        total += ndimage.gaussian_filter(weights, sigma, mode="nearest", truncate=3) / width**3
    return sums / (total + 1e-12)


def _last(lung: Mask) -> NDArray[np.int64]:
    return np.where(lung.any(axis=1), lung.shape[1] - 1 - lung[:, ::-1].argmax(axis=1), -1)


def _thickness(lung: Mask, last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Length of the stretch of lung that ends at ``last``; gaps of vessels and bronchi do not end it."""
    radius = np.arange(lung.shape[1])[None, :, None]
    seen = np.maximum.accumulate(np.where(lung, radius, -999), axis=1)
    before = np.concatenate([np.full_like(seen[:, :1], -999), seen[:, :-1]], axis=1)
    begins = np.maximum.accumulate(np.where(lung & (radius - before > _MEDIASTINAL_GAP_MM), radius, -1), axis=1)
    start = np.take_along_axis(begins, np.maximum(last, 0)[:, None, :], axis=1)[:, 0]
    return np.where(last >= 0, last - start + 1, 0)


def _rib_cage(hu: NDArray[Any], last: NDArray[np.int64], from_mm: Plane, z_mm: float) -> Plane:
    """(angle, z) radius of the ribs' inner face, interpolated between ribs by a local line along z; else infinite."""
    radius = np.arange(hu.shape[1])[None, :, None]
    searched = (radius > last[:, None]) & (radius >= from_mm[:, None]) & (from_mm[:, None] > 0)
    bone = (hu > _BONE_HU) & searched
    first = np.where(bone.any(axis=1), bone.argmax(axis=1), _UNKNOWN_MM)
    # The opening keeps the nearest rib and drops shoulder blade and arm, seen between the ribs.
    height = max(3, round(_RIB_PITCH_MM / z_mm) // 2 * 2 + 1)
    inner = ndimage.grey_opening(first, size=(5, height), mode="nearest")
    rib = (first <= inner + _RIB_DEPTH_MM) & (first < _UNKNOWN_MM)
    return _local_line(first, rib, (2.0, 10 / z_mm), z_mm)


def _local_line(values: Plane, known: Mask, sigma: tuple[float, float], z_mm: float) -> Plane:
    """Weighted line of ``values`` along z about every point, infinite where nothing known is near."""

    def blurred(array: NDArray[Any]) -> Plane:
        return ndimage.gaussian_filter(np.where(known, array, 0.0), sigma, mode="nearest")  # type: ignore[no-any-return]

    z = np.broadcast_to(np.arange(values.shape[1]) * z_mm, values.shape)
    weight = blurred(np.ones(values.shape)) + 1e-9
    mean_z, mean = blurred(z) / weight, blurred(values) / weight
    variance = blurred(z * z) / weight - mean_z**2
    slope = (blurred(values * z) / weight - mean_z * mean) / (variance + 9.0)
    return np.where(weight > 0.02, mean + slope * (z - mean_z), np.inf)


def _touching(gap: Plane, last: NDArray[np.int64]) -> Mask:
    """Rays on which lung ends about as far from the rib cage as it does on most."""
    usual = gap[(last > _MIN_RADIUS_MM) & (gap >= -3) & (gap <= 10)]
    middle = float(np.median(usual)) if usual.size else 3.0
    return (last > _MIN_RADIUS_MM) & (np.abs(gap - middle) <= 5)


def _depth(own: Plane, own_known: Mask, other: Plane, other_known: Mask, z_mm: float) -> Plane:
    """(angle, z) how far the pleura lies inside the rib cage, from near rays of this side and the mirrored side."""
    sigma = (4.0, 15 / z_mm)
    sums, weights = np.zeros(own.shape), np.zeros(own.shape)
    for gap, known, weight in ((own, own_known, 1.0), (other, other_known, 0.15)):
        sums += weight * ndimage.gaussian_filter(np.where(known, gap, 0.0), sigma, mode="nearest")
        weights += weight * ndimage.gaussian_filter(known.astype(float), sigma, mode="nearest")
    far = spread(own, own_known, (1.0, z_mm / 2))
    return np.where(weights > 1e-3, sums / (weights + 1e-12), far)
