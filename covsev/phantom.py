"""A synthetic chest in HU with known truth, on any grid: for ``covsev demo`` and for the tests.

It has a body, ribs, a spine, a heart, a trachea with main bronchi, vessels, and two lungs with five lobes between plane
fissures. Its lesions are ground-glass opacities and a consolidation at the pleura. All shapes are analytic functions of
world millimetres, so the truth is exact on every grid. It is not an anatomical model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from covsev.labels import CONSOLIDATION, GROUND_GLASS, LEFT_LOBES, LEFT_LUNG, RIGHT_LOBES, RIGHT_LUNG
from covsev.scan import Scan, make_scan

# The numbers below are drawn by hand. Tests and the demonstration rely on results of this very chest: a changed number
# changes them.

# Field of view from left to right, front to back and foot to head. The body is an ellipse of 330 by 244 mm in every
# slice, so air is left around it and the first and last slices cut it.
_SIZE_MM = (360.0, 270.0, 300.0)
_LUNG_HU, _TISSUE_HU, _BONE_HU, _VESSEL_HU, _AIRWAY_HU = -850, 40, 500, 30, -990
# The ground glass, mottled as below, lies between lung and soft tissue. The consolidation is about as dense as the wall
# of the chest that it touches: thresholds alone take it for wall.
_GGO_HU, _CONSOLIDATION_HU, _OUTSIDE_HU = -520, 20, -1000
_FAT_HU, _FAT_FROM = -100.0, 0.93  # the rim under the skin, where the body's ellipse exceeds this (the skin: 1)
_NOISE_HU = 12.0  # standard deviation of the scanner's noise, independent in each voxel
_TEXTURE_HU, _TEXTURE_PX = 70.0, 1.2  # standard deviation of the mottling of ground glass, and its grain in voxels

# Centres and half axes of ellipsoids, in LPS+ mm about the middle of the chest. As in people, the left lung is smaller
# than the right one, and the heart lies mostly on its side.
_Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]
_LUNG_ELLIPSOIDS: dict[int, _Ellipsoid] = {
    RIGHT_LUNG.id: ((-78.0, 0.0, 0.0), (58.0, 88.0, 122.0)),
    LEFT_LUNG.id: ((78.0, 5.0, 0.0), (54.0, 84.0, 118.0)),
}
_HEART: _Ellipsoid = ((18.0, -38.0, -45.0), (52.0, 46.0, 52.0))
# The lungs end at a dome below each: its height far from the lung's axis, how much higher it is on it, and its width.
_DIAPHRAGM_MM, _DOME_RISE_MM, _DOME_WIDTH_MM = -85.0, 30, 45
# Planes that part the lobes: the oblique ones climb to the back, the horizontal one is level.
_OBLIQUE_MM, _OBLIQUE_SLOPE, _HORIZONTAL_MM = -10, 0.9, 5
# The trachea comes down to the carina, where the bronchi part; these go down and aside until they reach the hila.
_CARINA_MM, _HILA_MM, _HILA_ASIDE_MM, _AIRWAYS_Y_MM = 30, -5, 32, 15
_TRACHEA_RADIUS_MM, _BRONCHUS_RADIUS_MM = 8, 6.5
# No lung lies this near to an airway. Without a wall the air of lungs and airways would be one part.
_AIRWAY_WALL_MM = 3.0
_VESSELS_X_MM, _VESSELS_Y_MM = 30, 10  # where the vessels of each lung fan out from, at the height 0
_VESSEL_LENGTH_MM, _VESSEL_RADII_MM = 90, [4.0, 0.8]  # they taper from the hilum outward
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
    shape = tuple(round(size / side) for size, side in zip(_SIZE_MM, spacing_mm, strict=True))
    affine = _lps_affine(shape, spacing_mm, rotation_deg)
    hu, lungs, lobes, lesions = _draw(shape, affine, infected=infected, seed=seed)
    # Drawn in one orientation and turned afterwards, so that phantoms of all orientations have the same noise.
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
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine = np.eye(4)
    lps_to_ras = np.diag([-1, -1, 1])
    affine[:3, :3] = turn @ lps_to_ras @ np.diag(spacing_mm)
    middle_voxel = (np.array(shape) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle_voxel
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
        voxels = np.stack([i, j, np.full_like(i, k)])
        ras = np.tensordot(affine[:3, :3], voxels, axes=1) + affine[:3, 3, None, None]
        x, y, z = -ras[0], -ras[1], ras[2]  # the shapes are written in LPS+
        lungs[:, :, k] = _lungs_at(x, y, z)
        lobes[:, :, k] = _lobes_at(lungs[:, :, k], y, z)
        if infected:
            lesions[:, :, k] = _lesions_at(lungs[:, :, k], x, y, z)
        plane = _hu_at(lungs[:, :, k], lesions[:, :, k], x, y, z)
        # One generator for both: drawn in another order, every seed would give another scan.
        plane += _texture_hu(lesions[:, :, k], noise) + noise.normal(0, _NOISE_HU, plane.shape)
        hu[:, :, k] = np.rint(plane)
    return hu, lungs, lobes, lesions


_Plane = NDArray[np.float64]


def _inside(ellipsoid: _Ellipsoid, x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.bool_]:
    (cx, cy, cz), (rx, ry, rz) = ellipsoid
    along_x = ((x - cx) / rx) ** 2
    along_y = ((y - cy) / ry) ** 2
    along_z = ((z - cz) / rz) ** 2
    return along_x + along_y + along_z <= 1


def _lungs_at(x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.uint8]:
    lungs = np.zeros(x.shape, dtype=np.uint8)
    for side, ellipsoid in _LUNG_ELLIPSOIDS.items():
        cx, cy, _ = ellipsoid[0]
        aside2 = (x - cx) ** 2 + (y - cy) ** 2
        bell = np.exp(-aside2 / _DOME_WIDTH_MM**2)
        dome = _DIAPHRAGM_MM + _DOME_RISE_MM * bell
        lungs[_inside(ellipsoid, x, y, z) & (z > dome)] = side
    lungs[_inside(_HEART, x, y, z) | _airways_at(x, y, z, wall_mm=_AIRWAY_WALL_MM)] = 0
    return lungs


def _lobes_at(lungs: NDArray[np.uint8], y: _Plane, z: _Plane) -> NDArray[np.uint8]:
    left_upper, left_lower = LEFT_LOBES
    right_upper, right_middle, right_lower = RIGHT_LOBES
    below_oblique = z < _OBLIQUE_MM + _OBLIQUE_SLOPE * y
    lobes = np.zeros(lungs.shape, dtype=np.uint8)
    left, right = lungs == LEFT_LUNG.id, lungs == RIGHT_LUNG.id
    lobes[left] = np.where(below_oblique, left_lower.id, left_upper.id)[left]
    front = np.where(z < _HORIZONTAL_MM, right_middle.id, right_upper.id)
    lobes[right] = np.where(below_oblique, right_lower.id, front)[right]
    return lobes


def _lesions_at(lungs: NDArray[np.uint8], x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.uint8]:
    lesions = np.zeros(lungs.shape, dtype=np.uint8)
    # Consolidation comes last: where it overlaps ground glass, it wins.
    for label, ellipsoids in ((GROUND_GLASS, _GGO), (CONSOLIDATION, _CONSOLIDATIONS)):
        for ellipsoid in ellipsoids:
            lesions[_inside(ellipsoid, x, y, z) & (lungs > 0)] = label.id
    return lesions


def _airways_at(x: _Plane, y: _Plane, z: _Plane, wall_mm: float = 0.0) -> NDArray[np.bool_]:
    """Trachea down to the carina, then two bronchi to the hila."""
    behind = y - _AIRWAYS_Y_MM
    trachea = np.hypot(x, behind) <= _TRACHEA_RADIUS_MM + wall_mm
    along = np.clip((_CARINA_MM - z) / (_CARINA_MM - _HILA_MM), 0, 1)
    aside = np.abs(x) - _HILA_ASIDE_MM * along  # |x| draws both bronchi at once
    bronchi = np.hypot(aside, behind) <= _BRONCHUS_RADIUS_MM + wall_mm
    above, below = z > _CARINA_MM, z <= _CARINA_MM
    return (trachea & above) | (bronchi & below & (z > _HILA_MM))


def _vessels_at(x: _Plane, y: _Plane, z: _Plane) -> NDArray[np.bool_]:
    """Tapering tubes that fan out of both hila."""
    vessels = np.zeros(x.shape, dtype=bool)
    px, py, pz = np.abs(x) - _VESSELS_X_MM, y - _VESSELS_Y_MM, z  # |x| draws both lungs' vessels at once
    from_hilum2 = px**2 + py**2 + pz**2
    for dx, dy, dz in _vessel_directions():
        t = px * dx + py * dy + pz * dz
        distance2 = from_hilum2 - t**2  # from the vessel's axis, by Pythagoras
        radius = np.interp(t, [0, _VESSEL_LENGTH_MM], _VESSEL_RADII_MM)
        on_axis = (t > 0) & (t < _VESSEL_LENGTH_MM)
        vessels |= on_axis & (distance2 < radius**2)
    return vessels


def _vessel_directions() -> Iterator[tuple[float, float, float]]:
    """Unit vectors from a hilum outward, to the front and back and up and down."""
    for azimuth in np.linspace(-70, 70, 5):
        for elevation in (-50, -20, 10, 40):
            a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
            level = np.cos(e)
            yield level * np.cos(a), level * np.sin(a), np.sin(e)


def _texture_hu(lesions: NDArray[np.uint8], noise: np.random.Generator) -> NDArray[np.float64]:
    """Mottling of ground glass, coarser than the scan's noise; networks do not take even grey for disease."""
    # Blurring makes noise weaker, so its own spread is divided out. All of the slice is drawn, whatever the lesions
    # in it: with and without them the noise that follows is the same.
    grain = gaussian_filter(noise.normal(0, 1, lesions.shape), _TEXTURE_PX)
    return np.where(lesions == GROUND_GLASS.id, _TEXTURE_HU * grain / grain.std(), 0.0)


def _hu_at(
    lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], x: _Plane, y: _Plane, z: _Plane
) -> NDArray[np.float64]:
    skin = (x / 165) ** 2 + (y / 122) ** 2
    body = np.where(skin > _FAT_FROM, _FAT_HU, _TISSUE_HU)
    hu = np.where(skin <= 1, body, _OUTSIDE_HU)
    # Ribs: rings of 9 mm every 24 mm that climb to the front, in a shell within the body. Then the spine.
    cage = (x / 148) ** 2 + (y / 105) ** 2
    rib_phase = np.mod(z + 0.3 * y, 24)
    shell = (cage > 0.93) & (cage < 1)
    hu[shell & (rib_phase < 9)] = _BONE_HU
    hu[np.hypot(x, y - 78) < 17] = _BONE_HU
    # From here on the later stands before the earlier: lesions hide vessels, and nothing hides an airway.
    inside = lungs > 0
    hu[inside] = _LUNG_HU
    hu[inside & _vessels_at(x, y, z)] = _VESSEL_HU
    hu[lesions == GROUND_GLASS.id] = _GGO_HU
    hu[lesions == CONSOLIDATION.id] = _CONSOLIDATION_HU
    hu[_airways_at(x, y, z)] = _AIRWAY_HU
    return hu
