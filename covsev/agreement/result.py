"""What a comparison found: the tables, and the values that its figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Mapping[str, float | None]]
"""Values of scores by case and score id."""


@dataclass(frozen=True)
class Comparison:
    """What :func:`covsev.agreement.comparison.compare` found.

    Attributes:
        masks: one row a case and structure.
        scores: one row a score.
        clinical: one row a score, against the clinical class.
        unpaired: masks and scores that only one side has, in words.
        reference, predicted: scores of the paired cases, for figures. With clinical classes, ``predicted`` holds all
            cases of its side.
        classes: clinical class by case.
    """

    masks: Sequence[Mapping[str, Any]]
    scores: Sequence[Mapping[str, Any]]
    clinical: Sequence[Mapping[str, Any]]
    unpaired: Sequence[str]
    reference: Values
    predicted: Values
    classes: Mapping[str, str]
