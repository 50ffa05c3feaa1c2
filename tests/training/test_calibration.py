"""Reliability and agreement by threshold, on cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from covsev.training.evaluation.calibration import (
    agreement_by_threshold,
    expected_calibration_error,
    plot_calibration,
    reliability,
)

PROBABILITY = np.array([[0.1, 0.1, 0.6, 0.8]], dtype=np.float32)
REFERENCE = np.array([[False, True, True, True]])


def test_bins_hold_predicted_and_observed():
    table = reliability([(PROBABILITY, REFERENCE), (np.ones((1, 1), np.float32), np.zeros((1, 1), bool))], bins=2)
    assert table["pixels"].tolist() == [2, 3]
    assert table["low"].tolist() == [0, 0.5]
    assert table["high"].tolist() == [0.5, 1]
    assert table["predicted"].tolist() == pytest.approx([0.1, 0.8])
    assert table["observed"].tolist() == pytest.approx([0.5, 2 / 3])
    assert expected_calibration_error(table) == pytest.approx((2 * 0.4 + 3 * (0.8 - 2 / 3)) / 5)


def test_empty_bins_are_left_out_and_no_slice_is_refused():
    assert len(reliability([(PROBABILITY, REFERENCE)], bins=10)) == 3
    with pytest.raises(ValueError, match="slices must not be empty"):
        reliability([])


def test_agreement_follows_the_threshold():
    table = agreement_by_threshold([(PROBABILITY, REFERENCE)], [0.05, 0.5, 0.7])
    assert table["dice"].tolist() == pytest.approx([6 / 7, 0.8, 0.5])
    assert table["sensitivity"].tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert table["specificity"].tolist() == pytest.approx([0, 1, 1])
    assert table["area_ratio"].tolist() == pytest.approx([4 / 3, 2 / 3, 1 / 3])


def test_without_infection_there_is_no_area_ratio():
    table = agreement_by_threshold([(PROBABILITY, np.zeros_like(REFERENCE))], [0.5])
    assert np.isnan(table["area_ratio"][0])


def test_the_plot_is_written(tmp_path):
    slices = [(PROBABILITY, REFERENCE)]
    plot_calibration(reliability(slices), agreement_by_threshold(slices, [0.3, 0.6]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
