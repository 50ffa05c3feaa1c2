"""The border of a dense part between tissues of other and of the same density."""

from __future__ import annotations

import numpy as np
import pytest
from measures import dice
from scipy import ndimage

from covsev.anatomy.lungs.dense_border import follow_density

SHAPE, SPACING_MM = (60, 56, 40), (2.0, 2.0, 2.5)
DISEASE_HU = 30
MM = (np.indices(SHAPE) - np.array([30, 28, 20])[:, None, None, None]) * np.array(SPACING_MM)[:, None, None, None]
RADIUS_MM = np.sqrt((MM**2).sum(axis=0))
BALL = RADIUS_MM < 26
LUNG = RADIUS_MM < 0
EVERYWHERE = np.ones(SHAPE, dtype=bool)


def scan(around_hu, true=BALL, noise_hu=15):
    """Disease in ``true``, tissue of ``around_hu`` elsewhere, and noise."""
    noise = np.random.default_rng(0).normal(0, noise_hu, SHAPE)
    return (np.where(true, DISEASE_HU, around_hu) + noise).astype(np.int16)


@pytest.mark.parametrize("around_hu", [-100, 0, 60, 300], ids=["fat", "fluid", "liver", "bone"])
@pytest.mark.parametrize("predicted_mm", [20, 32], ids=["too_small", "too_large"])
def test_the_border_moves_to_where_the_density_changes(around_hu, predicted_mm):
    predicted = predicted_mm > RADIUS_MM
    hu = scan(around_hu)
    if around_hu == 300:  # muscle behind the bone
        hu[RADIUS_MM > 36] = 60
    moved = follow_density(hu, predicted, LUNG, EVERYWHERE, SPACING_MM)
    assert dice(predicted, BALL) < 0.7
    assert dice(moved, BALL) > 0.88


@pytest.mark.parametrize("predicted_mm", [20, 32])
def test_between_tissues_that_are_alike_the_prediction_stays(predicted_mm):
    predicted = predicted_mm > RADIUS_MM
    moved = follow_density(scan(DISEASE_HU), predicted, LUNG, EVERYWHERE, SPACING_MM)
    assert dice(moved, predicted) > 0.95


def test_known_lung_and_what_is_not_allowed_stay_out():
    lung, allowed = MM[2] > 10, MM[1] < 12
    predicted = (RADIUS_MM < 20) & ~lung & allowed
    moved = follow_density(scan(60), predicted, lung, allowed, SPACING_MM)
    assert np.count_nonzero(moved) > 1.3 * np.count_nonzero(predicted)
    assert not (moved & (lung | ~allowed)).any()


def test_where_nothing_is_allowed_a_part_stays_as_it_was_predicted():
    predicted = RADIUS_MM < 20
    moved = follow_density(scan(60), predicted, LUNG, ~EVERYWHERE, SPACING_MM)
    assert not (moved & ~predicted).any()
    assert dice(moved, predicted) > 0.95


@pytest.mark.parametrize("other_hu", [-10, 70])
def test_a_part_beside_one_of_another_density_is_judged_by_its_own(other_hu):
    other = np.sqrt(((MM - np.array([34, 0, 0])[:, None, None, None]) ** 2).sum(axis=0)) < 14
    part = (RADIUS_MM < 22) & (MM[0] < 14)
    hu = np.where(other, other_hu, scan(50, true=part))
    for own, beside in ((part, other), (other, part)):
        assert dice(follow_density(hu, own, LUNG | beside, EVERYWHERE, SPACING_MM), own) > 0.88


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_scan_gives_the_mirrored_border(axis):
    hu, predicted = scan(60), (RADIUS_MM < 22) & (MM[0] > -12)
    moved = follow_density(hu, predicted, LUNG, EVERYWHERE, SPACING_MM)
    mirrored = follow_density(
        np.flip(hu, axis), np.flip(predicted, axis), np.flip(LUNG, axis), np.flip(EVERYWHERE, axis), SPACING_MM
    )
    assert dice(np.flip(mirrored, axis), moved) > 0.999


def test_nothing_predicted_is_nothing_found():
    assert not follow_density(scan(60), ~EVERYWHERE, LUNG, EVERYWHERE, SPACING_MM).any()


def test_without_tissue_around_the_prediction_stays():
    predicted = RADIUS_MM < 20
    hu = np.where(ndimage.binary_dilation(predicted), DISEASE_HU, -900)
    assert (follow_density(hu, predicted, hu < -400, EVERYWHERE, SPACING_MM) == predicted).all()


def test_of_a_part_too_small_to_know_its_density_the_prediction_stays():
    crumb = RADIUS_MM < 8
    assert (follow_density(scan(-100), crumb, LUNG, EVERYWHERE, SPACING_MM) == crumb).all()


def test_disease_that_still_holds_air_is_not_trimmed():
    mixed = (RADIUS_MM > 18) & BALL
    hu = np.where(mixed, -250, scan(60)).astype(np.int16)
    moved = follow_density(hu, BALL, LUNG, EVERYWHERE, SPACING_MM)
    assert moved[mixed].mean() > 0.75
