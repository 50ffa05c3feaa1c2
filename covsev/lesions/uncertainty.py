"""How far lesion volumes and scores move when the input is mirrored and the threshold shifted (test-time augmentation).

The lungs and lobes stay as they are, so the interval is that of the lesion mask alone. It says how sure the network is
of its mask. It does not say how near the mask is to the truth. Each mirrored input costs one more pass of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.segments import segments_of
from covsev.lesions.model import LesionModel
from covsev.lesions.volume import segment_lesions
from covsev.scan import CANONICAL_AXES, Scan
from covsev.severity import SCORES, ScoreResult, SeverityReport, measure
from covsev.severity.finding import find_infection
from covsev.severity.intervals import Interval, ScoreInterval, Uncertainty

# Left-right and front-back only: the network sees axial slices, so a scan upside down would be the same slices.
FLIPS: tuple[tuple[str, ...], ...] = ((), ("L",), ("P",), ("L", "P"))
"""Axes of the patient along which the input is mirrored. Both together are a rotation by 180 degrees."""
THRESHOLD_BAND = 0.1
"""The threshold of the probability is moved by this much down and up."""

_INTERVALS = ("lesion_ml", "lesion_pct", "high_opacity_ml", "high_opacity_pct", "ggo_ml", "consolidation_ml")


def estimate_uncertainty(
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8] | None,
    model: LesionModel,
    report: SeverityReport,
    *,
    restrict_to_lungs: bool = True,
) -> Uncertainty:
    """Intervals of lesion volumes and scores over mirrored inputs and a band of thresholds.

    Args:
        scan: the scan.
        lungs, lobes: (X, Y, Z) labels; lobes may be ``None``.
        model: the lesion network.
        report: what was measured with the mask itself; it is one of the variants.
        restrict_to_lungs: as for the mask itself.
    """
    segments = None if lobes is None else segments_of(lobes, scan.affine)
    # The report itself comes first, so that every interval holds the measured value.
    reports = [report]
    for lesions in lesion_variants(scan, lungs, model, restrict_to_lungs=restrict_to_lungs):
        floor_ml = report.noise_floor_ml  # that of the run: a user may have set it
        reports.append(measure(scan, lungs, lobes, lesions, segments=segments, noise_floor_ml=floor_ml))
    band = f"threshold {model.postprocessing.threshold:g} -/+ {THRESHOLD_BAND:g}"
    return Uncertainty(
        variants=len(reports) - 1,  # the first is there twice
        method=f"input mirrored {len(FLIPS)} ways, {band}; the lesion mask only",
        regions={name: _region_intervals(name, reports) for name in report.regions},
        scores={score.id: score_interval([found.scores[score.id] for found in reports]) for score in SCORES},
    )


def with_interval(report: SeverityReport, uncertainty: Uncertainty) -> SeverityReport:
    """The report with its finding drawn from the lesion's interval."""
    interval = uncertainty.regions["both_lungs"].get("lesion_ml")
    if interval is None:
        return report
    finding = find_infection(
        report.regions["both_lungs"],
        noise_floor_ml=report.noise_floor_ml,
        interval_ml=(interval.low, interval.high),
    )
    return replace(report, finding=finding)


def lesion_variants(
    scan: Scan, lungs: NDArray[np.uint8], model: LesionModel, *, restrict_to_lungs: bool = True
) -> Iterator[NDArray[np.uint8]]:
    """Lesion labels of each mirrored input, at three thresholds: the lowest, the usual and the highest.

    Args:
        scan, lungs, model, restrict_to_lungs: see :func:`covsev.lesions.volume.segment_lesions`.

    Yields:
        (X, Y, Z) uint8 on the scan's grid, in the order of :data:`FLIPS`; the first three are not mirrored.
    """
    usual = model.postprocessing.threshold
    # The band stays inside 0..1. At 0 every voxel would be infected, whatever the network says.
    low = max(usual - THRESHOLD_BAND, 0.01)
    # One pass at the lowest threshold is enough: what lies above a higher one is a part of its mask.
    lenient = replace(model, postprocessing=replace(model.postprocessing, threshold=low))
    for flip in FLIPS:
        axes = _array_axes(scan, flip)
        mirrored = replace(scan, hu=np.flip(scan.hu, axes))
        found = segment_lesions(mirrored, np.flip(lungs, axes), lenient, restrict_to_lungs=restrict_to_lungs)
        labels, probability = np.flip(found.labels, axes), np.flip(found.probability, axes)  # mirrored back
        for threshold in (low, usual, min(usual + THRESHOLD_BAND, 0.99)):
            yield np.where(probability >= threshold, labels, np.uint8(0))


def _array_axes(scan: Scan, flip: tuple[str, ...]) -> tuple[int, ...]:
    """Array axes of the patient's axes ``flip``, whatever the scan's orientation."""
    patient = [CANONICAL_AXES.index(name) for name in flip]
    order = nib.io_orientation(scan.affine)[:, 0].tolist()
    return tuple(order.index(axis) for axis in patient)


def _region_intervals(name: str, reports: list[SeverityReport]) -> dict[str, Interval]:
    found = {}
    # A measure that is None in one report, such as that of a lobe that is not known, has no interval.
    for measure_name in _INTERVALS:
        values = [getattr(report.regions[name], measure_name) for report in reports]
        if None not in values:
            found[measure_name] = Interval(min(values), max(values))
    return found


def score_interval(results: Sequence[ScoreResult]) -> ScoreInterval:
    """Lowest and highest value of one score, and which of its regions move.

    Args:
        results: of the mask itself first, then of each variant.

    Returns:
        the interval; without numbers and text if the score has no value in one of ``results``.
    """
    values = [result.value for result in results]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ScoreInterval(None, None, {}, "")
    parts = {name: [_points(result, name) for result in results] for name in results[0].parts}
    spread = {name: Interval(min(points), max(points)) for name, points in parts.items()}
    moving = {name: interval for name, interval in spread.items() if interval.low < interval.high}
    usual = {name: parts[name][0] for name in moving}
    return ScoreInterval(min(known), max(known), moving, _text(known, usual, moving))


def _points(result: ScoreResult, region: str) -> float:
    return float(result.parts[region] or 0)  # a region without points counts as 0


def _text(values: list[float], usual: Mapping[str, float], moving: Mapping[str, Interval]) -> str:
    """Which regions could be a band higher or lower than in the mask itself."""
    # One region may rise by as much as another falls: the sum stays, and the text still has something to say.
    if min(values) == max(values) and not moving:
        return ""
    higher = [name.replace("_", " ") for name, interval in moving.items() if interval.high > usual[name]]
    lower = [name.replace("_", " ") for name, interval in moving.items() if interval.low < usual[name]]
    words = [f"{min(values):.4g} to {max(values):.4g}"]
    words += [f"could be higher: {', '.join(higher)}"] if higher else []
    words += [f"could be lower: {', '.join(lower)}"] if lower else []
    return "; ".join(words)
