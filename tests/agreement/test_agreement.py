"""Agreement of masks and of scores, on hand-made cases and against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import stats

from covsev.agreement.masks import compare_masks, surface_mm
from covsev.agreement.scores import auc, compare_scores, compare_with_classes, icc, pearson, weighted_kappa
from covsev.errors import GridMismatchError

MM = np.diag([1.0, 2.0, 3.0, 1.0])


def box(*slices, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


CUBE = box(slice(2, 6), slice(2, 6), slice(2, 6))


def agree(reference, predicted, affine=MM, tolerance_mm=1.0):
    return compare_masks(reference, predicted, affine, tolerance_mm=tolerance_mm)


# ---- masks --------------------------------------------------------------------------------------------------------


def test_a_mask_agrees_with_itself():
    found = agree(CUBE, CUBE)
    assert (found.dice, found.jaccard, found.sensitivity, found.specificity) == (1, 1, 1, 1)
    assert (found.surface_dice, found.hd95_mm, found.volume_error_ml) == (1, 0, 0)
    assert found.reference_ml == pytest.approx(64 * 6 / 1000)


def test_a_shift_by_one_voxel():
    """64 and 64 voxels, 48 in common; along the second axis, 2 mm apart."""
    found = agree(CUBE, np.roll(CUBE, 1, axis=1))
    assert found.dice == pytest.approx(96 / 128)
    assert found.jaccard == pytest.approx(48 / 80)
    assert found.sensitivity == pytest.approx(48 / 64)
    assert found.specificity == pytest.approx((12**3 - 64 - 16) / (12**3 - 64))
    assert found.hd95_mm == 2
    assert agree(CUBE, np.roll(CUBE, 1, axis=1), tolerance_mm=2.0).surface_dice == 1


def test_volume_error_has_a_sign():
    small = box(slice(2, 4), slice(2, 6), slice(2, 6))
    found = agree(CUBE, small)
    assert found.volume_error_ml == pytest.approx(-32 * 6 / 1000)
    assert found.volume_error_pct == -50
    assert agree(small, CUBE).volume_error_pct == 100


@pytest.mark.parametrize(
    ("reference", "predicted", "dice", "sensitivity", "error_pct"),
    [(0 * CUBE, 0 * CUBE, 1, None, None), (CUBE, 0 * CUBE, 0, 0, -100), (0 * CUBE, CUBE, 0, None, None)],
)
def test_empty_masks(reference, predicted, dice, sensitivity, error_pct):
    found = agree(reference.astype(bool), predicted.astype(bool))
    assert (found.dice, found.jaccard, found.surface_dice) == (dice, dice, dice)
    assert (found.sensitivity, found.hd95_mm, found.volume_error_pct) == (sensitivity, None, error_pct)


def test_a_full_reference_has_no_specificity():
    assert agree(np.ones_like(CUBE), CUBE).specificity is None


def test_other_shapes_and_tolerances_are_refused():
    with pytest.raises(GridMismatchError, match=r"predicted has shape \(11, 12, 12\), but reference has"):
        agree(CUBE, CUBE[1:])
    with pytest.raises(ValueError, match="tolerance_mm must be at least 0; got -1"):
        agree(CUBE, CUBE, tolerance_mm=-1)


def test_the_surface_is_the_outer_layer_in_world_coordinates():
    affine = MM.copy()
    affine[:3, 3] = 100
    points = surface_mm(CUBE, affine)
    assert len(points) == 64 - 8  # a core of 2 x 2 x 2
    assert points.min(axis=0).tolist() == [102, 104, 106]
    assert len(surface_mm(np.ones((3, 3, 3), bool), MM)) == 26  # the grid's border is outside


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), tolerance_mm=st.sampled_from([0.5, 1.0, 3.0]))
def test_surfaces_are_those_of_monai(seed, tolerance_mm):
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, 14, 14, 14), bool)
    for mask in masks:
        low, size = rng.integers(1, 6, 3), rng.integers(2, 7, 3)
        mask[tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))] = True
    found = agree(*masks, tolerance_mm=tolerance_mm)
    reference, predicted = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in masks)
    spacing = (1.0, 2.0, 3.0)
    expected = compute_hausdorff_distance(predicted, reference, include_background=True, percentile=95, spacing=spacing)
    assert found.hd95_mm == pytest.approx(float(expected), abs=1e-4)
    expected = compute_surface_dice(
        predicted, reference, [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=False
    )
    assert found.surface_dice == pytest.approx(float(expected), abs=1e-4)


# ---- scores -------------------------------------------------------------------------------------------------------


def test_bland_altman_by_hand():
    found = compare_scores([1, 2, 3, 4], [2, 2, 5, 3], points=False)  # differences 1, 0, 2, -1
    sd = np.std([1, 0, 2, -1], ddof=1)
    assert found.bias == 0.5
    assert (found.loa_low, found.loa_high) == pytest.approx((0.5 - 1.96 * sd, 0.5 + 1.96 * sd))
    assert found.mean_absolute_difference == 1
    assert (found.pairs, found.left_out, found.kappa, found.within_one) == (4, 0, None, None)


def test_missing_values_are_left_out_and_counted():
    found = compare_scores([1, None, 3, 4], [1, 2, None, 6], points=True)
    assert (found.pairs, found.left_out, found.bias, found.within_one) == (2, 2, 1, 0.5)
    nothing = compare_scores([None], [1], points=True)
    assert (nothing.pairs, nothing.left_out, nothing.bias, nothing.kappa) == (0, 1, None, None)


def test_one_pair_has_no_limits():
    found = compare_scores([1], [3], points=True)
    assert (found.bias, found.loa_low, found.pearson_r, found.icc) == (2, None, None, None)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="shorter"):
        compare_scores([1, 2], [1], points=True)


def test_icc_by_hand():
    """The first two judges of Shrout and Fleiss' six targets: mean squares by hand from the two-way table."""
    one, two = [9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2]
    subjects, judges, error = 281 / 60, 961 / 12, 41 / 60
    assert icc(one, two) == pytest.approx((subjects - error) / (subjects + error + 2 * (judges - error) / 6))
    assert icc(one, two) == pytest.approx(0.1257, abs=1e-4)


