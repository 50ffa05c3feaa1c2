"""Metrics against tables worked out by hand, and against formulas written down again."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from covsev.training.evaluation.metrics import (
    CaseMetrics,
    Summary,
    case_metrics,
    legacy_infnet,
    lesion_metrics,
    metrics_table,
    summarise,
    write_metrics,
)

NAN = math.nan


def _values(metrics):
    return [metrics.dice, metrics.jaccard, metrics.sensitivity, metrics.specificity, metrics.mae]


def _expect(metrics, *expected):
    np.testing.assert_allclose(_values(metrics), expected, atol=1e-6)


# ---- one case --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [  # dice, jaccard, sensitivity, specificity, mae
        ([1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0], (4 / 7, 2 / 5, 2 / 4, 3 / 4, 3 / 8)),
        ([0.9, 0.6, 0.5, 0.4, 0.0], [1, 0, 1, 1, 0], (4 / 6, 2 / 4, 2 / 3, 1 / 2, (0.1 + 0.6 + 0.5 + 0.6) / 5)),
        ([1, 0], [1, 0], (1, 1, 1, 1, 0)),
        ([0, 1], [1, 0], (0, 0, 0, 0, 1)),
        ([0, 0], [0, 0], (1, 1, NAN, 1, 0)),
        ([1, 0], [0, 0], (0, 0, NAN, 0.5, 0.5)),
        ([0, 0], [1, 0], (0, 0, 0, 1, 0.5)),
        ([1, 0], [1, 1], (2 / 3, 1 / 2, 1 / 2, NAN, 0.5)),
        ([0.2, 0.2], [0, 0], (1, 1, NAN, 1, 0.2)),
    ],
)
def test_case_metrics_by_hand(prediction, reference, expected):
    _expect(case_metrics(prediction, reference), *expected)


def test_threshold_is_the_first_positive_probability():
    probability, reference = np.array([0.3, 0.29, 0.8]), np.array([1, 1, 0])
    assert case_metrics(probability, reference, threshold=0.3).sensitivity == 0.5
    assert case_metrics(probability, reference, threshold=0.31).sensitivity == 0


def test_shape_and_type_do_not_matter():
    rng = np.random.default_rng(0)
    prediction, reference = rng.random((4, 5, 6)) > 0.5, rng.random((4, 5, 6)) > 0.5
    flat = case_metrics(prediction.ravel().astype(float), reference.ravel().astype(np.uint8))
    _expect(case_metrics(prediction, reference), *_values(flat))
    assert case_metrics(True, True).dice == 1


def test_counts_stay_exact_in_large_volumes():
    """MONAI counts in float32: past 2^24 voxels a few false positives would be lost or invented."""
    prediction = np.zeros((40, 700, 700), dtype=np.uint8)
    reference = prediction.copy()
    reference[0, 0, :10] = prediction[0, 0, :13] = 1
    assert case_metrics(prediction, reference).dice == pytest.approx(20 / 23, abs=1e-12)


@given(arrays.arrays(bool, (2, 12), elements=st.booleans()))
def test_jaccard_follows_from_dice(masks):
    metrics = case_metrics(masks[0], masks[1])
    assert metrics.jaccard == pytest.approx(metrics.dice / (2 - metrics.dice))
    assert metrics.dice == case_metrics(masks[1], masks[0]).dice


def test_jaccard_above_dice_cannot_be_built():
    """The paper's own table has such rows."""
    with pytest.raises(ValueError, match=r"jaccard 0\.8 exceeds dice 0\.7"):
        CaseMetrics(dice=0.7, jaccard=0.8, sensitivity=1, specificity=1, mae=0)


