"""Lung in 8-bit slices of any window and orientation, and the slices that are rejected."""

from __future__ import annotations

import re

import numpy as np
import pytest
from measures import dice

from covsev.anatomy.lungs.parenchyma_slice import segment_parenchyma_slice
from covsev.errors import ScanError

Y, X = np.indices((200, 260))
RIGHT = ((X - 80) / 40) ** 2 + ((Y - 100) / 65) ** 2 < 1
LEFT = ((X - 180) / 40) ** 2 + ((Y - 100) / 65) ** 2 < 1
BODY = ((X - 130) / 115) ** 2 + ((Y - 100) / 88) ** 2 < 1


def picture(lungs=RIGHT | LEFT, lung=40, tissue=190, air=5, body=BODY):
    grey = np.where(lungs, lung, np.where(body, tissue, air))
    return np.clip(grey + np.random.default_rng(0).normal(0, 6, grey.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("window", [{}, {"lung": 12, "tissue": 95}, {"lung": 90, "tissue": 230, "air": 40}])
def test_lungs_are_found_in_any_window_and_orientation(turn, window):
    found = segment_parenchyma_slice(np.rot90(picture(**window), turn))
    assert found.rejected is None
    assert dice(found.mask, np.rot90(RIGHT | LEFT, turn)) > 0.97


def test_a_crop_without_air_around_is_accepted():
    everywhere = np.ones_like(BODY)
    found = segment_parenchyma_slice(picture(body=everywhere))
    assert found.rejected is None
    assert dice(found.mask, RIGHT | LEFT) > 0.97


def test_dense_disease_inside_the_lung_is_kept():
    lesion = (X - 80) ** 2 + (Y - 110) ** 2 < 15**2
    found = segment_parenchyma_slice(picture(lungs=(RIGHT | LEFT) & ~lesion))
    assert found.rejected is None
    assert found.mask[lesion].all()


def test_lungs_that_touch_are_two_lungs():
    bridge = (np.abs(X - 130) < 15) & (np.abs(Y - 80) < 3)
    assert segment_parenchyma_slice(picture(lungs=RIGHT | LEFT | bridge)).rejected is None


COMB = RIGHT & ((Y // 16) % 2 == 0) | (RIGHT & (X < 55))
SMALL = ((X - 180) / 16) ** 2 + ((Y - 100) / 20) ** 2 < 1
REJECTED = {
    "one grey": (np.full((100, 100), 7, np.uint8), "of one grey"),
    "noise": (np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8), "of the picture|told apart"),
    "no lung": (picture(lungs=np.zeros_like(BODY)), "lung is 0% of the picture"),
    "one lung": (picture(lungs=RIGHT), "only one lung found"),
    "a small lung": (picture(lungs=RIGHT | SMALL), "the smaller lung holds [0-9]+% of both"),
    "ragged": (picture(lungs=COMB | LEFT), "of its convex hull: it is ragged"),
    "cut off": (picture(body=np.ones_like(BODY))[40:160, 60:200], "of the picture's rim: it is cut off|of the picture"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_a_slice_whose_split_fails_is_rejected_with_the_reason(case):
    grey, reason = REJECTED[case]
    found = segment_parenchyma_slice(grey)
    assert found.rejected is not None
    assert re.search(reason, found.rejected)
    assert found.mask.shape == grey.shape


@pytest.mark.parametrize(
    "grey", [np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.int16), np.zeros((100, 20), np.uint8)]
)
def test_what_is_no_slice_is_refused(grey):
    with pytest.raises(ScanError, match=r"a slice must be \(H, W\) uint8 of at least 64 x 64 pixels; got shape"):
        segment_parenchyma_slice(grey)
