"""How well a segmentation agrees with its reference: per case, summarised over cases, and as a table.

Empty masks, for every lesion of every case (a slice or a whole scan):

* both empty: Dice 1, Jaccard 1;
* one of them empty: Dice 0, Jaccard 0;
* reference empty: sensitivity is NaN; reference everywhere: specificity is NaN;
* NaN is left out of mean, SD and interval, and the numbers of values counted and left out are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_confusion_matrix_metric, get_confusion_matrix
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from covsev.labels import LESIONS

_ROUNDING = 1e-6
"""By so much may Jaccard exceed Dice: where both are equal, 0 or 1, they are computed by different formulas."""
_INTERVAL_PCT = (2.5, 97.5)
"""Percentiles of the bootstrap's means: what lies between them is the 95 % interval."""


@dataclass(frozen=True)
class CaseMetrics:
    """Agreement of one segmentation with its reference; values that contradict each other cannot be built.

    Attributes:
        dice: Dice coefficient.
        jaccard: Jaccard index, never above Dice.
        sensitivity: share of the reference that was found; NaN if the reference is empty.
        specificity: share of the rest that was left alone; NaN if there is no rest.
        mae: mean absolute error between probability (or mask) and reference.

    Raises:
        ValueError: if ``jaccard`` exceeds ``dice``.
    """

    dice: float
    jaccard: float
    sensitivity: float
    specificity: float
    mae: float

    def __post_init__(self) -> None:
        if self.jaccard > self.dice + _ROUNDING:
            raise ValueError(f"jaccard {self.jaccard:g} exceeds dice {self.dice:g}, which no two masks can do")


def case_metrics(prediction: ArrayLike, reference: ArrayLike, *, threshold: float = 0.5) -> CaseMetrics:
    """Metrics of one case at one threshold; see the module for empty masks.

    Args:
        prediction: probability in [0, 1], or a mask, of any shape.
        reference: mask of the same shape, values 0 and 1.
        threshold: probability from which a pixel is positive.

    Raises:
        ValueError: if shapes differ, or values are out of range.
    """
    probability, mask = _checked(prediction, reference)
    counts = _confusion(probability >= threshold, mask)
    union = counts[0] + counts[1] + counts[3]  # all but the true negatives; 0 where both masks are empty
    return CaseMetrics(
        dice=_ratio("f1 score", counts) if union else 1.0,
        jaccard=_ratio("threat score", counts) if union else 1.0,
        sensitivity=_ratio("sensitivity", counts),
        specificity=_ratio("specificity", counts),
        mae=float(np.abs(probability - mask).mean(dtype=np.float64)),
    )


def lesion_metrics(labels: ArrayLike, reference_labels: ArrayLike) -> dict[str, CaseMetrics]:
    """Metrics of a lesion label map: all infection together, then each lesion type apart.

    Args:
        labels: 0 background, 1 ground-glass opacity, 2 consolidation, of any shape.
        reference_labels: of the same shape and meaning.

    Returns:
        metrics under ``infection``, ``ground_glass`` and ``consolidation``; mae is the share of wrong pixels.

    Raises:
        ValueError: if shapes differ, or a label is none of these.
    """
    predicted, reference = np.asarray(labels), np.asarray(reference_labels)
    # An unknown label would count as infection, but as neither kind, and nobody would notice.
    known = (0, *(lesion.id for lesion in LESIONS))
    for name, values in (("labels", predicted), ("reference_labels", reference)):
        unknown = set(np.unique(values).tolist()) - set(known)
        if unknown:
            raise ValueError(f"{name} holds {sorted(unknown)}; known are {known}")
    apart = {lesion.name: case_metrics(predicted == lesion.id, reference == lesion.id) for lesion in LESIONS}
    return {"infection": case_metrics(predicted > 0, reference > 0), **apart}