@pytest.mark.parametrize("metrics", [case_metrics, legacy_infnet])
@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ([0, 1], [0, 1, 1], r"prediction has shape \(2,\), but reference has shape \(3,\)"),
        ([], [], "prediction and reference are without pixels"),
        ([0, 1.5], [0, 1], r"prediction must lie in \[0, 1\]; got 0 to 1\.5"),
        ([-3, 1], [0, 1], r"prediction must lie in \[0, 1\]; got -3 to 1"),
        ([NAN, 1], [0, 1], r"prediction must lie in \[0, 1\]; got nan"),
        ([0, 1], [0, 255], "reference must hold 0 and 1 only"),
        ([0, 1], [0, NAN], "reference must hold 0 and 1 only"),
    ],
)
def test_bad_input_is_refused(metrics, prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        metrics(prediction, reference)


# ---- lesion types ----------------------------------------------------------------------------------------------


def test_lesion_types_are_measured_apart():
    labels = np.array([[0, 1, 1, 2], [2, 2, 0, 0]])
    reference = np.array([[0, 1, 2, 2], [2, 0, 0, 1]])
    metrics = lesion_metrics(labels, reference)
    assert list(metrics) == ["infection", "ground_glass", "consolidation"]
    _expect(metrics["infection"], 8 / 10, 4 / 6, 4 / 5, 2 / 3, 2 / 8)
    _expect(metrics["ground_glass"], 2 / 4, 1 / 3, 1 / 2, 5 / 6, 2 / 8)
    _expect(metrics["consolidation"], 4 / 6, 2 / 4, 2 / 3, 4 / 5, 2 / 8)


def test_an_absent_lesion_type_follows_the_empty_rule():
    metrics = lesion_metrics([0, 1, 1], [0, 1, 1])
    _expect(metrics["consolidation"], 1, 1, NAN, 1, 0)


@pytest.mark.parametrize(
    ("labels", "reference", "name"), [([3, 0], [1, 0], "labels"), ([1, 0], [3, 0], "reference_labels")]
)
def test_unknown_labels_are_refused(labels, reference, name):
    with pytest.raises(ValueError, match=rf"^{name} holds \[3\]; known are \(0, 1, 2\)"):
        lesion_metrics(labels, reference)


# ---- the legacy protocol ---------------------------------------------------------------------------------------


def _public_evaluation(probability, mask):
    """The loop of the public MATLAB evaluation, threshold by threshold."""
    low, high = probability.min(), probability.max()
    grey = np.zeros_like(probability) if low == high else np.rint(255 * (probability - low) / (high - low))
    rows = []
    for threshold in range(256):
        positive = grey >= threshold
        tp, fp = (positive & mask).sum(), (positive & ~mask).sum()
        fn, tn = (~positive & mask).sum(), (~positive & ~mask).sum()
        rows.append(
            [2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn), tp / (tp + fn), tn / (tn + fp)] if tp else [0] * 4
        )
    return [*np.mean(rows, axis=0), np.abs(grey / 255 - mask).mean()]


@pytest.mark.parametrize("seed", range(3))
def test_legacy_protocol_equals_the_public_loop(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11)) > 0.7
    probability = np.clip(0.3 + 0.2 * mask + 0.1 * rng.standard_normal(mask.shape), 0, 1).astype(np.float32)
    _expect(legacy_infnet(probability, mask), *_public_evaluation(probability, mask))


def test_legacy_protocol_by_hand():
    """Two values, so two kinds of threshold: 0 takes all four pixels, the other 255 the upper two."""
    metrics = legacy_infnet([0.1, 0.1, 0.2, 0.2], [0, 0, 1, 0])
    _expect(
        metrics,
        (2 / 5 + 255 * 2 / 3) / 256,
        (1 / 4 + 255 * 1 / 2) / 256,
        1,
        255 / 256 * 2 / 3,
        1 / 4,
    )


def test_legacy_protocol_finds_infection_in_a_healthy_slice():
    _expect(legacy_infnet([0.0, 0.002], [0, 0]), 0, 0, 0, 0, 0.5)
    _expect(case_metrics([0.0, 0.002], [0, 0]), 1, 1, NAN, 1, 0.001)


def test_legacy_protocol_ignores_calibration():
    rng = np.random.default_rng(0)
    probability, mask = rng.integers(0, 256, 50) / 255, rng.random(50) > 0.5
    probability[:2] = 0, 1
    np.testing.assert_allclose(
        _values(legacy_infnet(0.25 * probability + 0.5, mask)), _values(legacy_infnet(probability, mask))
    )


def test_legacy_protocol_takes_a_constant_map_for_0():
    _expect(legacy_infnet([0.7, 0.7], [1, 0]), 2 / 3 / 256, 1 / 2 / 256, 1 / 256, 0, 0.5)
    assert math.isnan(legacy_infnet([0.2, 0.7], [1, 1]).specificity)


# ---- many cases ------------------------------------------------------------------------------------------------


