"""The volumetric severity engine: regions, scores, and the report that joins them."""

from covsev.severity.measure import SeverityReport, measure
from covsev.severity.regions import REGION_NAMES, RegionMeasures
from covsev.severity.scores import SCORES, Score, ScoreResult

__all__ = ["REGION_NAMES", "SCORES", "RegionMeasures", "Score", "ScoreResult", "SeverityReport", "measure"]
