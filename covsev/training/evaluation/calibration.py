"""Is a probability of 0.8 right in 80 of 100 pixels, and which threshold agrees best with the reference?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from covsev.training.evaluation.metrics import case_metrics

AGREEMENT = ("dice", "sensitivity", "specificity")

Slice = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Probability and reference mask of one slice, both (H, W)."""


def reliability(slices: Iterable[Slice], *, bins: int = 10) -> pd.DataFrame:
    """Predicted against observed infection, in bins of equal width.

    Args:
        slices: probability and reference of each slice; a slice counts by its pixels.
        bins: number of bins between 0 and 1.

    Returns:
        a row a bin that holds pixels: ``low``, ``high``, ``pixels``, ``predicted`` (mean probability) and
        ``observed`` (share of infected pixels).

    Raises:
        ValueError: if there is no slice.
    """
    # Sums only, slice after slice: the pixels of all slices need not be in memory together.
    counts, predicted, observed = (np.zeros(bins) for _ in range(3))
    for probability, reference in slices:
        index = np.minimum((probability * bins).astype(int), bins - 1).ravel()  # 1.0 belongs to the last bin
        counts += np.bincount(index, minlength=bins)
        predicted += np.bincount(index, weights=probability.ravel(), minlength=bins)
        observed += np.bincount(index, weights=reference.ravel(), minlength=bins)
    if not counts.any():
        raise ValueError("slices must not be empty")
    edges = np.linspace(0, 1, bins + 1)
    held = counts > 0  # a bin without pixels has no mean
    columns = {
        "low": edges[:-1][held],
        "high": edges[1:][held],
        "pixels": counts[held].astype(int),
        "predicted": predicted[held] / counts[held],
        "observed": observed[held] / counts[held],
    }
    return pd.DataFrame(columns)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean of \\|observed - predicted\\| over the pixels of a :func:`reliability` table (Naeini et al. 2015)."""
    gaps = (table["observed"] - table["predicted"]).abs()
    return float(np.average(gaps, weights=table["pixels"]))


def agreement_by_threshold(slices: Sequence[Slice], thresholds: Sequence[float]) -> pd.DataFrame:
    """How masks agree with the references, a row a threshold.

    Returns:
        columns ``threshold``; ``dice``, ``sensitivity`` and ``specificity``, means over slices; and ``area_ratio``,
        the infected area of all masks divided by that of all references.
    """
    infected = sum(np.count_nonzero(reference) for _, reference in slices)
    rows = []
    for threshold in thresholds:
        cases = [case_metrics(probability, reference, threshold=threshold) for probability, reference in slices]
        # Without NaN: a slice without infection has no sensitivity.
        means = {name: np.nanmean([getattr(case, name) for case in cases]) for name in AGREEMENT}
        # The area over all slices, not the mean of ratios: a severity score is an area.
        found = sum(np.count_nonzero(probability >= threshold) for probability, _ in slices)
        rows.append({"threshold": threshold, **means, "area_ratio": found / infected if infected else np.nan})
    return pd.DataFrame(rows)


def plot_calibration(table: pd.DataFrame, agreement: pd.DataFrame, path: Path) -> None:
    """Draw the reliability diagram beside agreement over thresholds, as PNG."""
    # Without pyplot, which would keep the figure and look for a display.
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    left.plot(table["predicted"], table["observed"], marker="o")
    left.set(xlabel="predicted probability", ylabel="share that is infected", xlim=(0, 1), ylim=(0, 1))
    left.set_title("Reliability")
    for name in AGREEMENT:
        right.plot(agreement["threshold"], agreement[name], label=name)
    right.set(xlabel="threshold", ylabel="mean over slices", xlim=(0, 1), ylim=(0, 1))
    right.set_title("Agreement by threshold")
    right.legend()
    figure.savefig(path, dpi=100)
