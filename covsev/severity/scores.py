"""Severity scores as published, defined as data. numpy-free arithmetic on :class:`RegionMeasures`.

A score's id carries its author and year, since the literature reuses names such as "CT-SS" for different scales.
Percentages are of volume. Where a paper leaves a gap between bands, they are half-open as written in ``edges``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from covsev.labels import LEFT_LUNG, LOBES, RIGHT_LUNG
from covsev.severity.regions import BOTH_LUNGS, RegionMeasures

DEFAULT_NOISE_FLOOR_ML = 1.0
"""Lesion below this in a region counts as none for the bands; the raw percentage is written all the same."""

_LOBE_NAMES = tuple(lobe.name for lobe in LOBES)
_PER_LOBE, _PERCENT, _WORST_BAND = "sum over regions", "percentage", "worst region"


@dataclass(frozen=True)
class Edge:
    """Upper end of a band: percentages up to ``pct``, that value included or not."""

    pct: float
    inclusive: bool


_QUARTERS = (Edge(25, True), Edge(50, True), Edge(75, True))


@dataclass(frozen=True)
class Score:
    """Definition of one score.

    Attributes:
        id: author and year in it.
        title: what a reader sees.
        measure: the field of :class:`RegionMeasures` that it bands: ``lesion_pct`` or ``high_opacity_pct``.
        regions: names of the regions.
        edges: band 0 is "none"; band i > 0 ends at ``edges[i - 1]``, the last has no end. Empty: a percentage.
        combine: how the regions' bands become one value.
        maximum: largest value.
        readings: (smallest value, meaning), ascending; the last one reached is the reading.
        source: where it is published.
    """

    id: str
    title: str
    measure: str
    regions: tuple[str, ...]
    edges: tuple[Edge, ...]
    combine: str
    maximum: float
    readings: tuple[tuple[float, str], ...]
    source: str


@dataclass(frozen=True)
class ScoreResult:
    """Value of one score; ``None`` with a ``reason`` where a region is absent.

    Attributes:
        value: points, band or percent.
        maximum: largest possible value.
        parts: points or percent of each region.
        reading: what the source says of such a value, if it does.
        reason: why there is no value.
    """

    value: float | None
    maximum: float
    parts: Mapping[str, float | None]
    reading: str | None = None
    reason: str | None = None


_CHAGANTI = "Chaganti 2020, doi 10.1148/ryai.2020200048 (PMC7392373)"
_MOSMED_READINGS = (
    (0, "CT-0, none"),
    (1, "CT-1, mild"),
    (2, "CT-2, moderate"),
    (3, "CT-3, severe"),
    (4, "CT-4, critical"),
)
_MOSMED_EDGES = (Edge(25, False), Edge(50, False), Edge(75, True))
_MOSMED = "Morozov 2020, MosMedData, arXiv 2005.06465"

SCORES = (
    Score(
        "ctss25_pan2020",
        "CT severity score, five lobes, 0-25",
        "lesion_pct",
        _LOBE_NAMES,
        (Edge(5, False), Edge(25, True), Edge(50, False), Edge(75, True)),
        _PER_LOBE,
        25,
        ((18, "18 or more: higher mortality risk (Francone 2020, doi 10.1007/s00330-020-07033-y)"),),
        "Pan 2020, doi 10.1148/radiol.2020200370; bands of Chang 2005",
    ),
    Score(
        "tss20_chung2020",
        "Total severity score, five lobes, 0-20",
        "lesion_pct",
        _LOBE_NAMES,
        _QUARTERS,
        _PER_LOBE,
        20,
        (),
        "Chung 2020, doi 10.1148/radiol.2020200230",
    ),
    Score(
        "po_chaganti2020",
        "Percentage of opacity",
        "lesion_pct",
        (BOTH_LUNGS,),
        (),
        _PERCENT,
        100,
        (
            (0, "below 1 %, as 98 of 100 healthy scans in the source"),
            (1, "1 % or more, as 2 of 100 healthy scans in the source"),
        ),
        _CHAGANTI,
    ),
    Score(
        "pho_chaganti2020",
        "Percentage of high opacity (lesion above -200 HU)",
        "high_opacity_pct",
        (BOTH_LUNGS,),
        (),
        _PERCENT,
        100,
        (),
        _CHAGANTI,
    ),
    Score(
        "lss_chaganti2020",
        "Lung severity score, five lobes, 0-20",
        "lesion_pct",
        _LOBE_NAMES,
        _QUARTERS,
        _PER_LOBE,
        20,
        (),
        _CHAGANTI,
    ),
    Score(
        "lhos_chaganti2020",
        "Lung high opacity score, five lobes, 0-20",
        "high_opacity_pct",
        _LOBE_NAMES,
        _QUARTERS,
        _PER_LOBE,
        20,
        (),
        _CHAGANTI,
    ),
    Score(
        "mosmed_ct_worse_lung",
        "CT-0 to CT-4 of the worse lung",
        "lesion_pct",
        (RIGHT_LUNG.name, LEFT_LUNG.name),
        _MOSMED_EDGES,
        _WORST_BAND,
        4,
        _MOSMED_READINGS,
        _MOSMED,
    ),
    Score(
        "mosmed_ct_both_lungs",
        "CT-0 to CT-4 of both lungs together",
        "lesion_pct",
        (BOTH_LUNGS,),
        _MOSMED_EDGES,
        _WORST_BAND,
        4,
        _MOSMED_READINGS,
        _MOSMED,
    ),
)


def band(pct: float, edges: tuple[Edge, ...]) -> int:
    """Band of a percentage: 0 for none, else 1 up to ``len(edges) + 1``.

    Raises:
        ValueError: if ``pct`` is not in 0..100.
    """
    if not 0 <= pct <= 100:
        raise ValueError(f"pct must be in 0..100; got {pct}")
    if pct == 0:
        return 0
    for number, edge in enumerate(edges, start=1):
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
    parts = {name: _part(score, regions[name], noise_floor_ml) for name in score.regions}
    missing = [regions[name].reason or name for name, points in parts.items() if points is None]
    if missing:
        return ScoreResult(None, score.maximum, parts, reason="; ".join(missing))
    points = [value for value in parts.values() if value is not None]
    value = max(points) if score.combine == _WORST_BAND else math.fsum(points)
    return ScoreResult(value, score.maximum, parts, reading=_reading(score, value))


def _part(score: Score, measures: RegionMeasures, noise_floor_ml: float) -> float | None:
    """Points of one region, or its percentage for a score without bands; ``None`` if it is absent."""
    pct = getattr(measures, score.measure)
    if pct is None:
        return None
    if not score.edges:
        return float(pct)
    lesion_ml = getattr(measures, score.measure.replace("_pct", "_ml"))
    return band(0.0 if lesion_ml < noise_floor_ml else pct, score.edges)


def _reading(score: Score, value: float) -> str | None:
    reached = [text for least, text in score.readings if value >= least]
    return reached[-1] if reached else None
