"""COVID-SegNet, a supervised baseline (Yan et al. 2020, arXiv 2004.10987), as a 2-D network.

A U-Net of residual blocks. Feature-variation blocks in the encoder brighten, darken and highlight features, so that
lesions differ from the chest wall. Progressive atrous spatial pyramid pooling at the bottom joins four dilations pair
by pair.

Deviations from the paper: 2-D instead of 3-D, because the labelled data are slices; logits instead of a softmax; five
levels of 16 to 256 channels, for two CPU cores. The authors published no code. Where the paper leaves layer sizes open,
they are chosen here. Each level of the encoder begins with its feature-variation block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DILATIONS = (1, 2, 4, 8)
"""Of the pyramid's four branches. They join in pairs of neighbours, fine and coarse."""


class _ConvNormRelu(nn.Sequential):
    """Convolution at constant size without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1):
        padding = dilation * (kernel // 2)  # what keeps the size, for odd kernels
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the channels change."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convs = nn.Sequential(
            _ConvNormRelu(in_channels, out_channels, 3),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        # The last ReLU comes after the sum, in ``forward``: the shortcut has to pass through it, too.
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convs(x) + self.shortcut(x))


class _FeatureVariation(nn.Module):
    """Feature-variation block: identity, contrast and position branches of shared features, fused, with a residual.

    The contrast branch scales each channel as a whole (global contrast and intensity); the position branch scales
    each place. Both factors lie in (0, 1).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.shared = _ConvNormRelu(channels, channels, 1)
        # One number a channel, from its mean over the whole map.
        self.contrast = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 1),
            nn.Sigmoid(),
        )
        # One number a pixel and channel, from the pixel's neighbourhood.
        self.position = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        self.fuse = _ConvNormRelu(3 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        branches = (shared, self.contrast(shared) * shared, self.position(shared) * shared)
        return x + self.fuse(torch.cat(branches, dim=1))


class _DilatedPair(nn.Module):
    """Two dilations, each with the sum of both inputs as its residual, joined by a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, dilations: tuple[int, int]):
        super().__init__()
        half = out_channels // 2
        near, far = dilations
        self.reduce_near = _ConvNormRelu(in_channels, half, 1)
        self.reduce_far = _ConvNormRelu(in_channels, half, 1)
        self.near = _ConvNormRelu(half, half, 3, near)
        self.far = _ConvNormRelu(half, half, 3, far)
        self.join = _ConvNormRelu(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.reduce_near(x), self.reduce_far(x)
        both = near + far  # each dilation also hears of the other
        near, far = self.near(near) + both, self.far(far) + both
        return self.join(torch.cat((near, far), dim=1))


class _ProgressivePyramid(nn.Module):
    """Progressive atrous spatial pyramid pooling: dilations 1 and 2 join, 4 and 8 join, then both pairs."""

    def __init__(self, channels: int):
        super().__init__()
        self.fine = _DilatedPair(channels, channels // 2, _DILATIONS[:2])
        self.coarse = _DilatedPair(channels, channels // 2, _DILATIONS[2:])
        self.join = _ConvNormRelu(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.fine(x), self.coarse(x)), dim=1))


class _Up(nn.Module):
    """Double the size, append the encoder's features of that level, residual block."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.block = _ResidualBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat((self.upsample(x), skip), dim=1))


class CovidSegNet(nn.Module):
    """COVID-SegNet in 2-D.

    Args:
        in_channels: channels of the image, 1 for a grey slice.
        out_channels: 1 (infection) or 3 (background, ground-glass opacity, consolidation).
        channels: channels of the encoder's levels, finest first; the last ones a multiple of 4. Each level halves
            the side, so five levels want sides that are multiples of 16.

    Raises:
        ValueError: for fewer than two levels, or last channels that are no multiple of 4.
    """

    __constants__ = ("divisor",)

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, *, channels: Sequence[int] = (16, 32, 64, 128, 256)
    ):
        super().__init__()
        # A multiple of 4: the pyramid halves the channels for its pairs, and again for the dilations of a pair.
        too_few = len(channels) < 2
        if too_few or channels[-1] % 4 != 0:
            raise ValueError(f"channels must be two or more, the last a multiple of 4; got {tuple(channels)}")
        self.divisor = 2 ** (len(channels) - 1)
        self.first = _ResidualBlock(in_channels, channels[0])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(channels))
        blocks: list[nn.Module] = [_ResidualBlock(width, width) for width in channels[1:-1]]
        blocks.append(_ProgressivePyramid(channels[-1]))  # the bottom of the U
        self.encode = nn.ModuleList(
            nn.Sequential(_FeatureVariation(width), block) for width, block in zip(channels[1:], blocks, strict=True)
        )
        self.up = nn.ModuleList(_Up(a, b) for a, b in pairwise(reversed(channels)))
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Segment ``image`` (B, in_channels, H, W), values in [0, 1].

        Returns:
            logits (B, out_channels, H, W).

        Raises:
            ValueError: if a side is not a multiple of the divisor, 16 for five levels.
        """
        height, width = image.shape[-2:]
        if height % self.divisor != 0 or width % self.divisor != 0:
            raise ValueError(f"image sides must be multiples of {self.divisor}; got {height} x {width}")
        x = self.first(image)
        skips = [x]
        for down, encode in zip(self.down, self.encode):  # noqa: B905  TorchScript has no strict
            x = encode(down(x))
            skips.append(x)
        skips.pop()  # the bottom itself: it goes up, and not across
        for up in self.up:
            x = up(x, skips.pop())
        return self.head(x)
