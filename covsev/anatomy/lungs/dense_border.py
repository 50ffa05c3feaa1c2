"""The border of dense lung, moved to where tissue stops being like it.

Where dense lung ends is first predicted from the shape of the chest (``dense_lung``), which is known
to some millimetres. The scan itself knows more: fat, bone, muscle, liver and heart differ in density from the disease,
by little in one voxel but clearly in the mean of many. Each voxel's tissue votes for one side of the border with the
ratio of two likelihoods, both learned from this scan: of the density inside the predicted part, and of the density
around it. The votes, smoothed, and the distance to the present border together make the next border. Where both
tissues are alike the votes cancel, and the prediction stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Volume = NDArray[np.float32]

_STEPS = 4
_MARGIN_MM = 30.0  # around the predicted part, in which its border may move
_TISSUE_HU = (-160, 200)  # fat to enhanced vessels
_DENSITY_SD_MM, _VOTE_SD_MM = 2.0, 3.0  # of the smoothing of the density, and of the votes
_INSIDE_MM = 2.0  # deeper than this the density is the part's own
_AROUND_MM = (4.0, 20.0)  # distances at which it is that of its surroundings
_MIN_INSIDE_ML = 2.0
_MIN_AROUND_ML = 10.0
_MIN_SD_HU = 6.0
_BIN_HU = 4  # of the histogram of what is around
_MOST_VOTE = 2.0  # natural logarithm of the ratio that one place may claim
_VOTE_WEIGHT = 2.0
_BORDER_SD_MM = 2.0  # of a predicted border
_OUTWARD = 0.6  # the predicted part is more often too small than too large


def follow_density(hu: NDArray[Any], part: Mask, lung: Mask, allowed: Mask, spacing_mm: tuple[float, ...]) -> Mask:
    """``part`` with its border where the density of its tissue ends.

    Args:
        hu: (X, Y, Z) at about 2 mm.
        part: (X, Y, Z) one connected part of dense lung, as predicted from the shape of the chest.
        lung: (X, Y, Z) lung of either side that is known already, and other such parts: never part of the result.
        allowed: (X, Y, Z) where dense lung can be besides in ``part``: soft voxels within the rib cage.
        spacing_mm: of that grid.
    """
    if not part.any():
        return part
    box = _box_around(part, spacing_mm)
    tissue = (hu[box] > _TISSUE_HU[0]) & (hu[box] < _TISSUE_HU[1]) & ~lung[box]
    bone = hu[box] >= _TISSUE_HU[1]
    density = _blurred(hu[box], tissue, _DENSITY_SD_MM, spacing_mm) / _share(tissue, _DENSITY_SD_MM, spacing_mm)
    outside_lung = ~lung[box]
    share = _share(outside_lung, _VOTE_SD_MM, spacing_mm)
    free = (allowed[box] | part[box]) & outside_lung
    moved = part[box] & outside_lung
    for _ in range(_STEPS):
        depth_mm = _depth_mm(moved, spacing_mm)
        votes = _votes(density, tissue, bone, depth_mm, float(np.prod(spacing_mm)) / 1000)
        if votes is None:
            break
        smoothed = _blurred(votes, outside_lung, _VOTE_SD_MM, spacing_mm) / share
        moved = (depth_mm / _BORDER_SD_MM + _VOTE_WEIGHT * smoothed + _OUTWARD > 0) & free
    result = np.zeros_like(part)
    result[box] = moved
    return result


def _box_around(part: Mask, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    margins = [int(np.ceil(_MARGIN_MM / side)) for side in spacing_mm]
    found = ndimage.find_objects(part.view(np.uint8))[0]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margins, strict=True))


def _blurred(values: NDArray[Any] | float, where: Mask, sd_mm: float, spacing_mm: tuple[float, ...]) -> Volume:
    """``values`` in ``where``, 0 elsewhere, smoothed; over :func:`_share` of ``where`` it is the mean of near ones."""
    sigma = [sd_mm / side for side in spacing_mm]
    return ndimage.gaussian_filter(np.where(where, values, 0).astype(np.float32), sigma, truncate=2.5)  # type: ignore[no-any-return]


def _share(where: Mask, sd_mm: float, spacing_mm: tuple[float, ...]) -> Volume:
    """Share of ``where`` near each voxel, at least 0.001, so that the mean far from it is near 0."""
    return np.maximum(_blurred(1.0, where, sd_mm, spacing_mm), 1e-3)


def _depth_mm(part: Mask, spacing_mm: tuple[float, ...]) -> Volume:
    """Distance in mm to the nearest voxel on the other side of the border of ``part``, negative outside."""
    inside, outside = (ndimage.distance_transform_edt(mask, spacing_mm) for mask in (part, ~part))
    return (inside - outside).astype(np.float32)  # type: ignore[no-any-return]


def _votes(density: Volume, tissue: Mask, bone: Mask, depth_mm: Volume, voxel_ml: float) -> Volume | None:
    """Logarithm of the likelihood of each voxel's density inside the part over that around it; ``None`` if unknown.

    Inside, densities are normally distributed with a few that are not; around, they are as their histogram says. Bone
    speaks against the part. What is darker than fat holds air, which disease and the border of lung do too: no vote.
    """
    inside = tissue & (depth_mm > _INSIDE_MM)
    around = tissue & (depth_mm < -_AROUND_MM[0]) & (depth_mm > -_AROUND_MM[1])
    if np.count_nonzero(inside) * voxel_ml < _MIN_INSIDE_ML or np.count_nonzero(around) * voxel_ml < _MIN_AROUND_ML:
        return None
    middle = float(np.median(density[inside]))
    sd = max(_MIN_SD_HU, 1.48 * float(np.median(np.abs(density[inside] - middle))))
    as_inside = 0.9 * np.exp(-(((density - middle) / sd) ** 2) / 2) / (sd * np.sqrt(2 * np.pi)) + 3e-4
    bins = np.clip(((density - _TISSUE_HU[0]) / _BIN_HU).astype(int), 0, (_TISSUE_HU[1] - _TISSUE_HU[0]) // _BIN_HU - 1)
    counts = np.bincount(bins[around], minlength=bins.max() + 1).astype(float)
    as_around = ndimage.gaussian_filter1d(counts, 1.5) / counts.sum() / _BIN_HU + 2e-4
    votes = np.clip(np.log(as_inside / as_around[bins]), -_MOST_VOTE, _MOST_VOTE)
    return np.where(tissue, votes, np.where(bone, -_MOST_VOTE, 0)).astype(np.float32)
