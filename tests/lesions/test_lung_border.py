"""Disease that goes on beyond the lung mask is lung that the mask has lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from covsev.anatomy.lungs.model import Field, LungProbability
from covsev.anatomy.lungs.possible import PossibleLung
from covsev.assessment import assess
from covsev.inference.slabs import Slabs
from covsev.lesions.lung_border import lung_behind_lesions
from covsev.lesions.volume import segment_lesions
from covsev.phantom import make_phantom


def _row(text):
    """One row of labels, a character a voxel."""
    return np.array([[[int(character) for character in text]]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("sides", "infected", "possible", "expected", "why"),
    [
        ("111100000", "111110000", "111111111", "111110000", "disease goes on beyond the mask"),
        ("111100000", "111001000", "111111111", "111100000", "it touches no disease inside"),
        ("111100000", "111110000", "111100000", "111100000", "the lung network holds no lung possible"),
        ("111122220", "000111111", "111111111", "111122222", "it touches the left lung"),
        ("111122220", "000111111", "111111110", "111122220", "and there no lung is possible"),
        ("111100000", "111100000", "111111111", "111100000", "disease inside only"),
        ("111100000", "000000000", "111111111", "111100000", "no disease"),
    ],
)
def test_disease_beyond_the_mask_that_touches_disease_inside_is_lung(sides, infected, possible, expected, why):
    result = lung_behind_lesions(_row(sides), _row(possible) > 0, _row(infected) > 0)
    np.testing.assert_array_equal(result, _row(expected), why)
    assert result.dtype == np.uint8


def test_it_goes_round_corners_and_across_slices():
    sides, infected = np.zeros((3, 3, 12), np.uint8), np.zeros((3, 3, 12), bool)
    sides[0, 0] = 1
    infected[0, 0] = True
    for place in ((1, 0, 0), (1, 1, 0), (1, 1, 1)):
        infected[place] = True
    infected[2, 2, 2] = True  # touches by a corner only
    result = lung_behind_lesions(sides, np.ones_like(infected), infected)
    added = sorted(map(tuple, np.argwhere((result > 0) & (sides == 0)).tolist()))
    assert added == [(1, 0, 0), (1, 1, 0), (1, 1, 1)]


def _possible(scan, where, never=None):
    """What a lung network that answers with ``where`` holds possible."""
    slices = np.moveaxis(where, 2, 0).astype(np.float32)
    size = scan.hu.shape[:2]
    probability = LungProbability(Slabs(len(slices), 1), Field(size, size), slices)
    never = np.zeros(scan.hu.shape, bool) if never is None else never
    return PossibleLung(probability, never, (1, 1, 1), size)


def test_possible_lung_is_what_is_likely_enough_and_no_airway():
    phantom = make_phantom((6.0, 6.0, 10.0))
    shape = phantom.scan.hu.shape
    where, airway = np.full(shape, 0.02, np.float32), np.zeros(tuple(-(-side // 2) for side in shape), bool)
    where[10:20, 5:15] = 0.04
    airway[6, :, 1] = True  # coarse voxel 6 is voxels 12 and 13; slice 3 lies in coarse slice 1
    slices = np.moveaxis(where, 2, 0)
    size = shape[:2]
    probability = LungProbability(Slabs(len(slices), 1), Field(size, size), slices)
    found = PossibleLung(probability, airway, (2, 2, 2), size).plane(3)
    expected = where[:, :, 3] > 0.03
    expected[12:14] = False
    np.testing.assert_array_equal(found, expected)


def test_the_last_coarse_voxel_covers_what_was_left_over():
    where = np.ones((1, 5, 5), np.float32)
    probability = LungProbability(Slabs(1, 1), Field((5, 5), (5, 5)), where)
    never = np.zeros((2, 2, 1), bool)
    never[1, 1] = True
    plane = PossibleLung(probability, never, (2, 2, 1), (5, 5)).plane(0)
    assert not plane[2:, 2:].any()
    assert plane[:2].all()


def test_lungs_get_back_the_disease_that_the_mask_has_lost(bright_model):
    phantom = make_phantom((4.0, 4.0, 5.0))
    lesions = phantom.lesions > 0
    depth = np.arange(lesions.shape[1])[None, :, None]
    back = np.quantile(np.nonzero(lesions)[1], 0.8)
    cut = np.where(lesions & (depth > back), 0, phantom.lungs).astype(np.uint8)
    possible = _possible(phantom.scan, phantom.lungs > 0)  # the toy network takes the heart for disease, too
    found = segment_lesions(phantom.scan, cut, bright_model, possible=possible)
    lost = (phantom.lungs > 0) & (cut == 0)
    assert lost.sum() > 30
    back = found.lungs[lost] == phantom.lungs[lost]
    assert back.mean() > 0.5  # the toy network is led by noise
    np.testing.assert_array_equal(found.labels[lost] > 0, back & (found.probability[lost] >= 0.5))
    np.testing.assert_array_equal(found.lungs[cut > 0], cut[cut > 0])
    nowhere = segment_lesions(
        phantom.scan, cut, bright_model, possible=_possible(phantom.scan, np.zeros(phantom.scan.hu.shape))
    )
    without = segment_lesions(phantom.scan, cut, bright_model)
    for result in (nowhere, without):
        np.testing.assert_array_equal(result.lungs, cut)
        assert not result.labels[lost].any()


def test_an_assessment_counts_it_as_recovered(phantom, phantom_lungs, bright_model, monkeypatch):
    from covsev import assessment

    lesions = phantom.lesions > 0
    # The layer of the disease that lies furthest back is lost, as consolidation is at the chest wall.
    back = np.arange(lesions.shape[1])[None, :, None] >= np.quantile(np.nonzero(lesions)[1], 0.85)
    labels = np.where(lesions & back, 0, phantom_lungs.labels).astype(np.uint8)
    possible = _possible(phantom.scan, phantom_lungs.labels > 0)
    lost = dataclasses.replace(phantom_lungs, labels=labels, possible=possible)
    monkeypatch.setattr(assessment, "segment_lungs", lambda *_: lost)
    found = assess(phantom.scan, bright_model)
    added = (found.lungs.labels > 0) & (labels == 0)
    assert added.sum() > 10
    assert found.lungs.recovered_mask[added].all()
    assert found.lungs.recovered_ml == pytest.approx(lost.recovered_ml + added.sum() * phantom.scan.voxel_ml)
    assert found.lungs.possible is None
    assert found.lungs.method == f"{lost.method}; and disease that goes on beyond it"
    assert found.report.regions["both_lungs"].volume_ml == pytest.approx(
        np.count_nonzero(found.lungs.labels) * phantom.scan.voxel_ml
    )


def test_what_lies_mostly_beyond_the_mask_is_no_lung():
    """Fat or bowel beside a speck of infection lights up by more than the speck."""
    mostly_inside, mostly_beyond = _row("1111110000"), _row("1110000000")
    infected = _row("0111111100") > 0
    possible = _row("1111111000") > 0  # and what is beyond that does not count at all
    result = lung_behind_lesions(mostly_inside, possible, infected)
    np.testing.assert_array_equal(result, _row("1111111000"))
    np.testing.assert_array_equal(lung_behind_lesions(mostly_beyond, np.ones_like(infected), infected), mostly_beyond)


def test_parts_are_judged_one_by_one():
    sides = _row("11110000000211")
    infected = _row("11111000011111") > 0
    sides[0, 0, 10:] = 2
    expected = sides.copy()
    expected[0, 0, 4] = 1  # four inside, one beyond; and at the other end four inside, one beyond
    expected[0, 0, 9] = 2
    np.testing.assert_array_equal(lung_behind_lesions(sides, np.ones_like(infected), infected), expected)
