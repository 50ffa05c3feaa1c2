"""How well scores and percentages of many scans agree with a reference's, and with the clinical class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LIMIT_SD = 1.96
"""Limits of agreement, in SD of the differences: 95 of 100 lie within where they are normally distributed."""

CLINICAL_CLASSES = {
    "control": 0,
    "mild": 1,
    "regular": 2,
    "moderate": 2,
    "severe": 3,
    "critical": 4,
    "critically ill": 4,
}
"""Order of the clinical classes as iCTCF publishes them (Ning 2020, doi 10.1038/s41551-020-00633-5).

Two names may share a rank: they are two words for one class.
"""
SEVERE_CLASS = 3
"""A case of this rank or above is severe: "type II" in iCTCF. Mild and regular are "type I" there."""


@dataclass(frozen=True)
class ScoreAgreement:
    """Agreement over scans; a value that the pairs do not define is ``None``.

    Attributes:
        pairs: number of scans with both values.
        left_out: number without one of them.
        bias: mean of predicted minus reference.
        loa_low, loa_high: limits of agreement, bias -/+ 1.96 SD of the differences (Bland and Altman 1986,
            doi 10.1016/S0140-6736(86)90837-8).
        mean_absolute_difference: mean of the absolute differences.
        pearson_r: Pearson's correlation.
        icc: ICC(2,1), two-way random, absolute agreement, single rater (Shrout and Fleiss 1979,
            doi 10.1037/0033-2909.86.2.420).
        kappa: Cohen's kappa with quadratic weights (1968, doi 10.1037/h0026256), for scores in whole points.
        within_one: share of scans whose points differ by at most 1, for scores in whole points.
    """

    pairs: int
    left_out: int
    bias: float | None
    loa_low: float | None
    loa_high: float | None
    mean_absolute_difference: float | None
    pearson_r: float | None
    icc: float | None
    kappa: float | None
    within_one: float | None


def compare_scores(
    reference: Sequence[float | None], predicted: Sequence[float | None], *, points: bool
) -> ScoreAgreement:
    """Agreement of one score over scans.

    Args:
        reference, predicted: one value a scan, ``None`` where there is none.
        points: whether the values are whole points. Kappa and the share within 1 have a meaning only then.

    Raises:
        ValueError: if the lengths differ.
    """
    both = [(r, p) for r, p in zip(reference, predicted, strict=True) if r is not None and p is not None]
    left_out = len(reference) - len(both)
    if not both:
        return ScoreAgreement(0, left_out, *(None,) * 8)
    r, p = np.array(both, dtype=np.float64).T
    difference = p - r
    bias = float(difference.mean())
    # The SD of a sample, which one pair alone does not have.
    spread = None
    if len(both) > 1:
        spread = _LIMIT_SD * float(difference.std(ddof=1))
    return ScoreAgreement(
        pairs=len(both),
        left_out=left_out,
        bias=bias,
        loa_low=None if spread is None else bias - spread,
        loa_high=None if spread is None else bias + spread,
        mean_absolute_difference=float(np.abs(difference).mean()),
        pearson_r=pearson(r, p),
        icc=icc(r, p),
        kappa=weighted_kappa(r, p) if points else None,
        within_one=float((np.abs(difference) <= 1).mean()) if points else None,
    )


def pearson(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's correlation of (N,) values; ``None`` for fewer than three pairs or a constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 3:  # two points always lie on a line
        return None
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # no spread to divide by
        return None
    return float(np.corrcoef(a, b)[0, 1])


def icc(x: ArrayLike, y: ArrayLike) -> float | None:
    """ICC(2,1) of two raters over (N,) subjects; ``None`` for fewer than three, or where nothing varies."""
    ratings = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)], axis=1)
    n, k = ratings.shape
    if n < 3:
        return None
    # Two-way analysis of variance: mean squares of subjects, of raters, and of what neither of them explains.
    mean = ratings.mean()
    of_subjects = ((ratings.mean(axis=1) - mean) ** 2).sum()
    of_raters = ((ratings.mean(axis=0) - mean) ** 2).sum()
    between_subjects = k * of_subjects / (n - 1)
    between_raters = n * of_raters / (k - 1)
    total = ((ratings - mean) ** 2).sum()
    unexplained = total - (n - 1) * between_subjects
    unexplained = unexplained - (k - 1) * between_raters
    error = unexplained / ((n - 1) * (k - 1))
    # Absolute agreement: a rater who always says more adds to the scale, unlike in a correlation.
    raters_part = k * (between_raters - error) / n
    scale = between_subjects + (k - 1) * error + raters_part
    return float((between_subjects - error) / scale) if scale > 0 else None


def weighted_kappa(x: ArrayLike, y: ArrayLike) -> float | None:
    """Cohen's kappa with quadratic weights of (N,) whole points; ``None`` where chance alone agrees fully.

    >>> weighted_kappa([0, 5, 10], [0, 5, 10]), weighted_kappa([0, 10], [10, 0]), weighted_kappa([7, 7], [7, 7])
    (1.0, -1.0, None)
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    observed = ((a - b) ** 2).mean()
    # Chance: every value of one rater meets every value of the other.
    expected = ((a[:, None] - b[None, :]) ** 2).mean()
    return float(1 - observed / expected) if expected > 0 else None


# ---- against the clinical class ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClinicalAgreement:
    """A score against the clinical class.

    Attributes:
        cases: number of scans with a score and a class.
        severe: number of them that are severe or critically ill.
        auc: chance that a severe case has the higher score, ties counted half; ``None`` without both groups.
        spearman_r: rank correlation of score and class.
    """

    cases: int
    severe: int
    auc: float | None
    spearman_r: float | None


def compare_with_classes(values: Sequence[float | None], classes: Sequence[int]) -> ClinicalAgreement:
    """A score of many scans against their clinical classes.

    Args:
        values: the score, ``None`` where there is none.
        classes: ranks of :data:`CLINICAL_CLASSES`.

    Raises:
        ValueError: if the lengths differ.
    """
    both = [(value, rank) for value, rank in zip(values, classes, strict=True) if value is not None]
    if not both:
        return ClinicalAgreement(0, 0, None, None)
    value, rank = np.array(both, dtype=np.float64).T
    severe = rank >= SEVERE_CLASS
    return ClinicalAgreement(
        cases=len(both),
        severe=int(severe.sum()),
        auc=auc(value[severe], value[~severe]),
        spearman_r=pearson(_ranks(value), _ranks(rank)),  # Spearman's is Pearson's of the ranks
    )


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve of (N,) and (M,) values; ``None`` if one group is empty."""
    if not len(positive) or not len(negative):
        return None
    # Every positive against every negative: the share of pairs in the right order.
    higher = (positive[:, None] > negative[None, :]).mean()
    equal = (positive[:, None] == negative[None, :]).mean()
    return float(higher + equal / 2)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