def legacy_infnet(probability: ArrayLike, reference: ArrayLike) -> CaseMetrics:
    """Metrics as the public Inf-Net evaluation computes them, for comparison with its published numbers only.

    The map is min-max normalised and rounded to 8 bits, as its maps are saved; a constant map becomes 0. Each value
    but mae is the mean over the 256 thresholds 0, 1/255, ... 1, and is 0 at those where no positive pixel is found,
    specificity too. So a healthy slice always shows infection, and an empty reference gives 0.

    Source: ``EvaluationTool/main.m`` and ``Fmeasure_calu.m`` of github.com/DengPingFan/Inf-Net. It has no Jaccard:
    here it follows the rule of Dice.

    Args:
        probability: map at the reference's own size, values in [0, 1].
        reference: mask of the same shape, values 0 and 1.

    Raises:
        ValueError: if shapes differ, or values are out of range.
    """
    # All 256 thresholds from one histogram: what lies at or above each of them is a cumulative sum.
    values, mask = _checked(probability, reference)
    grey = _eight_bit(values)
    hits, positives = _count_from(grey[mask]), _count_from(grey)
    inside = int(mask.sum())
    outside = mask.size - inside
    false_alarms = positives - hits
    return CaseMetrics(
        dice=_mean_where_hit(hits, 2 * hits, inside + positives),
        jaccard=_mean_where_hit(hits, hits, inside + false_alarms),
        sensitivity=_mean_where_hit(hits, hits, inside),
        specificity=_mean_where_hit(hits, outside - false_alarms, outside),
        mae=float(np.abs(grey / 255 - mask).mean()),
    )


