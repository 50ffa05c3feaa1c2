"""Means over flips and turns."""

from __future__ import annotations

import pytest
import torch

from covsev.training.data.orientations import ORIENTATIONS, mean_over_orientations


def test_all_eight_orientations_are_seen_once():
    seen = []
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    mean_over_orientations(lambda slices: seen.append(slices) or slices, image)
    assert len(seen) == len(ORIENTATIONS) == 8
    assert torch.equal(seen[0], image)
    assert len({tuple(slices.flatten().tolist()) for slices in seen}) == 8


def test_every_map_is_turned_back():
    image = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(mean_over_orientations(lambda slices: 2 * slices, image), 2 * image)


def test_the_mean_turns_with_the_slice():
    def predict(slices):
        return slices.cumsum(2)

    image = torch.rand(1, 1, 4, 4)
    found = mean_over_orientations(predict, image.rot90(1, (2, 3)).flip(2))
    torch.testing.assert_close(found, mean_over_orientations(predict, image).rot90(1, (2, 3)).flip(2))


def test_slices_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="slices must be square to be turned; got 2 x 3"):
        mean_over_orientations(lambda slices: slices, torch.zeros(1, 1, 2, 3))
