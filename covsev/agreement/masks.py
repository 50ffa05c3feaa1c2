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
"""Tolerances of the surface Dice: the tighter one is for lungs and lobes."""
_FAR_PCT = 95
"""Percentile of the surfaces' distances. The largest distance would hang on a single stray voxel."""


@dataclass(frozen=True)
class MaskAgreement:
    """Agreement of one mask with its reference.

    Attributes:
        dice: Dice similarity coefficient, 2 |R and P| / (|R| + |P|).
        jaccard: |R and P| / |R or P|.
        sensitivity: share of the reference that was found.
        specificity: share of the rest of the grid that was left alone.
        surface_dice: share of both surfaces that lies within the tolerance of the other one (Nikolov 2018, arXiv
            1809.04430).
        hd95_mm: 95th percentile of the distances between the surfaces; of both directions the larger one.
        reference_ml, predicted_ml: volumes.
        volume_error_ml: predicted minus reference.
        volume_error_pct: the same in percent of the reference; ``None`` for an empty reference.
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
    # The determinant is the voxel's volume in mm3, negative where an axis is flipped.
    mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    voxel_ml = mm3 / 1000
    false_alarms = found - hits
    surface_dice, hd95_mm = _surfaces(reference, predicted, affine, tolerance_mm)
    return MaskAgreement(
        dice=2 * hits / (inside + found) if union else 1.0,
        jaccard=hits / union if union else 1.0,
        sensitivity=hits / inside if inside else None,
        specificity=(outside - false_alarms) / outside if outside else None,
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
    ours, theirs = (surface_mm(mask, affine) for mask in (reference, predicted))
    sizes = len(ours), len(theirs)
    if 0 in sizes:  # both empty: full agreement; one empty: none; no distance either way
        return float(sizes[0] == sizes[1]), None
    from scipy.spatial import cKDTree  # takes a moment to import, and empty masks do not need it

    # In both directions: a part that one mask lacks is far from it, but nothing of it is far from the other mask.
    to_theirs, _ = cKDTree(theirs).query(ours)
    to_ours, _ = cKDTree(ours).query(theirs)
    distances = to_theirs, to_ours
    near = sum(int(np.count_nonzero(distance <= tolerance_mm)) for distance in distances)
    far_mm = max(float(np.percentile(distance, _FAR_PCT)) for distance in distances)
    return near / sum(sizes), far_mm


def surface_mm(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """World coordinates (N, 3) in mm of the voxels of ``mask`` that have a face outside it."""
    box = bounding_box(mask)
    # A rim of background around the box: the neighbours that a roll brings from the other end are then outside, too.
    padded = np.pad(mask[box], 1)
    # Inner voxels are those whose six neighbours across a face lie in the mask, too.
    inner = padded.copy()
    for axis in range(3):
        inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    # Back to indices of the whole volume: less the rim, plus where the box begins.
    first = np.array([side.start for side in box])
    voxels = np.argwhere(padded & ~inner) - 1 + first
    return np.asarray(voxels @ affine[:3, :3].T + affine[:3, 3])
