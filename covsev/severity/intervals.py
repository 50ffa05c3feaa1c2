"""Intervals of volumes and scores: what an uncertainty estimate says of one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Least and largest value over the variants.

    Attributes:
        low, high: in the value's own unit.
    """

    low: float
    high: float


@dataclass(frozen=True)
class ScoreInterval:
    """Least and largest value of a score, and which regions' points move; ``None`` where the score is null.

    Attributes:
        low, high: of the score.
        parts: points of those regions that differ between variants.
        text: what could be higher or lower, in words; empty where nothing moves.
    """

    low: float | None
    high: float | None
    parts: Mapping[str, Interval]
    text: str


@dataclass(frozen=True)
class Uncertainty:
    """Intervals of one scan.

    Attributes:
        variants: number of lesion masks compared.
        method: how they were made, in words.
        regions: intervals by region and measure.
        scores: intervals by score id.
    """

    variants: int
    method: str
    regions: Mapping[str, Mapping[str, Interval]]
    scores: Mapping[str, ScoreInterval]
