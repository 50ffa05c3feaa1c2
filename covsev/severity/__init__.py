"""The volumetric severity engine: regions, scores, and the report that joins them."""

from covsev.severity.finding import Finding
from covsev.severity.measure import SeverityReport, measure, measure_masks, withhold
from covsev.severity.regions import REGION_NAMES, RegionMeasures
from covsev.severity.scores import SCORES, Score, ScoreResult

__all__ = [
    "REGION_NAMES",
    "SCORES",
    "Finding",
    "RegionMeasures",
    "Score",
    "ScoreResult",
    "SeverityReport",
    "measure",
    "measure_masks",
    "withhold",
]
