"""The resizer of serving, for tensors: on any device, and for batches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_tensors(slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) slices to ``size`` as :func:`covsev.inference.slices.resize_slices` does, up to rounding."""
    return F.interpolate(slices, size=size, mode="bilinear", align_corners=False, antialias=True)
