"""From masks to a severity report. numpy only: neither torch nor MONAI is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covsev.scan import Scan
from covsev.severity.regions import RegionMeasures, measure_regions
from covsev.severity.scores import DEFAULT_NOISE_FLOOR_ML, ScoreResult, compute_scores


@dataclass(frozen=True)
class SeverityReport:
    """Everything that was measured in one scan.

    Attributes:
        case: name of the scan.
        voxel_ml: volume of one voxel.
        noise_floor_ml: lesion below this in a region counts as none in the scores' bands.
        regions: measures by region name.
        scores: results by score id.
    """

    case: str
    voxel_ml: float
    noise_floor_ml: float
    regions: Mapping[str, RegionMeasures]
    scores: Mapping[str, ScoreResult]


def measure(
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    *,
    noise_floor_ml: float = DEFAULT_NOISE_FLOOR_ML,
) -> SeverityReport:
    """Volumes, densities and scores of one scan.

    Args:
        scan: the scan.
        lungs, lobes, lesions: (X, Y, Z) labels on its grid, ids of :mod:`covsev.labels`.
        noise_floor_ml: at least 0.

    Raises:
        GridMismatchError: if a label map has another shape.
        ValueError: if a label map holds an unknown label, or ``noise_floor_ml`` is negative.
    """
    if not noise_floor_ml >= 0:  # so that NaN is refused too
        raise ValueError(f"noise_floor_ml must be at least 0; got {noise_floor_ml}")
    regions = measure_regions(scan.hu, lungs, lobes, lesions, voxel_ml=scan.voxel_ml)
    scores = compute_scores(regions, noise_floor_ml=noise_floor_ml)
    return SeverityReport(scan.case, scan.voxel_ml, noise_floor_ml, regions, scores)
