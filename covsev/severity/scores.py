"""The scores' arithmetic: from the measures of regions to points, sums and readings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from covsev.severity.regions import RegionMeasures
from covsev.severity.score_table import DEFAULT_NOISE_FLOOR_ML, SCORES, WORST_BAND, Edge, Score

__all__ = [
    "DEFAULT_NOISE_FLOOR_ML",
    "NEAR_EDGE_PCT",
    "NEAR_FLOOR_FACTOR",
    "NO_CT",
    "SCORES",
    "Edge",
    "Score",
    "ScoreResult",
    "band",
    "compute_scores",
]

NEAR_EDGE_PCT = 1.0
"""A region is named in ``near_edge`` if its percentage lies within this many points of a band's edge."""
NEAR_FLOOR_FACTOR = 2.0
"""A region is also named there if its lesion lies within this factor of the noise floor."""

NO_CT = "no CT was given, so no density is known"
"""Why a value is null that needs Hounsfield units where there are none."""


@dataclass(frozen=True)
class ScoreResult:
    """Value of one score; ``None`` with a ``reason`` where a region is absent.

    Attributes:
        value: points, band or percent.
        maximum: largest possible value.
        parts: points or percent of each region.
        reading: what the source says of such a value, if it does.
        reason: why there is no value.
        near_edge: regions near a band's edge: a little more or less lesion would change their points.
    """

    value: float | None
    maximum: float
    parts: Mapping[str, float | None]
    reading: str | None = None
    reason: str | None = None
    near_edge: tuple[str, ...] = ()


def band(pct: float, edges: tuple[Edge, ...]) -> int:
    """Band of a percentage: 0 for none, else 1 up to ``len(edges) + 1``.

    Raises:
        ValueError: if ``pct`` is not in 0..100.

    >>> pan = SCORES[0]
    >>> pan.id, [band(pct, pan.edges) for pct in (0, 4.9, 5, 25, 25.1, 49.9, 50, 75, 75.1)]
    ('ctss25_pan2020', [0, 1, 2, 2, 3, 3, 4, 4, 5])
    """
    if not 0 <= pct <= 100:
        raise ValueError(f"pct must be in 0..100; got {pct}")
    if pct == 0:
        return 0
    for number, edge in enumerate(edges, start=1):
        # Whether an edge belongs to the band below is what the source says, not a matter of rounding.
        if pct < edge.pct or (edge.inclusive and pct == edge.pct):
            return number
    return len(edges) + 1


def compute_scores(
    regions: Mapping[str, RegionMeasures], *, noise_floor_ml: float = DEFAULT_NOISE_FLOOR_ML
) -> dict[str, ScoreResult]:
    """All :data:`SCORES` of one scan.

    Args:
        regions: measures of every region.
        noise_floor_ml: lesion below this in a region counts as none in the bands.
    """
    return {score.id: _compute(score, regions, noise_floor_ml) for score in SCORES}


def _compute(score: Score, regions: Mapping[str, RegionMeasures], noise_floor_ml: float) -> ScoreResult:
    # A region that was not measured counts as absent: the score is null then, with the reason.
    found = {name: regions.get(name) or RegionMeasures(reason=f"{name} was not measured") for name in score.regions}
    parts = {name: _part(score, measures, noise_floor_ml) for name, measures in found.items()}
    # A region that is there but has no such value lacks a CT: only densities can be null in it.
    missing = [found[name].reason or NO_CT for name, points in parts.items() if points is None]
    near = tuple(name for name, measures in found.items() if _is_near_edge(score, measures, noise_floor_ml))
    if missing:
        # A sum over fewer regions would look like a milder disease. Equal reasons are named once, in their order.
        return ScoreResult(None, score.maximum, parts, reason="; ".join(dict.fromkeys(missing)), near_edge=near)
    points = [value for value in parts.values() if value is not None]
    # fsum: the exact sum, whatever the order of the regions. A percentage has one region and stays as it is.
    value = max(points) if score.combine == WORST_BAND else math.fsum(points)
    return ScoreResult(value, score.maximum, parts, reading=_reading(score, value), near_edge=near)


def _part(score: Score, measures: RegionMeasures, noise_floor_ml: float) -> float | None:
    """Points of one region, or its percentage for a score without bands; ``None`` if it is absent."""
    pct = getattr(measures, score.measure)
    if pct is None:
        return None
    if not score.edges:
        return float(pct)
    lesion_ml = getattr(measures, score.measure_ml)
    # Below the noise floor a few stray voxels would else give a point to a healthy region.
    return band(0.0 if lesion_ml < noise_floor_ml else pct, score.edges)


def _is_near_edge(score: Score, measures: RegionMeasures, noise_floor_ml: float) -> bool:
    """Whether a little more or less lesion would change the points of a region."""
    pct = getattr(measures, score.measure)
    if pct is None or not score.edges:
        return False
    lesion_ml = getattr(measures, score.measure_ml)
    # The upper end is excluded, so that nothing is near a noise floor of 0.
    near_floor = noise_floor_ml / NEAR_FLOOR_FACTOR <= lesion_ml < noise_floor_ml * NEAR_FLOOR_FACTOR
    distances = [abs(pct - edge.pct) for edge in score.edges]
    return near_floor or any(distance <= NEAR_EDGE_PCT for distance in distances)


def _reading(score: Score, value: float) -> str | None:
    """The last reading whose smallest value is reached; ``None`` below the first, or without readings."""
    reached = [text for least, text in score.readings if value >= least]
    return reached[-1] if reached else None
