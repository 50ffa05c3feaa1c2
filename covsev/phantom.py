"""A synthetic chest in HU with known truth, on any grid: for ``covsev demo`` and for the tests.

Body, ribs, spine, heart, trachea and main bronchi, vessels, two lungs with five lobes between plane fissures,
ground-glass opacities and a consolidation at the pleura. All shapes are analytic functions of world millimetres,
so that the truth on a grid is exact. It is not an anatomical model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from covsev.labels import CONSOLIDATION, GROUND_GLASS, LEFT_LOBES, LEFT_LUNG, RIGHT_LOBES, RIGHT_LUNG
from covsev.scan import Scan, make_scan

_SIZE_MM = (360.0, 270.0, 300.0)
_LUNG_HU, _TISSUE_HU, _BONE_HU, _VESSEL_HU, _AIRWAY_HU = -850, 40, 500, 30, -990
_GGO_HU, _CONSOLIDATION_HU, _OUTSIDE_HU = -520, 20, -1000
_NOISE_HU = 12.0
_TEXTURE_HU, _TEXTURE_PX = 70.0, 1.2

# Centres and half axes of ellipsoids, in LPS+ mm about the middle of the chest.
_Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]
_LUNG_ELLIPSOIDS: dict[int, _Ellipsoid] = {
    RIGHT_LUNG.id: ((-78.0, 0.0, 0.0), (58.0, 88.0, 122.0)),
    LEFT_LUNG.id: ((78.0, 5.0, 0.0), (54.0, 84.0, 118.0)),
}
_HEART: _Ellipsoid = ((18.0, -38.0, -45.0), (52.0, 46.0, 52.0))
_DIAPHRAGM_MM = -85.0  # the lungs' domes end here
_GGO: tuple[_Ellipsoid, ...] = (
    ((-110.0, 55.0, -40.0), (22.0, 22.0, 26.0)),
    ((100.0, 60.0, -45.0), (20.0, 18.0, 22.0)),
    ((-95.0, 30.0, 60.0), (14.0, 14.0, 14.0)),
)
_CONSOLIDATIONS: tuple[_Ellipsoid, ...] = (((-88.0, 80.0, -50.0), (20.0, 16.0, 20.0)),)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic scan and its truth, all on one grid.

    Attributes:
        scan: the volume.
        lungs, lobes, lesions: (X, Y, Z) uint8, ids of :mod:`covsev.labels`.
    """

    scan: Scan
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8]
    lesions: NDArray[np.uint8]


def make_phantom(
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.5),
    *,
    orientation: str = "LPS",
    rotation_deg: float = 0.0,
    infected: bool = True,
    seed: int = 0,
    case: str = "phantom",
) -> Phantom:
    """A phantom on a grid of the caller's choice.

    Args:
        spacing_mm: along the patient's left-right, front-back and foot-head axes, whatever ``orientation``.
        orientation: direction in which each array axis grows, such as ``LPS`` or ``SAR``.
        rotation_deg: obliquity of the grid, about the foot-head axis.
        infected: with lesions.
        seed: of the noise.
        case: name of the scan.
    """
    import nibabel as nib

    shape = tuple(round(size / side) for size, side in zip(_SIZE_MM, spacing_mm, strict=True))
    affine = _lps_affine(shape, spacing_mm, rotation_deg)
    hu, lungs, lobes, lesions = _draw(shape, affine, infected=infected, seed=seed)
    to_orientation = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(orientation)
    )
    arrays = [
        np.ascontiguousarray(nib.apply_orientation(array, to_orientation)) for array in (hu, lungs, lobes, lesions)
    ]
    affine = affine @ nib.orientations.inv_ornt_aff(to_orientation, shape)
    scan = make_scan(arrays[0], affine, case=case, source=Path("phantom"))
    return Phantom(scan, arrays[1], arrays[2], arrays[3])