def test_icc_of_equal_few_and_reversed_ratings():
    assert icc([1, 2, 3], [1, 2, 3]) == 1
    assert icc([1, 2], [1, 2]) is None
    assert icc([1, 1, 1], [1, 1, 1]) is None
    assert icc([1, 2, 3], [3, 2, 1]) < 0


def test_kappa_by_hand():
    """Cohen's table: 2 x (0,0), 1 x (0,1), 1 x (1,1): quadratic and plain weights are the same for two classes."""
    observed, expected = 3 / 4, (3 / 4) * (2 / 4) + (1 / 4) * (2 / 4)
    assert weighted_kappa([0, 0, 0, 1], [0, 0, 1, 1]) == pytest.approx((observed - expected) / (1 - expected))
    assert weighted_kappa([0, 1, 2], [0, 1, 2]) == 1
    assert weighted_kappa([1, 1], [1, 1]) is None
    assert weighted_kappa([0, 2], [2, 0]) == -1


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=3, max_size=20))
def test_correlations_are_those_of_scipy(pairs):
    x, y = np.array(pairs, float).T
    found = compare_with_classes(list(x), [int(v) for v in y])
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert pearson(x, y) is None
        assert found.spearman_r is None
    else:
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
        assert found.spearman_r == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


# ---- clinical class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severe", "mild", "area"),
    [([3, 4], [1, 2], 1), ([1, 2], [3, 4], 0), ([1, 2], [1, 2], 0.5), ([2], [1, 2, 3], 0.5), ([], [1], None)],
)
def test_area_under_the_curve(severe, mild, area):
    assert auc(np.array(severe, float), np.array(mild, float)) == area


def test_a_score_against_the_class():
    found = compare_with_classes([1, 5, 9, None, 20], [1, 2, 3, 3, 4])
    assert (found.cases, found.severe, found.auc, found.spearman_r) == (4, 2, 1, 1)
    assert compare_with_classes([None], [1]).cases == 0
