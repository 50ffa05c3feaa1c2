"""Slices on their way to a network and back: windowed, resized, and resized again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def resize_slices(slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) slices to ``size``, bilinear and antialiased.

    This is the only resizer, in training and in serving. It is part of the model: plain and antialiased bilinear give
    visibly different masks.
    """
    return F.interpolate(slices, size=size, mode="bilinear", align_corners=False, antialias=True)


def probabilities_at(size: tuple[int, int], probability: Tensor) -> NDArray[np.float32]:
    """Probabilities (N, C, H, W) on a grid of ``size`` from those on the network's grid."""
    resized = resize_slices(probability, size).clamp_(0, 1)  # rounding leaves the range by a little
    return resized.float().cpu().numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SlicePreprocessing:
    """From a scan's slices to what the network sees.

    Attributes:
        hu_window: HU that become 0 and 1; values outside are clipped.
        network_size: (height, width) of the network's grid, multiples of 32.
        crop_margin_mm: margin around the box to which slices are cropped; ``None`` takes whole slices.
        slab_mm: slab thickness in mm. Thinner slices are averaged in groups that fit; 0 turns this off.
    """

    hu_window: tuple[float, float]
    network_size: tuple[int, int]
    crop_margin_mm: float | None = None
    slab_mm: float = 0.0

    def __post_init__(self) -> None:
        """Take lists, as configurations hold them, for tuples, so that two equal settings compare equal."""
        object.__setattr__(self, "hu_window", tuple(self.hu_window))
        object.__setattr__(self, "network_size", tuple(self.network_size))

    def slices_per_slab(self, spacing_mm: float) -> int:
        """Slices that are seen together where they are ``spacing_mm`` apart.

        >>> seen = SlicePreprocessing(hu_window=(-1100, 250), network_size=(256, 256), slab_mm=2.5)
        >>> [seen.slices_per_slab(spacing_mm) for spacing_mm in (0.625, 1.0, 1.25, 2.0, 5.0)]
        [4, 2, 2, 1, 1]
        """
        rounding = 1e-3  # 2.5 mm of 1.25 mm slices are two, whatever the last digit of the header says
        return max(1, int(self.slab_mm / spacing_mm + rounding))

    def __call__(self, slices: NDArray[Any]) -> Tensor:
        """Windowed and resized (N, 1, h, w) float32 in [0, 1] from HU slices (H, W, N)."""
        low, high = self.hu_window
        batch_first = np.moveaxis(slices, -1, 0)
        stack = torch.from_numpy(np.array(batch_first, dtype=np.float32, order="C"))  # always a copy
        # In place, so that there is no second copy of the batch.
        windowed = stack.sub_(low).div_(high - low).clamp_(0, 1)
        return self.resize(windowed[:, None])

    def grey_of(self, hu: float) -> float:
        """The grey value, 0 to 255, that an 8-bit slice of this window has at ``hu``."""
        low, high = self.hu_window
        return 255 * (hu - low) / (high - low)

    def resize(self, grey: Tensor) -> Tensor:
        """Slices (N, 1, H, W) in [0, 1] on the network's grid."""
        return resize_slices(grey, self.network_size)
