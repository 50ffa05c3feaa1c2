"""The prior of the multi network: the single network's infection probability, or the true infection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WithPrior:
    """MONAI ``prepare_batch`` that joins image and prior to the multi network's two-channel input.

    The published multi network was trained on the true prior and tested on a predicted one. Here the prior of
    training is predicted, as in use, for all but a share of the samples.

    Args:
        single: frozen single network, (B, 1, H, W) to logits; moved to the batch's device.
        true_share: share of the samples, drawn at random, whose prior is the true infection: 0 is ``predicted``
            alone, 1 is ``true`` alone.

    Raises:
        ValueError: if ``true_share`` is not in 0..1.
    """

    def __init__(self, single: nn.Module, *, true_share: float = 0.0):
        if not 0 <= true_share <= 1:
            raise ValueError(f"true_share must be in 0..1; got {true_share}")
        self.single = single.eval().requires_grad_(False)
        self.true_share = true_share

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Input (B, 2, H, W) and label (B, 4, H, W) of a batch made by ``transforms.lesion_training``."""
        image = torch.as_tensor(batch["image"]).to(device, non_blocking=non_blocking)
        label = torch.as_tensor(batch["label"]).to(device, non_blocking=non_blocking)
        # No logits, but a probability: that is what the network sees in use, see LesionModel.predict.
        with torch.no_grad():
            predicted = torch.sigmoid(self.single.to(device)(image))
        true = 1 - label[:, :1]  # what is not background
        # Drawn for each sample, not for each batch.
        choose_true = torch.rand(len(image), 1, 1, 1, device=device) < self.true_share
        return torch.cat((image, torch.where(choose_true, true, predicted)), dim=1), label
