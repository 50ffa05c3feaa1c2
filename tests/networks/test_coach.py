"""The coach: its mask formula by hand, exact areas, gradients, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from covsev.networks import Coach
from covsev.networks.coach import CELL, keep_masks, random_masks


@pytest.fixture(scope="module")
def coach():
    torch.manual_seed(0)
    return Coach("efficientnet_lite0").eval()


# ---- the formula -----------------------------------------------------------------------------------------------


def test_soft_mask_by_hand():
    """Keep 2 of 4: the second largest is 3, so M = sigmoid(alpha * (B - 3))."""
    scores = torch.tensor([[[[1.0, 5.0], [3.0, 2.0]]]])
    expected = [[1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))], [0.5, 1 / (1 + math.exp(2))]]
    mask = keep_masks(scores, 0.5, alpha=2.0)
    assert torch.allclose(mask, torch.tensor([[expected]]))


def test_hard_mask_by_hand():
    scores = torch.tensor([[[[1.0, 5.0], [3.0, 2.0]]]])
    assert keep_masks(scores, 0.5, hard=True).tolist() == [[[[0, 1], [1, 0]]]]


def test_each_image_has_its_own_threshold():
    scores = torch.tensor([[[[1.0, 2.0]]], [[[20.0, 10.0]]]])
    assert keep_masks(scores, 0.5, hard=True).tolist() == [[[[0, 1]]], [[[1, 0]]]]
    assert torch.equal(keep_masks(scores, 0.5)[:, 0, 0].amax(dim=1), torch.tensor([0.5, 0.5]))


def test_steep_soft_masks_become_hard_ones():
    scores = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    soft, hard = keep_masks(scores, 0.75, alpha=1e6), keep_masks(scores, 0.75, hard=True)
    difference = (soft - hard).abs().flatten(1).sort(dim=1).values
    assert difference[:, :-1].max() < 1e-6
    assert torch.allclose(difference[:, -1], torch.tensor(0.5))  # the k-th largest itself: sigmoid(0)


@pytest.mark.parametrize("kept_fraction", [0.1, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_hard_masks_keep_exactly_k_cells_whatever_ties(kept_fraction, levels):
    scores = torch.randint(levels, (3, 1, 6, 8), generator=torch.Generator().manual_seed(0)).float()
    mask = keep_masks(scores, kept_fraction, hard=True)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [round(kept_fraction * 48)] * 3
    assert set(mask.unique().tolist()) == {0, 1}


def test_hard_mask_has_the_gradient_of_the_soft_one():
    scores = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    gradients = []
    for hard in (False, True):
        leaf = scores.clone().requires_grad_()
        (keep_masks(leaf, 0.75, hard=hard) * weights).sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


# ---- the network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_erased_area_is_exact_to_a_pixel(coach, size):
    cells = size[0] * size[1] // CELL**2
    erased = (cells - round(0.75 * cells)) * CELL**2
    image = torch.rand(2, 1, *size)
    with torch.no_grad():
        hard, soft = coach(image, hard=True), coach(image)
    random = random_masks(2, size, 0.75)
    for mask in (hard, random):
        assert mask.shape == image.shape
        assert (mask == 0).sum(dim=(1, 2, 3)).tolist() == [erased, erased]
        assert (mask == 1).sum(dim=(1, 2, 3)).tolist() == [size[0] * size[1] - erased] * 2
    assert ((soft > 0) & (soft < 1)).all()
    assert soft[hard == 1].min() >= 0.5 >= soft[hard == 0].max()


def test_masks_are_made_of_cells(coach):
    with torch.no_grad():
        mask = coach(torch.rand(1, 1, 64, 96))
    cells = mask[..., ::CELL, ::CELL]
    assert torch.equal(cells.repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3), mask)


def test_scores_lie_at_a_sixteenth_of_the_side(coach):
    with torch.no_grad():
        assert coach.keep_scores(torch.rand(1, 1, 64, 96)).shape == (1, 1, 4, 6)


def test_random_masks_follow_their_generator():
    first, again = (random_masks(4, (64, 64), 0.75, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    other = random_masks(4, (64, 64), 0.75, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


# ---- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_fraction", [0, 1, -0.1, 1.5])
def test_kept_fraction_out_of_range(kept_fraction):
    with pytest.raises(ValueError, match=f"kept_fraction must be between 0 and 1; got {kept_fraction}"):
        keep_masks(torch.zeros(1, 1, 4, 4), kept_fraction)
    with pytest.raises(ValueError, match=f"kept_fraction must be between 0 and 1; got {kept_fraction}"):
        Coach("efficientnet_lite0", kept_fraction=kept_fraction)


def test_alpha_must_be_positive():
    with pytest.raises(ValueError, match=r"alpha must be positive; got 0"):
        Coach("efficientnet_lite0", alpha=0)


@pytest.mark.parametrize("kept_fraction", [0.05, 0.95])
def test_too_few_cells(kept_fraction):
    with pytest.raises(ValueError, match=f"kept_fraction {kept_fraction} of 4 cells leaves nothing"):
        keep_masks(torch.zeros(1, 1, 2, 2), kept_fraction)


def test_sides_must_fit(coach):
    with pytest.raises(ValueError, match="image sides must be multiples of 32; got 64 x 48"):
        coach(torch.rand(1, 1, 64, 48))
    with pytest.raises(ValueError, match="size must be multiples of 16; got 64 x 40"):
        random_masks(1, (64, 40), 0.75)


def test_unknown_backbone():
    with pytest.raises(ValueError, match="got 'resnet7'"):
        Coach("resnet7")