def test_summary_by_hand():
    summary = summarise([1.0, 2.0, NAN, 6.0])
    assert (summary.mean, summary.counted, summary.left_out) == (3.0, 3, 1)
    assert summary.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert 1 <= summary.ci95_low < 3 < summary.ci95_high <= 6


def test_interval_is_that_of_the_bootstrap():
    values = np.random.default_rng(0).normal(5, 2, 200)
    summary = summarise(values, seed=1)
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert summary.ci95_low == pytest.approx(values.mean() - half, abs=0.05)
    assert summary.ci95_high == pytest.approx(values.mean() + half, abs=0.05)
    assert summarise(values, seed=1) == summary
    assert summarise(values, seed=2) != summary


def test_groups_widen_the_interval():
    """Ten slices a patient that all agree are no more than one slice a patient."""
    patients = np.random.default_rng(0).normal(0.7, 0.1, 8)
    values, groups = np.repeat(patients, 10), np.repeat(np.arange(8), 10)
    by_patient, by_slice, single = summarise(values, groups=groups), summarise(values), summarise(patients)
    assert by_patient[2:4] == pytest.approx(single[2:4])
    assert by_patient.ci95_high - by_patient.ci95_low > 2 * (by_slice.ci95_high - by_slice.ci95_low)


def test_few_values():
    assert summarise([0.5])[0] == 0.5
    assert summarise([0.5])[2:] == (0.5, 0.5, 1, 0)
    assert math.isnan(summarise([0.5]).sd)
    nothing = summarise([NAN, NAN])
    assert (nothing.counted, nothing.left_out) == (0, 2)
    assert all(math.isnan(value) for value in nothing[:4])


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [([], None, "values must not be empty"), ([1, 2], ["a"], "groups has 1 entries for 2 values")],
)
def test_summary_refuses(values, groups, message):
    with pytest.raises(ValueError, match=message):
        summarise(values, groups=groups)


CASES = {
    "a": lesion_metrics([0, 1, 1, 2], [0, 1, 2, 2]),
    "b": lesion_metrics([0, 0, 0, 0], [0, 0, 0, 0]),
    "c": lesion_metrics([1, 1, 0, 0], [0, 1, 1, 0]),
}


def test_table_has_a_row_a_case_then_the_summary():
    table = metrics_table(CASES)
    assert table["row"].tolist() == ["case"] * 3 + ["summary"] * 6
    assert table["name"].tolist() == ["a", "b", "c", *Summary._fields]
    values = table.set_index("name")
    assert values.loc["a", "consolidation_dice"] == pytest.approx(2 / 3)
    assert values.loc["mean", "ground_glass_dice"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert values.loc["mean", "consolidation_sensitivity"] == pytest.approx(1 / 2)
    assert values.loc[["counted", "left_out"], "consolidation_sensitivity"].tolist() == [1, 2]
    assert len(table.columns) == 2 + 3 * 5


def test_table_draws_groups():
    single, grouped = metrics_table(CASES), metrics_table(CASES, groups={"a": 1, "b": 1, "c": 1})
    row = single["name"].tolist().index("ci95_low")
    assert grouped.loc[row, "infection_dice"] == grouped.loc[row - 2, "infection_dice"], "one patient: no spread"
    assert single.loc[row, "infection_dice"] < grouped.loc[row, "infection_dice"]


def test_csv_holds_the_table(tmp_path):
    path = tmp_path / "metrics.csv"
    table = write_metrics(path, CASES, seed=5, resamples=50)
    pd.testing.assert_frame_equal(table, metrics_table(CASES, seed=5, resamples=50))
    pd.testing.assert_frame_equal(pd.read_csv(path), table, rtol=1e-5, check_dtype=False)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("row,name,infection_dice,infection_jaccard,infection_sensitivity,")
    assert lines[2] == "case,b" + ",1,1,,1,0" * 3


def test_table_refuses_no_cases_and_mixed_lesions():
    with pytest.raises(ValueError, match="cases must not be empty"):
        metrics_table({})
    mixed = CASES | {"d": {"infection": case_metrics([1], [1])}}
    with pytest.raises(ValueError, match=r"case 'd' has metrics of \['infection'\], the first case of \['infection', "):
        metrics_table(mixed)


def test_table_refuses_a_case_without_group():
    with pytest.raises(KeyError, match="'b'"):
        metrics_table(CASES, groups={"a": 0, "c": 1})