def _lps_affine(shape: tuple[int, ...], spacing_mm: tuple[float, ...], rotation_deg: float) -> NDArray[np.float64]:
    """RAS+ affine of an LPS grid centred on the world's origin and turned about z."""
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1, -1, 1]) @ np.diag(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _draw(
    shape: tuple[int, ...], affine: NDArray[np.float64], *, infected: bool, seed: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """HU, lungs, lobes and lesions, slice by slice to keep memory low."""
    hu = np.empty(shape, dtype=np.int16)
    lungs, lobes, lesions = (np.zeros(shape, dtype=np.uint8) for _ in range(3))
    noise = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    for k in range(shape[2]):
        ras = np.tensordot(affine[:3, :3], np.stack([i, j, np.full_like(i, k)]), axes=1) + affine[:3, 3, None, None]
        x, y, z = -ras[0], -ras[1], ras[2]
        lungs[:, :, k] = _lungs_at(x, y, z)
        lobes[:, :, k] = _lobes_at(lungs[:, :, k], y, z)
        if infected:
            lesions[:, :, k] = _lesions_at(lungs[:, :, k], x, y, z)
        plane = _hu_at(lungs[:, :, k], lesions[:, :, k], x, y, z)
        plane += _texture_hu(lesions[:, :, k], noise) + noise.normal(0, _NOISE_HU, plane.shape)
        hu[:, :, k] = np.rint(plane)
    return hu, lungs, lobes, lesions


_Plane = NDArray[np.float64]


def _inside(ellipsoid: _Ellipsoid, x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.bool_]:
    (cx, cy, cz), (rx, ry, rz) = ellipsoid
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 <= 1


def _lungs_at(x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.uint8]:
    lungs = np.zeros(x.shape, dtype=np.uint8)
    for side, ellipsoid in _LUNG_ELLIPSOIDS.items():
        cx, cy, _ = ellipsoid[0]
        dome = _DIAPHRAGM_MM + 30 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 45**2)
        lungs[_inside(ellipsoid, x, y, z) & (z > dome)] = side
    lungs[_inside(_HEART, x, y, z) | _airways_at(x, y, z, wall_mm=3.0)] = 0
    return lungs


def _lobes_at(lungs: NDArray[np.uint8], y: _Plane, z: _Plane) -> NDArray[np.uint8]:
    left_upper, left_lower = LEFT_LOBES
    right_upper, right_middle, right_lower = RIGHT_LOBES
    below_oblique = z < -10 + 0.9 * y  # the oblique fissure climbs to the back
    lobes = np.zeros(lungs.shape, dtype=np.uint8)
    left, right = lungs == LEFT_LUNG.id, lungs == RIGHT_LUNG.id
    lobes[left] = np.where(below_oblique, left_lower.id, left_upper.id)[left]
    front = np.where(z < 5, right_middle.id, right_upper.id)
    lobes[right] = np.where(below_oblique, right_lower.id, front)[right]
    return lobes


def _lesions_at(lungs: NDArray[np.uint8], x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.uint8]:
    lesions = np.zeros(lungs.shape, dtype=np.uint8)
    for label, ellipsoids in ((GROUND_GLASS, _GGO), (CONSOLIDATION, _CONSOLIDATIONS)):
        for ellipsoid in ellipsoids:
            lesions[_inside(ellipsoid, x, y, z) & (lungs > 0)] = label.id
    return lesions


def _airways_at(x: _Plane, y: _Plane, z: _Plane, wall_mm: float = 0.0) -> NDArray[np.bool_]:
    """Trachea down to the carina, then two bronchi to the hila."""
    trachea = (np.hypot(x, y - 15) <= 8 + wall_mm) & (z > 30)
    along = np.clip((30 - z) / 35, 0, 1)
    bronchi = (np.hypot(np.abs(x) - 32 * along, y - 15) <= 6.5 + wall_mm) & (z <= 30) & (z > -5)
    return trachea | bronchi


def _vessels_at(x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.bool_]:
    """Tapering tubes that fan out of both hila."""
    vessels = np.zeros(x.shape, dtype=bool)
    for azimuth in np.linspace(-70, 70, 5):
        for elevation in (-50, -20, 10, 40):
            a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
            direction = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
            px, py, pz = np.abs(x) - 30, y - 10, z
            t = px * direction[0] + py * direction[1] + pz * direction[2]
            distance2 = px**2 + py**2 + pz**2 - t**2
            radius = np.interp(t, [0, 90], [4.0, 0.8])
            vessels |= (t > 0) & (t < 90) & (distance2 < radius**2)
    return vessels


def _texture_hu(lesions: NDArray[np.uint8], noise: np.random.Generator) -> NDArray[np.float64]:
    """Mottling of ground glass, coarser than the scan's noise; networks do not take even grey for disease."""
    grain = gaussian_filter(noise.normal(0, 1, lesions.shape), _TEXTURE_PX)
    return np.where(lesions == GROUND_GLASS.id, _TEXTURE_HU * grain / grain.std(), 0.0)


def _hu_at(
    lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], x: _Plane, y: _Plane, z: _Plane
) -> NDArray[np.float64]:
    skin = (x / 165) ** 2 + (y / 122) ** 2
    hu = np.where(skin <= 1, np.where(skin > 0.93, -100.0, _TISSUE_HU), _OUTSIDE_HU)
    cage = (x / 148) ** 2 + (y / 105) ** 2
    hu[(cage > 0.93) & (cage < 1) & (np.mod(z + 0.3 * y, 24) < 9)] = _BONE_HU
    hu[np.hypot(x, y - 78) < 17] = _BONE_HU
    inside = lungs > 0
    hu[inside] = _LUNG_HU
    hu[inside & _vessels_at(x, y, z)] = _VESSEL_HU
    hu[lesions == GROUND_GLASS.id] = _GGO_HU
    hu[lesions == CONSOLIDATION.id] = _CONSOLIDATION_HU
    hu[_airways_at(x, y, z)] = _AIRWAY_HU
    return hu
