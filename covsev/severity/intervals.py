"""Intervals of volumes and scores: the result of an uncertainty estimate of one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Smallest and largest value over the variants.

    Attributes:
        low, high: both in the unit of the value.
    """

    low: float
    high: float


@dataclass(frozen=True)
class ScoreInterval:
    """Smallest and largest value of a score, and the regions whose points change.

    Attributes:
        low, high: smallest and largest value; ``None`` where the score is null.
        parts: intervals of the points of those regions that differ between variants.
        text: what could be higher or lower, in words; empty where nothing changes.
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
        regions: intervals by region name and measure.
        scores: intervals by score id.
    """

    variants: int
    method: str
    regions: Mapping[str, Mapping[str, Interval]]
    scores: Mapping[str, ScoreInterval]
