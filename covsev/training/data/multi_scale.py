"""Training at several image sizes, as Inf-Net does (Fan et al. 2020): 0.75, 1 and 1.25 times the network's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.engines import default_prepare_batch
from torch import Tensor

from covsev.training.data.resizing import resize_tensors

_MULTIPLE = 32  # of the sides of a network's input


class MultiScale:
    """MONAI ``prepare_batch`` that brings every batch to a size drawn at random.

    The published code trains on each batch at all three sizes in turn; one size a batch, drawn at random, costs a third
    and leaves MONAI's trainer as it is. Labels are resized to the nearest pixel, so that they stay binary: the
    published code interpolates them.

    Args:
        scales: of the image's sides; each side is rounded to a multiple of 32. ``(1,)`` leaves batches as they are.
        prepare_batch: from batch, device, ``non_blocking`` and further arguments to image and label, (B, C, H, W).

    Raises:
        ValueError: if there is no scale, or one is not positive.
    """

    def __init__(
        self, scales: Sequence[float] = (0.75, 1, 1.25), prepare_batch: Callable[..., Any] = default_prepare_batch
    ):
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, at least one; got {list(scales)}")
        self.scales = tuple(scales)
        self.prepare_batch = prepare_batch

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Image and label of the batch at the size drawn."""
        image, label = self.prepare_batch(batch, device, non_blocking, **kwargs)
        if len(self.scales) == 1:  # no random number is spent
            return _at(self.scales[0], image, label)
        drawn = int(torch.randint(len(self.scales), ()))  # torch's generator is reseeded in each epoch
        return _at(self.scales[drawn], image, label)


def _at(scale: float, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    steps = (round(side * scale / _MULTIPLE) for side in image.shape[2:])
    height, width = (max(_MULTIPLE, step * _MULTIPLE) for step in steps)
    if (height, width) == tuple(image.shape[2:]):
        return image, label
    # "nearest" of torch is shifted by half a pixel, and the label would not lie on the image.
    resized_label = F.interpolate(label, (height, width), mode="nearest-exact")
    return resize_tensors(image, (height, width)), resized_label
