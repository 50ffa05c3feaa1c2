"""From masks to a severity report. numpy only: neither torch nor MONAI is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.segments import segments_of
from covsev.labels import LOBES, LUNGS, SEGMENTS
from covsev.scan import Scan, to_canonical
from covsev.severity.finding import Finding, find_infection
from covsev.severity.regions import (
    MAX_CUT_SHARE,
    SEGMENT_NAMES,
    ZONE_NAMES,
    RegionMeasures,
    cut_share,
    measure_main,
    measure_segments,
    measure_zones,
    without_cut,
)
from covsev.severity.scores import DEFAULT_NOISE_FLOOR_ML, ScoreResult, compute_scores
from covsev.severity.tallies import tally

# A lung or lobe that is cut off takes its zones or segments with it.
_LUNG_OF_ZONE = {name: f"{name.split('_')[0]}_lung" for name in ZONE_NAMES}
_LOBE_OF_SEGMENT = {segment.name: segment.lobe.name for segment in SEGMENTS}


@dataclass(frozen=True)
class SeverityReport:
    """Everything that was measured in one scan.

    Attributes:
        case: name of the scan.
        voxel_ml: volume of one voxel.
        noise_floor_ml: lesion below this in a region counts as none in the scores' bands.
        regions: measures by region name.
        subregions: measures of the six zones and the 20 segments, both approximate.
        scores: results by score id.
        finding: whether infection is present, as far as the lesion volume tells.
    """

    case: str
    voxel_ml: float
    noise_floor_ml: float
    regions: Mapping[str, RegionMeasures]
    subregions: Mapping[str, RegionMeasures]
    scores: Mapping[str, ScoreResult]
    finding: Finding


def measure(
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8] | None,
    lesions: NDArray[np.uint8],
    *,
    segments: NDArray[np.uint8] | None = None,
    lobes_reason: str = "no lobe map was given",
    noise_floor_ml: float = DEFAULT_NOISE_FLOOR_ML,
    hu_known: bool = True,
    kinds_known: bool = True,
) -> SeverityReport:
    """Volumes, densities and scores of one scan.

    Args:
        scan: the scan.
        lungs, lobes, lesions: (X, Y, Z) labels on its grid, ids of :mod:`covsev.labels`; lobes may be ``None``.
        lobes_reason: why there are no lobes; it is the reason of all values that are null without them.
        segments: (X, Y, Z) ids of :data:`covsev.labels.SEGMENTS`; without them the score over 20 regions is null.
        noise_floor_ml: at least 0.
        hu_known: False where ``scan`` is only a grid without a CT: densities and high opacity are null then.
        kinds_known: False where ``lesions`` does not tell ground-glass opacity from consolidation.

    Raises:
        GridMismatchError: if a label map has another shape.
        ValueError: if a label map holds an unknown label, or ``noise_floor_ml`` is negative.
    """
    if not noise_floor_ml >= 0:  # so that NaN is refused too
        raise ValueError(f"noise_floor_ml must be at least 0; got {noise_floor_ml}")
    without_lobes = lobes is None
    # Empty lobes are measured as absent; their reason is replaced by ``lobes_reason`` below.
    lobes = np.zeros_like(lungs) if lobes is None else lobes
    # Along the patient's axes, so that the last axis is foot to head, along which zones are divided.
    maps = [None if m is None else to_canonical(m, scan.affine) for m in (lungs, lobes, lesions, segments)]
    counted = tally(to_canonical(scan.hu, scan.affine) if hu_known else None, *maps)  # type: ignore[arg-type]
    cut = _cut_off(lungs, lobes)
    if without_lobes:
        cut |= {lobe.name: lobes_reason for lobe in LOBES}
    # Lobes alone, not lungs: a lung that is cut off keeps what can be seen of it.
    lobe_of = {lobe.name: lobe.name for lobe in LOBES}
    regions = without_cut(measure_main(counted, scan.voxel_ml), cut, of=lobe_of)
    subregions = without_cut(measure_zones(counted, scan.voxel_ml), cut, of=_LUNG_OF_ZONE)
    if segments is None:
        reason = lobes_reason if without_lobes else "no map of the 20 segments was given"
        subregions |= {name: RegionMeasures(reason=reason) for name in SEGMENT_NAMES}
    else:
        subregions |= without_cut(measure_segments(counted, scan.voxel_ml), cut, of=_LOBE_OF_SEGMENT)
    if not kinds_known:  # one lesion value for both kinds: the split would be read as a result
        regions, subregions = _without_kinds(regions), _without_kinds(subregions)
    scores = compute_scores(regions | subregions, noise_floor_ml=noise_floor_ml)
    finding = find_infection(regions["both_lungs"], noise_floor_ml=noise_floor_ml)
    return SeverityReport(scan.case, scan.voxel_ml, noise_floor_ml, regions, subregions, scores, finding)


def withhold(report: SeverityReport, reason: str) -> SeverityReport:
    """The report of a scan whose quality check failed: volumes stay, every score is null with ``reason``."""
    # The maximum and the regions' names stay, so that tables have the same columns for every scan.
    scores = {
        id_: ScoreResult(None, result.maximum, dict.fromkeys(result.parts), reason=reason)
        for id_, result in report.scores.items()
    }
    return replace(report, scores=scores, finding=report.finding.withheld(reason))


def _cut_off(lungs: NDArray[np.uint8], lobes: NDArray[np.uint8]) -> dict[str, str]:
    """Reason by the name of each lung and lobe that the scan's border cuts off."""
    cut = {}
    for labels, known in ((lungs, LUNGS), (lobes, LOBES)):
        for label in known:
            share = cut_share(labels, label.id)
            if share > MAX_CUT_SHARE:
                cut[label.name] = f"{label.text} is cut off: {100 * share:.0f} % of its largest section at the border"
    return cut


def _without_kinds(found: Mapping[str, RegionMeasures]) -> dict[str, RegionMeasures]:
    return {name: replace(measures, ggo_ml=None, consolidation_ml=None) for name, measures in found.items()}


def measure_masks(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8] | None, lesions: NDArray[np.uint8], **options: Any
) -> SeverityReport:
    """:func:`measure` with the 20 segments of the lobes.

    Args:
        scan, lungs, lobes, lesions, **options: see there.
    """
    segments = None if lobes is None else segments_of(lobes, scan.affine)
    return measure(scan, lungs, lobes, lesions, segments=segments, **options)