def _checked(prediction: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    # At least one axis: the counts below go through the first one, and a single number has none.
    probability = np.atleast_1d(np.asarray(prediction, dtype=np.float32))
    mask = np.atleast_1d(np.asarray(reference))
    if probability.shape != mask.shape:
        raise ValueError(f"prediction has shape {probability.shape}, but reference has shape {mask.shape}")
    if probability.size == 0:
        raise ValueError(f"prediction and reference are without pixels, of shape {mask.shape}")
    low, high = probability.min(), probability.max()
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(f"prediction must lie in [0, 1]; got {low:g} to {high:g}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("reference must hold 0 and 1 only")
    return probability, mask.astype(np.bool_)


def _confusion(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Tensor:
    """(4,) true positives, false positives, true negatives and false negatives, as float64.

    Counted a row at a time, because MONAI counts in float32, which is exact up to 2^24 voxels only.
    """
    rows = (len(mask), 1, -1)
    counts = get_confusion_matrix(
        torch.from_numpy(predicted.astype(np.uint8).reshape(rows)),
        torch.from_numpy(mask.astype(np.uint8).reshape(rows)),
    )
    return counts.double().sum(dim=(0, 1))


def _ratio(name: str, counts: Tensor) -> float:
    return float(compute_confusion_matrix_metric(name, counts))  # NaN where the denominator is 0


def _eight_bit(grey: NDArray[np.float32]) -> NDArray[np.int64]:
    low, high = grey.min(), grey.max()
    if low == high:  # nothing to stretch
        return np.zeros(grey.shape, dtype=np.int64)
    stretched = 255 * (grey - low) / (high - low)
    return np.rint(stretched).astype(np.int64)


def _count_from(grey: NDArray[np.int64]) -> NDArray[np.int64]:
    """(256,) how many pixels have at least each grey value."""
    pixels = np.bincount(grey.ravel(), minlength=256)
    return pixels[::-1].cumsum()[::-1]  # added up from white to black


def _mean_where_hit(hits: NDArray[np.int64], part: NDArray[np.int64], whole: NDArray[np.int64] | int) -> float:
    """Mean over thresholds of ``part / whole``, 0 where nothing was hit; NaN if ``whole`` is 0 there."""
    with np.errstate(invalid="ignore"):
        # 0 where nothing was hit, for specificity too: so does the published evaluation.
        ratios = np.divide(part, whole, out=np.zeros(len(hits)), where=hits > 0)
    return float(ratios.mean())


# ---- many cases ------------------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """Statistics of one metric over cases.

    Attributes:
        mean: over the counted cases.
        sd: sample standard deviation; NaN for fewer than two cases.
        ci95_low: lower end of the 95 % percentile-bootstrap interval of the mean.
        ci95_high: its upper end.
        counted: number of values that are not NaN.
        left_out: number of NaN.
    """

    mean: float
    sd: float
    ci95_low: float
    ci95_high: float
    counted: int
    left_out: int


def summarise(
    values: ArrayLike, *, groups: Sequence[Any] | None = None, resamples: int = 2000, seed: int = 0
) -> Summary:
    """Mean, SD and bootstrap interval of ``values``, NaN left out.

    Args:
        values: (N,) one number a case.
        groups: the patient of each case. Whole patients are drawn then, because slices of one patient are alike
            and would make the interval too narrow. ``None`` draws cases.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: if ``values`` is empty, or ``groups`` has another length.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        raise ValueError("values must not be empty")
    # Without groups each case is a group of its own: one way to draw for both.
    names = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    if len(names) != len(numbers):
        raise ValueError(f"groups has {len(names)} entries for {len(numbers)} values")
    valid = ~np.isnan(numbers)
    kept = numbers[valid]
    if len(kept) == 0:
        return Summary(np.nan, np.nan, np.nan, np.nan, 0, len(numbers))
    sd = float(kept.std(ddof=1)) if len(kept) > 1 else np.nan
    low, high = _bootstrap_interval(kept, names[valid], resamples, seed)
    left_out = len(numbers) - len(kept)
    return Summary(float(kept.mean()), sd, low, high, len(kept), left_out)


def _bootstrap_interval(
    values: NDArray[np.float64], groups: NDArray[Any], resamples: int, seed: int
) -> tuple[float, float]:
    # Of a group only its sum and its size are needed, so a resample draws as many numbers as there are groups.
    _, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    # The mean over the cases drawn: large groups weigh more, as they do in the mean itself.
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, _INTERVAL_PCT)
    return float(low), float(high)


def metrics_table(
    cases: Mapping[str, Mapping[str, CaseMetrics]],
    *,
    groups: Mapping[str, Any] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a case, then one row a statistic of :class:`Summary`.

    Args:
        cases: metrics by case and lesion, as :func:`lesion_metrics` returns them for a case.
        groups, resamples, seed: see :func:`summarise`; groups by case.

    Returns:
        columns ``row`` (``case`` or ``summary``), ``name`` (of the case or the statistic) and
        ``<lesion>_<metric>``, for example ``ground_glass_dice``.

    Raises:
        ValueError: if there is no case, or cases differ in their lesions.
        KeyError: if a case has no group.
    """
    if not cases:
        raise ValueError("cases must not be empty")
    lesions = list(next(iter(cases.values())))
    # A single and a multi network have other lesions: mixed, they would leave holes in the table.
    for name, metrics in cases.items():
        if list(metrics) != lesions:
            raise ValueError(f"case {name!r} has metrics of {list(metrics)}, the first case of {lesions}")
    rows = [{"row": "case", "name": name, **_columns(metrics)} for name, metrics in cases.items()]
    table = pd.DataFrame(rows)
    patients = None if groups is None else [groups[name] for name in cases]
    below = table.drop(columns=["row", "name"]).apply(
        lambda column: pd.Series(summarise(column, groups=patients, resamples=resamples, seed=seed)._asdict())
    )
    below = below.rename_axis("name").reset_index().assign(row="summary")
    return pd.concat([table, below], ignore_index=True)


def _columns(metrics: Mapping[str, CaseMetrics]) -> dict[str, float]:
    return {f"{lesion}_{key}": value for lesion, case in metrics.items() for key, value in asdict(case).items()}


def write_metrics(path: str | Path, cases: Mapping[str, Mapping[str, CaseMetrics]], **options: Any) -> pd.DataFrame:
    """Write :func:`metrics_table` as CSV, NaN as an empty cell, and return it.

    Args:
        path: the CSV file.
        cases, **options: see :func:`metrics_table`.
    """
    table = metrics_table(cases, **options)
    table.to_csv(path, index=False, float_format="%.6g")
    return table
