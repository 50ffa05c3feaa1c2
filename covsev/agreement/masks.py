"""How well one mask agrees with its reference: overlap, volume, and distance between the surfaces.

Empty masks: both empty is full agreement (Dice 1) without distances; one empty is none (Dice 0) without distances.
Sensitivity is null for an empty reference, specificity for a reference that fills the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covsev.errors import GridMismatchError
from covsev.scan.boxes import bounding_box

LUNG_TOLERANCE_MM, LESION_TOLERANCE_MM = 1.0, 3.0
_FAR_PCT = 95


@dataclass(frozen=True)
class MaskAgreement:
    """Agreement of one mask with its reference.

    Attributes:
        dice: Dice similarity coefficient, 2 |R and P| / (|R| + |P|).
        jaccard: |R and P| / |R or P|.
        sensitivity, specificity: share of the reference found, of the rest of the grid left alone.
        surface_dice: share of both surfaces within the tolerance of the other (Nikolov 2018, arXiv 1809.04430).
        hd95_mm: 95th percentile of the distances between the surfaces, the larger of both directions.
        reference_ml, predicted_ml: volumes.
        volume_error_ml, volume_error_pct: predicted minus reference, and of the reference.
    """

    dice: float
    jaccard: float
    sensitivity: float | None
    specificity: float | None
    surface_dice: float
    hd95_mm: float | None
    reference_ml: float
    predicted_ml: float
    volume_error_ml: float
    volume_error_pct: float | None


def compare_masks(
    reference: NDArray[np.bool_], predicted: NDArray[np.bool_], affine: NDArray[np.float64], *, tolerance_mm: float
) -> MaskAgreement:
    """Agreement of two masks on one grid.

    Args:
        reference, predicted: (X, Y, Z) bool.
        affine: (4, 4) voxel index to world in mm.
        tolerance_mm: of the surface Dice.

    Raises:
        GridMismatchError: if the shapes differ.
        ValueError: if ``tolerance_mm`` is negative.
    """
    if reference.shape != predicted.shape:
        raise GridMismatchError(f"predicted has shape {predicted.shape}, but reference has {reference.shape}")
    if tolerance_mm < 0:
        raise ValueError(f"tolerance_mm must be at least 0; got {tolerance_mm}")
    inside, found, hits = (int(np.count_nonzero(m)) for m in (reference, predicted, reference & predicted))
    union, outside = inside + found - hits, reference.size - inside
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    surface_dice, hd95_mm = _surfaces(reference, predicted, affine, tolerance_mm)
    return MaskAgreement(
        dice=2 * hits / (inside + found) if union else 1.0,
        jaccard=hits / union if union else 1.0,
        sensitivity=hits / inside if inside else None,
        specificity=(outside - (found - hits)) / outside if outside else None,
        surface_dice=surface_dice,
        hd95_mm=hd95_mm,
        reference_ml=inside * voxel_ml,
        predicted_ml=found * voxel_ml,
        volume_error_ml=(found - inside) * voxel_ml,
        volume_error_pct=100 * (found - inside) / inside if inside else None,
    )


def _surfaces(
    reference: NDArray[np.bool_], predicted: NDArray[np.bool_], affine: NDArray[np.float64], tolerance_mm: float
) -> tuple[float, float | None]:
    """Surface Dice and 95th percentile of the surfaces' distances.

    Distances come from a search tree of the surfaces' voxels: a distance map of the whole volume takes minutes.
    """
    surfaces = [surface_mm(mask, affine) for mask in (reference, predicted)]
    if not len(surfaces[0]) or not len(surfaces[1]):
        return float(len(surfaces[0]) == len(surfaces[1])), None
    from scipy.spatial import cKDTree

    trees = [cKDTree(points) for points in surfaces]
    distances = [trees[1].query(surfaces[0])[0], trees[0].query(surfaces[1])[0]]
    near = sum(int(np.count_nonzero(distance <= tolerance_mm)) for distance in distances)
    return near / sum(map(len, distances)), max(float(np.percentile(distance, _FAR_PCT)) for distance in distances)


def surface_mm(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """World coordinates (N, 3) in mm of the voxels of ``mask`` that have a face outside it."""
    box = bounding_box(mask)
    # A rim of background around the box: the neighbours that a roll brings from the other end are then outside, too.
    padded = np.pad(mask[box], 1)
    inner = padded.copy()
    for axis in range(3):
        inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    first = np.array([side.start for side in box])
    voxels = np.argwhere(padded & ~inner) - 1 + first
    return np.asarray(voxels @ affine[:3, :3].T + affine[:3, 3])
