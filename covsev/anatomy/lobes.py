"""The five lobes, from the lungs and a prior of where people's fissures lie.

The prior is the mean height of the left oblique, right oblique and right horizontal fissure over 100 people, in
coordinates of the lung's bounding box. See ``build_fissure_model.py`` for how it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from covsev.labels import (
    LEFT_LOWER,
    LEFT_LUNG,
    LEFT_UPPER,
    RIGHT_LOWER,
    RIGHT_LUNG,
    RIGHT_MIDDLE,
    RIGHT_UPPER,
)
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, require_same_grid, to_canonical

FISSURES = ("left_oblique", "right_oblique", "right_horizontal")
GRID = np.linspace(0, 1, 33)
"""Box coordinates u (to the left) and v (to the back) at which the prior stores heights w (to the head)."""

_MAX_CUT_SHARE = 0.35  # an apex or a costophrenic angle cut off is less, half a lung is more
_OUTLIERS_PCT = 0.5  # of the lung's voxels lie outside its box at each end, so that a spur does not stretch it


@dataclass(frozen=True)
class LungBox:
    """Bounding box of one lung in canonical millimetres; box coordinates run from 0 to 1 along each axis.

    Attributes:
        lower_mm: (3,) smallest x, y, z.
        upper_mm: (3,) largest x, y, z.
    """

    lower_mm: NDArray[np.float64]
    upper_mm: NDArray[np.float64]

    @classmethod
    def around(cls, mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> LungBox:
        """Box of the True voxels of ``mask`` (X, Y, Z), measured from the centre of voxel (0, 0, 0)."""
        limits = []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            cumulative = np.cumsum(np.count_nonzero(mask, axis=others))
            share = np.array([_OUTLIERS_PCT, 100 - _OUTLIERS_PCT]) / 100 * cumulative[-1]
            limits.append(np.searchsorted(cumulative, share))
        lower, upper = np.array(limits, dtype=np.float64).T * np.asarray(spacing_mm)
        return cls(lower, np.maximum(upper, lower + np.asarray(spacing_mm)))

    def shifted(self, offset_mm: NDArray[np.float64]) -> LungBox:
        """The box moved by ``offset_mm``."""
        return LungBox(self.lower_mm + offset_mm, self.upper_mm + offset_mm)

    def to_unit(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Box coordinates of points (N, 3)."""
        return (points_mm - self.lower_mm) / (self.upper_mm - self.lower_mm)


@dataclass(frozen=True, eq=False)
class LobeSegmentation:
    """Result of :func:`segment_lobes`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid, ids of :data:`covsev.labels.LOBES`.
        method: how the fissures were placed: ``prior``, the mean of 100 people; or ``none``, without lobes, where
            a lung is cut by the scan's end so far that its box says nothing of its lobes.
    """

    labels: NDArray[np.uint8]
    method: str


@cache
def fissure_prior() -> dict[str, NDArray[np.float64]]:
    """Mean heights of the :data:`FISSURES` over :data:`GRID` x :data:`GRID`."""
    path = resources.files("covsev.anatomy") / "fissure_model.npz"
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as model:
        return {fissure: model[fissure].astype(np.float64) for fissure in FISSURES}


def segment_lobes(scan: Scan, lungs: NDArray[np.uint8]) -> LobeSegmentation:
    """Divide the lungs into five lobes at the mean fissures of 100 people.

    Args:
        scan: the scan; only its grid is used.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment_lungs`.

    Raises:
        GridMismatchError: if ``lungs`` has another shape than the scan.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung labels")
    sides = to_canonical(lungs, scan.affine)
    spacing_mm = canonical_spacing_mm(scan)
    lobes = np.zeros(sides.shape, dtype=np.uint8)
    if _cut_share(sides > 0) > _MAX_CUT_SHARE:
        return LobeSegmentation(from_canonical(lobes, scan.affine), "none")
    prior = fissure_prior()
    for side in (LEFT_LUNG.id, RIGHT_LUNG.id):
        mask = sides == side
        if not mask.any():
            continue
        box = LungBox.around(mask, spacing_mm)
        heights = {f: _height_mm(prior[f], box, mask.shape, spacing_mm) for f in FISSURES}
        z_mm = np.arange(mask.shape[2]) * spacing_mm[2]
        if side == LEFT_LUNG.id:
            below = z_mm < heights["left_oblique"][:, :, None]
            lobe = np.where(below, np.uint8(LEFT_LOWER.id), np.uint8(LEFT_UPPER.id))
        else:
            below = z_mm < heights["right_horizontal"][:, :, None]
            lobe = np.where(below, np.uint8(RIGHT_MIDDLE.id), np.uint8(RIGHT_UPPER.id))
            lobe[z_mm < heights["right_oblique"][:, :, None]] = RIGHT_LOWER.id
        lobes[mask] = lobe[mask]
    return LobeSegmentation(from_canonical(lobes, scan.affine), "prior")


def _cut_share(lung: NDArray[np.bool_]) -> float:
    """Lung area in the lowest or highest slice of the scan, as a share of the largest slice's; 0 if uncut."""
    areas = np.count_nonzero(lung, axis=(0, 1))
    return float(max(areas[0], areas[-1]) / max(1, areas.max()))


def _height_mm(
    surface: NDArray[np.float64], box: LungBox, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> NDArray[np.float64]:
    """Height of a fissure over each column (X, Y) of the volume, in canonical mm."""
    steps = len(GRID) - 1
    x, y = (np.arange(shape[axis]) * spacing_mm[axis] for axis in (0, 1))
    u = (x - box.lower_mm[0]) / (box.upper_mm[0] - box.lower_mm[0]) * steps
    v = (y - box.lower_mm[1]) / (box.upper_mm[1] - box.lower_mm[1]) * steps
    w = map_coordinates(surface, np.meshgrid(u, v, indexing="ij"), order=1, mode="nearest")
    return box.lower_mm[2] + w * (box.upper_mm[2] - box.lower_mm[2])
