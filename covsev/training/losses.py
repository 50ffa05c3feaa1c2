"""Losses of InfNet (Fan et al. 2020, doi 10.1109/TMI.2020.2996645, section III-C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from covsev.networks import InfNetOutput, RefinedInfNetOutput


def boundary_weights(mask: Tensor, *, strength: float = 5.0, kernel: int = 31) -> Tensor:
    """Per-pixel weights ``1 + strength * |local mean of mask - mask|``, large near boundaries.

    Args:
        mask: (B, C, H, W) binary target.
        strength: 5 in the published code; 0 gives plain, unweighted losses.
        kernel: side of the averaging window, odd, in pixels.

    Returns:
        (B, C, H, W) weights of at least 1.
    """
    # One axis after the other: the same mean as of the square window, in a fifteenth of the time.
    rows = F.avg_pool2d(mask, (kernel, 1), stride=1, padding=(kernel // 2, 0))
    local_mean = F.avg_pool2d(rows, (1, kernel), stride=1, padding=(0, kernel // 2))
    return 1 + strength * (local_mean - mask).abs()  # deep inside and far outside both are equal


class SegmentationLoss(_Loss):
    """L_seg = L_IoU + lambda * L_BCE, both weighted towards the boundary of the target.

    The published code meant to weight the cross-entropy too, but its ``reduce='none'`` silently returned the
    mean. Here the weighting acts.

    Args:
        bce_factor: lambda.
        boundary_strength: see :func:`boundary_weights`.
        kernel: see :func:`boundary_weights`.
    """

    def __init__(self, *, bce_factor: float = 1.0, boundary_strength: float = 5.0, kernel: int = 31):
        super().__init__()
        self.bce_factor = bce_factor
        self.boundary_strength = boundary_strength
        self.kernel = kernel

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean over batch and channels.

        Args:
            logits: (B, C, H, W).
            target: (B, C, H, W) binary, as float.
            weights: (B, C, H, W) of :meth:`weights`, where they are known already.

        Raises:
            ValueError: if the shapes differ.
        """
        if logits.shape != target.shape:
            raise ValueError(f"target has shape {tuple(target.shape)}, but logits have shape {tuple(logits.shape)}")
        if weights is None:
            weights = self.weights(target)
        pixels = (2, 3)
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weighted_bce = (weights * bce).sum(pixels) / weights.sum(pixels)
        # Sums over the pixels of each slice and channel alone: a large lesion does not hide a small one elsewhere.
        prob = torch.sigmoid(logits)
        intersection = (weights * prob * target).sum(pixels)
        either = prob + target - prob * target
        union = (weights * either).sum(pixels)
        # Without the smoothing, a slice without infection that is left empty would give 0 / 0.
        iou_loss = 1 - (intersection + 1) / (union + 1)  # the published smoothing of one pixel
        return (iou_loss + self.bce_factor * weighted_bce).mean()

    def weights(self, target: Tensor) -> Tensor:
        """Boundary weights (B, C, H, W) of a target."""
        return boundary_weights(target, strength=self.boundary_strength, kernel=self.kernel)


class _OfSegmentation(_Loss):
    """A loss that applies another one to segmentation maps; :class:`SegmentationLoss` if none is given."""

    def __init__(self, segmentation: nn.Module | None = None):
        super().__init__()
        self.segmentation = segmentation if segmentation is not None else SegmentationLoss()


class InfNetLoss(_OfSegmentation):
    """L_total = L_seg(S_g) + L_edge + the sum of L_seg(S_i) for i = 3, 4, 5, and for the refined S_1 if there is one.

    Args:
        segmentation: loss of each map against the lesion target.
    """

    def forward(self, outputs: InfNetOutput | RefinedInfNetOutput, target: Tensor) -> Tensor:
        """Total loss.

        Args:
            outputs: all outputs of an InfNet, refined or not, with ``deep_supervision``; the last is the edge.
            target: (B, C + 1, H, W) binary: the C lesion channels, then the edge map.
        """
        lesion, edge = target[:, :-1], target[:, -1:]
        maps = outputs[:-1]
        # The weights depend on the target alone, so all maps share them.
        shared = (self.segmentation.weights(lesion),) if isinstance(self.segmentation, SegmentationLoss) else ()
        segmentation = sum(self.segmentation(logits, lesion, *shared) for logits in maps)
        # The edge is not weighted towards the boundary: it is the boundary.
        return segmentation + F.binary_cross_entropy_with_logits(outputs.edge, edge)


class SingleOutputLoss(_OfSegmentation):
    """L_seg of a network with one output, such as a U-Net, for the labels that InfNet is trained on.

    Args:
        segmentation: loss of the output against the lesion target.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of the lesion channels; the edge map is left out.

        Args:
            logits: (B, C, H, W).
            target: (B, C + 1, H, W) binary: the C lesion channels, then the edge map.
        """
        loss: Tensor = self.segmentation(logits, target[:, :-1])
        return loss
