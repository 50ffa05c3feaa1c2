"""Res2Net-50 v1b 26w x 4s as a feature extractor (Gao et al. 2019, arXiv 1904.01169).

Module names are those of the published checkpoints, so that their keys load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from covsev.networks.backbones import RGB_MEAN, RGB_STD, Backbone, fold_rgb_stem, with_ones

_SCALE = 4  # the 4s of the name: channel groups of a block
_BASE_WIDTH = 26  # the 26w: channels a group, in the first stage
_EXPANSION = 4  # a block's output has so many times its planes, as in every ResNet-50
_BLOCKS = (3, 4, 6, 3)  # of the four stages, as in every ResNet-50


class _Bottle2neck(nn.Module):
    """Bottleneck whose 3x3 convolution is a cascade over four channel groups.

    The first block of a stage (``downsample`` given) runs the groups side by side and pools the last one.
    """

    def __init__(self, in_channels: int, planes: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        width = planes * _BASE_WIDTH // 64  # the first stage has 64 planes
        self.width = width
        self.conv1 = nn.Conv2d(in_channels, width * _SCALE, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * _SCALE)
        # One fewer than groups: the last group is not convolved, see ``forward``.
        convolved = range(_SCALE - 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, stride, padding=1, bias=False) for _ in convolved)
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in convolved)
        self.conv3 = nn.Conv2d(width * _SCALE, planes * _EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * _EXPANSION)
        self.relu = nn.ReLU()
        self.cascade = downsample is None
        self.downsample = nn.Identity() if downsample is None else downsample
        self.pool = nn.Identity() if downsample is None else nn.AvgPool2d(3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        groups = torch.split(self.relu(self.bn1(self.conv1(x))), self.width, dim=1)
        outputs: list[Tensor] = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.bns)):  # noqa: B905  TorchScript has no strict
            group = groups[i]
            if self.cascade and i > 0:
                group = outputs[-1] + group  # so the receptive field grows from group to group
            outputs.append(self.relu(norm(conv(group))))
        outputs.append(self.pool(groups[-1]))
        out = self.bn3(self.conv3(torch.cat(outputs, dim=1)))
        return self.relu(out + self.downsample(x))


class Res2Net50(Backbone):
    """Res2Net-50 v1b 26w x 4s encoder for images in [0, 1].

    Args:
        in_channels: channels of the input image.
    """

    channels = (64, 256, 512, 1024, 2048)

    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.in_channels = in_channels
        # The v1b stem: three 3x3 convolutions where the first ResNet has one of 7x7.
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels + 1, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(64, 64, _BLOCKS[0], stride=1)
        self.layer2 = _stage(256, 128, _BLOCKS[1], stride=2)
        self.layer3 = _stage(512, 256, _BLOCKS[2], stride=2)
        self.layer4 = _stage(1024, 512, _BLOCKS[3], stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        # The finest map is taken before pooling. InfNet itself does not use it; its refinement does.
        x0 = self.relu(self.bn1(self.conv1(with_ones(image))))
        x1 = self.layer1(self.maxpool(x0))
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        return [x0, x1, x2, x3, self.layer4(x3)]

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load a published ImageNet ``state`` dict; the RGB stem is folded, the classifier dropped.

        Raises:
            KeyError: if the stem is missing.
            ValueError: if the stem is not that of an RGB network.
            RuntimeError: if another tensor is missing, left over or of another shape.
        """
        own = {key: value for key, value in state.items() if not key.startswith("fc.")}
        own["conv1.0.weight"] = fold_rgb_stem(
            own["conv1.0.weight"], mean=RGB_MEAN, std=RGB_STD, in_channels=self.in_channels
        )
        self.load_state_dict(own)


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    out_channels = planes * _EXPANSION
    # The shortcut of v1b pools before its 1x1 convolution, so that no pixel is skipped at stride 2.
    downsample = nn.Sequential(
        nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )
    first = _Bottle2neck(in_channels, planes, stride, downsample)
    rest = (_Bottle2neck(out_channels, planes, 1, None) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
