"""Slices on their way to a network and back: windowed, resized, and resized again. No torch, which takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Slices = NDArray[np.float32]
"""(N, C, H, W): a batch of slices with their channels."""


def resize_slices(slices: Slices, size: tuple[int, int]) -> Slices:
    """Resize (N, C, H, W) float32 slices to ``size``, bilinear and antialiased.

    This is the only resizer, in training and in serving. It is part of the model: plain and antialiased bilinear give
    visibly different masks. On tensors :func:`covsev.training.data.resizing.resize_tensors` does the same.
    """
    height, width = size
    resized = np.empty((*slices.shape[:2], height, width), dtype=np.float32)
    for place in np.ndindex(slices.shape[:2]):
        plane = Image.fromarray(slices[place])  # float32 stays float32: Pillow's mode F
        # Pillow's bilinear filter is antialiased where a picture becomes smaller.
        resized[place] = plane.resize((width, height), Image.Resampling.BILINEAR)
    return resized


def probabilities_at(size: tuple[int, int], probability: Slices) -> Slices:
    """Probabilities (N, C, H, W) on a grid of ``size`` from those on the network's grid."""
    resized = resize_slices(probability, size)
    return np.clip(resized, 0, 1, out=resized)  # rounding leaves the range by a little


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

    def __call__(self, slices: NDArray[Any]) -> Slices:
        """Windowed and resized (N, 1, h, w) float32 in [0, 1] from HU slices (H, W, N)."""
        low, high = self.hu_window
        batch_first = np.moveaxis(slices, -1, 0)
        grey = np.array(batch_first, dtype=np.float32, order="C")  # always a copy
        # In place, so that there is no second copy of the batch.
        grey -= np.float32(low)
        grey /= np.float32(high - low)
        np.clip(grey, 0, 1, out=grey)
        return self.resize(grey[:, None])

    def grey_of(self, hu: float) -> float:
        """The grey value, 0 to 255, that an 8-bit slice of this window has at ``hu``."""
        low, high = self.hu_window
        return 255 * (hu - low) / (high - low)

    def resize(self, grey: Slices) -> Slices:
        """Slices (N, 1, H, W) in [0, 1] on the network's grid."""
        return resize_slices(grey, self.network_size)
