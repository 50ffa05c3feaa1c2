"""The losses, against a numpy reference that follows the paper's formulas pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from covsev.networks import InfNetOutput, RefinedInfNetOutput
from covsev.training.losses import InfNetLoss, SegmentationLoss, SingleOutputLoss, boundary_weights


def _square(size=16):
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, 4:9, 5:12] = 1
    return mask


def _logits(shape=(1, 1, 16, 16), seed=0):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _numpy_weights(mask, strength, kernel):
    """1 + strength * |mean over the window - mask|; outside the image counts as 0."""
    half = kernel // 2
    padded = np.pad(mask, half)
    mean = np.empty_like(mask)
    for y, x in np.ndindex(mask.shape):
        mean[y, x] = padded[y : y + kernel, x : x + kernel].sum() / kernel**2
    return 1 + strength * np.abs(mean - mask)


def _numpy_loss(logits, mask, strength, kernel, bce_factor):
    weights = _numpy_weights(mask, strength, kernel)
    prob = 1 / (1 + np.exp(-logits))
    bce = -(mask * np.log(prob) + (1 - mask) * np.log(1 - prob))
    intersection = (weights * prob * mask).sum()
    union = (weights * (prob + mask)).sum() - intersection
    return 1 - (intersection + 1) / (union + 1) + bce_factor * (weights * bce).sum() / weights.sum()


@pytest.mark.parametrize(("strength", "kernel"), [(5.0, 31), (2.0, 7), (0.0, 3)])
def test_boundary_weights_equal_the_reference(strength, kernel):
    mask = _square()
    expected = _numpy_weights(mask[0, 0].double().numpy(), strength, kernel)
    np.testing.assert_allclose(boundary_weights(mask, strength=strength, kernel=kernel)[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("strength", "kernel", "bce_factor"), [(5.0, 31, 1.0), (5.0, 5, 0.3), (0.0, 31, 1.0)])
def test_segmentation_loss_equals_the_reference(strength, kernel, bce_factor):
    logits, mask = _logits((2, 2, 16, 16)), _square().repeat(2, 2, 1, 1)
    mask[1, 1] = mask[1, 1].T.clone()
    expected = np.mean(
        [
            _numpy_loss(logits[i, j].double().numpy(), mask[i, j].double().numpy(), strength, kernel, bce_factor)
            for i, j in np.ndindex(2, 2)
        ]
    )
    loss = SegmentationLoss(bce_factor=bce_factor, boundary_strength=strength, kernel=kernel)
    assert loss(logits, mask).item() == pytest.approx(expected, rel=1e-5)


def test_boundary_weighting_acts_on_the_cross_entropy():
    """An error at the boundary costs more than the same error far away; in the published code it does not."""
    mask = _square()
    good = 20 * mask - 10
    at_boundary, far_away = good.clone(), good.clone()
    at_boundary[0, 0, 3, 8] = far_away[0, 0, 15, 0] = 10
    for factor in (1.0, 100.0):  # with 100 the cross-entropy rules
        weighted = SegmentationLoss(bce_factor=factor, kernel=5)
        plain = SegmentationLoss(bce_factor=factor, boundary_strength=0)
        assert weighted(at_boundary, mask) > 1.2 * weighted(far_away, mask)
        assert plain(at_boundary, mask).item() == pytest.approx(plain(far_away, mask).item(), rel=1e-6)


def test_strength_zero_is_plain_cross_entropy_and_iou():
    logits, mask = _logits(), _square()
    prob = logits.sigmoid()
    intersection = (prob * mask).sum()
    iou = (intersection + 1) / (prob.sum() + mask.sum() - intersection + 1)
    expected = 1 - iou + torch.nn.BCEWithLogitsLoss()(logits, mask)
    torch.testing.assert_close(SegmentationLoss(boundary_strength=0)(logits, mask), expected)


@pytest.mark.parametrize("mask", [_square(), torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)])
def test_perfect_prediction_costs_nothing(mask):
    assert SegmentationLoss()(60 * mask - 30, mask).item() == pytest.approx(0, abs=1e-5)


def test_wrong_everywhere_costs_most():
    mask = _square()
    assert SegmentationLoss(bce_factor=0)(30 - 60 * mask, mask).item() == pytest.approx(1, abs=0.02)


def test_shape_error_names_both_shapes():
    message = r"target has shape \(1, 2, 4, 4\), but logits have shape \(1, 1, 4, 4\)"
    with pytest.raises(ValueError, match=message):
        SegmentationLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("outputs_of", [InfNetOutput, RefinedInfNetOutput])
def test_infnet_loss_sums_the_maps_and_the_edge(outputs_of):
    maps = [_logits(seed=seed) for seed in range(len(outputs_of._fields))]
    target = torch.cat((_square(), _square().roll(3, 2)), dim=1)
    outputs = outputs_of(*maps)
    single = SegmentationLoss()
    expected = sum(single(logits, target[:, :1]) for logits in maps[:-1])
    expected = expected + torch.nn.BCEWithLogitsLoss()(outputs.edge, target[:, 1:])
    torch.testing.assert_close(InfNetLoss()(outputs, target), expected)


def test_known_weights_are_not_computed_again(monkeypatch):
    mask, logits, loss = _square(), _logits(), SegmentationLoss()
    expected, known = loss(logits, mask), loss.weights(mask)
    monkeypatch.setattr(loss, "weights", None)
    assert loss(logits, mask, known) == expected
    assert loss(logits, mask, torch.ones_like(mask)) != expected


def test_infnet_loss_takes_another_segmentation_loss():
    outputs = InfNetOutput(*(torch.zeros(1, 1, 4, 4) for _ in range(5)))
    target = torch.zeros(1, 2, 4, 4)
    loss = InfNetLoss(segmentation=torch.nn.MSELoss())
    assert loss(outputs, target).item() == pytest.approx(np.log(2))
    outputs.s3.requires_grad_()
    InfNetLoss()(outputs, target).backward()
    assert outputs.s3.grad is not None


@pytest.mark.parametrize("channels", [1, 3])
def test_single_output_loss_leaves_the_edge_out(channels):
    logits = _logits((2, channels, 16, 16))
    lesion = _square().repeat(2, channels, 1, 1)
    losses = [
        SingleOutputLoss()(logits, torch.cat((lesion, edge), dim=1))
        for edge in (lesion[:, :1], _logits((2, 1, 16, 16)))
    ]
    assert losses[0] == losses[1] == SegmentationLoss()(logits, lesion)


def test_single_output_loss_takes_another_segmentation_loss():
    target = torch.cat((torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)), dim=1)
    assert SingleOutputLoss(segmentation=torch.nn.MSELoss())(torch.zeros(1, 1, 4, 4), target).item() == 1


def test_single_output_loss_refuses_a_network_of_another_shape():
    with pytest.raises(ValueError, match=r"target has shape \(1, 1, 4, 4\), but logits have shape \(1, 2, 4, 4\)"):
        SingleOutputLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
