"""What InfNet asks of an encoder, and how an ImageNet RGB stem becomes a grey one.

A backbone maps an image to five feature maps, at 1/2, 1/4, 1/8, 1/16 and 1/32 of its side. The side must be a multiple
of 32. ``channels`` says how many channels each map has, so that a decoder can be built without running the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
"""The normalisation of most ImageNet networks, with RGB in [0, 1]."""


class Backbone(nn.Module):
    """Base of all encoders.

    Attributes:
        channels: channels of the five feature maps, at strides 2, 4, 8, 16 and 32.
    """

    channels = (0, 0, 0, 0, 0)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Encode ``image`` (B, C, H, W), values in [0, 1], into five maps, finest first."""
        raise NotImplementedError


def with_ones(image: Tensor) -> Tensor:
    """Append a channel of ones to ``image`` (B, C, H, W).

    A zero-padded convolution over ``[image, 1]`` can do two things in one: normalise each channel (scale and offset),
    and then convolve with zero padding. The result is exact at the borders, too. See :func:`fold_rgb_stem`.
    """
    return torch.cat((image, torch.ones_like(image[:, :1])), dim=1)


def fold_rgb_stem(weight: Tensor, *, mean: Sequence[float], std: Sequence[float], in_channels: int = 1) -> Tensor:
    """Fold an RGB stem and its input normalisation into a stem for grey images.

    Args:
        weight: (O, 3, k, k) convolution weight that expects ``(rgb - mean) / std`` with ``rgb`` in [0, 1].
        mean: per-channel mean that the RGB network subtracts, in [0, 1] units.
        std: per-channel standard deviation that it divides by, in [0, 1] units.
        in_channels: channels of the new stem. Channel 0 is the grey image; the others, a prior for example,
            start at zero, so that the folded network begins as the ImageNet network on the image alone.

    Returns:
        (O, in_channels + 1, k, k) weight for ``with_ones(image)``. Its output equals that of the RGB network
        on the grey image repeated three times, at the zero-padded border too.

    Raises:
        ValueError: if ``weight`` is not that of an RGB stem.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise ValueError(f"weight must have the shape (O, 3, k, k) of an RGB stem; got {tuple(weight.shape)}")
    scale = torch.as_tensor(std, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    shift = torch.as_tensor(mean, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    folded = weight.new_zeros(weight.shape[0], in_channels + 1, *weight.shape[2:])
    # A grey image has three equal channels, so their weights add up to one.
    folded[:, 0] = (weight / scale).sum(dim=1)
    # The offset goes to the channel of ones, which zero padding cuts off where it cuts off the normalised image.
    offset = weight * shift / scale
    folded[:, -1] = -offset.sum(dim=1)
    return folded
