"""InfNet: lung infection segmentation on CT slices (Fan et al. 2020, doi 10.1109/TMI.2020.2996645).

An encoder, receptive-field blocks, a parallel partial decoder that draws a global map S_g, an edge branch on the
finest features, and three reverse-attention branches that refine S_g into S_5, S_4 and S_3, the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covsev.networks.backbones import Backbone
from covsev.networks.efficientnet_lite import EfficientNetLite
from covsev.networks.monai_efficientnet import MonaiEfficientNet
from covsev.networks.res2net import Res2Net50


class InfNetOutput(NamedTuple):
    """Logits of all heads, each (B, C, H, W) at the input's size; ``edge`` has one channel."""

    s3: Tensor
    s4: Tensor
    s5: Tensor
    sg: Tensor
    edge: Tensor


class Decoded(NamedTuple):
    """What :meth:`InfNet.decode` returns: the outputs, and the receptive-field blocks at 1/8, 1/16 and 1/32."""

    maps: InfNetOutput
    context: list[Tensor]


def make_backbone(name: str, in_channels: int = 1) -> Backbone:
    """The encoder called ``name``.

    Args:
        name: ``res2net50``, ``efficientnet_lite0`` to ``2``, or MONAI's ``efficientnet-b0`` to ``efficientnet-b7``.
        in_channels: channels of the input image.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "res2net50":
        return Res2Net50(in_channels)
    if name.startswith("efficientnet_lite"):
        return EfficientNetLite(name, in_channels)
    if name.startswith("efficientnet-b"):
        return MonaiEfficientNet(name, in_channels)
    raise ValueError(f"backbone must be res2net50, efficientnet_lite0, 1, 2 or efficientnet-b0 to -b7; got {name!r}")


class _ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm; no activation, as in the published network."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        *,
        padding: int | tuple[int, int] = 0,
        dilation: int = 1,
    ):
        super().__init__()
        self.add_module(
            "conv",
            nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        )
        self.add_module("bn", nn.BatchNorm2d(out_channels))


class _ReceptiveFieldBlock(nn.Module):
    """Four branches of growing receptive field, fused, with a residual."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.branch0 = nn.Sequential(_ConvNorm(in_channels, channels, 1))
        self.branch1 = self._branch(in_channels, channels, 3)
        self.branch2 = self._branch(in_channels, channels, 5)
        self.branch3 = self._branch(in_channels, channels, 7)
        self.conv_cat = _ConvNorm(4 * channels, channels, 3, padding=1)
        self.conv_res = _ConvNorm(in_channels, channels, 1)

    @staticmethod
    def _branch(in_channels: int, channels: int, size: int) -> nn.Sequential:
        half = size // 2
        return nn.Sequential(
            _ConvNorm(in_channels, channels, 1),
            _ConvNorm(channels, channels, (1, size), padding=(0, half)),
            _ConvNorm(channels, channels, (size, 1), padding=(half, 0)),
            _ConvNorm(channels, channels, 3, padding=size, dilation=size),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), dim=1)
        return F.relu(self.conv_cat(branches) + self.conv_res(x))


class _PartialDecoder(nn.Module):
    """Parallel partial decoder: multiplies and concatenates the three coarse maps into S_g at 1/8."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv_upsample1 = _ConvNorm(channels, channels, 3, padding=1)
        self.conv_upsample2 = _ConvNorm(channels, channels, 3, padding=1)
        self.conv_upsample3 = _ConvNorm(channels, channels, 3, padding=1)
        self.conv_upsample4 = _ConvNorm(channels, channels, 3, padding=1)
        self.conv_upsample5 = _ConvNorm(2 * channels, 2 * channels, 3, padding=1)
        self.conv_concat2 = _ConvNorm(2 * channels, 2 * channels, 3, padding=1)
        self.conv_concat3 = _ConvNorm(3 * channels, 3 * channels, 3, padding=1)
        self.conv4 = _ConvNorm(3 * channels, 3 * channels, 3, padding=1)
        self.conv5 = nn.Conv2d(3 * channels, out_channels, 1)

    def forward(self, at32: Tensor, at16: Tensor, at8: Tensor) -> Tensor:
        at32_up = _double(at32)
        mixed16 = self.conv_upsample1(at32_up) * at16
        mixed8 = self.conv_upsample2(_double(at32_up)) * self.conv_upsample3(_double(at16)) * at8
        joined16 = self.conv_concat2(torch.cat((mixed16, self.conv_upsample4(at32_up)), dim=1))
        joined8 = self.conv_concat3(torch.cat((mixed8, self.conv_upsample5(_double(joined16))), dim=1))
        return self.conv5(self.conv4(joined8))


class _ReverseAttention(nn.Module):
    """Look again where the coarser map saw nothing: features times (1 - sigmoid), guided by the edges."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, edge_channels: int, *, depth: int, kernel: int
    ):
        super().__init__()
        self.reduce = _ConvNorm(in_channels, hidden, 1)
        pad = kernel // 2
        self.convs = nn.ModuleList(
            _ConvNorm(hidden + (edge_channels if i == 0 else 0), hidden, kernel, padding=pad) for i in range(depth)
        )
        last = 1 if kernel == 5 else 3
        self.head = _ConvNorm(hidden, out_channels, last, padding=last // 2)

    def forward(self, feature: Tensor, coarse: Tensor, edge: Tensor) -> Tensor:
        """``coarse`` (B, C, h, w) logits resized to ``feature``'s size; returns the refined logits."""
        x = self.reduce(feature * _not_lesion(coarse))
        x = torch.cat((x, _resize_to(edge, feature)), dim=1)
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.head(x) + coarse


class InfNet(nn.Module):
    """InfNet over a choice of backbones.

    Args:
        backbone: name of the encoder, see :func:`make_backbone`.
        in_channels: 1 for the image (single network), 2 for image and prior (multi network).
        out_channels: 1 (infection) or 3 (background, ground-glass opacity, consolidation).
        decoder_channels: channels of the receptive-field blocks and of the partial decoder (paper: 32).
        edge_channels: channels of the edge guidance (paper: 64).
        attention_channels: channels of the reverse-attention branches at 1/32, 1/16 and 1/8 (paper: 256, 64, 64).
        deep_supervision: return all five outputs (training) instead of S_3 alone. A constructor flag, not a
            train/eval switch, so that the network can be scripted and exported.

    Raises:
        ValueError: for an unknown backbone.
    """

    __constants__ = ("deep_supervision",)

    def __init__(
        self,
        backbone: str = "res2net50",
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        decoder_channels: int = 32,
        edge_channels: int = 64,
        attention_channels: tuple[int, int, int] = (256, 64, 64),
        deep_supervision: bool = False,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.backbone = make_backbone(backbone, in_channels)
        _, at4, at8, at16, at32 = self.backbone.channels
        self.rfb8 = _ReceptiveFieldBlock(at8, decoder_channels)
        self.rfb16 = _ReceptiveFieldBlock(at16, decoder_channels)
        self.rfb32 = _ReceptiveFieldBlock(at32, decoder_channels)
        self.partial_decoder = _PartialDecoder(decoder_channels, out_channels)
        self.edge_guidance = nn.Sequential(
            _ConvNorm(at4, edge_channels, 1),
            _ConvNorm(edge_channels, edge_channels, 3, padding=1),
            _ConvNorm(edge_channels, edge_channels, 3, padding=1),
        )
        self.edge_head = _ConvNorm(edge_channels, 1, 3, padding=1)
        ra5, ra4, ra3 = attention_channels
        self.attention5 = _ReverseAttention(at32, ra5, out_channels, edge_channels, depth=3, kernel=5)
        self.attention4 = _ReverseAttention(at16, ra4, out_channels, edge_channels, depth=2, kernel=3)
        self.attention3 = _ReverseAttention(at8, ra3, out_channels, edge_channels, depth=2, kernel=3)

    # The return type stays open: TorchScript infers it from the constant flag, and has no union for the two.
    def forward(self, image: Tensor):
        """Segment ``image`` (B, in_channels, H, W), values in [0, 1], H and W multiples of 32.

        Returns:
            S_3 logits (B, out_channels, H, W), or :class:`InfNetOutput` with ``deep_supervision``.

        Raises:
            ValueError: if a side is not a multiple of 32.
        """
        outputs = self.all_outputs(image)
        if self.deep_supervision:
            return outputs
        return outputs[0]

    # A refined InfNet has more outputs, its answer first; so this return type stays open, too.
    def all_outputs(self, image: Tensor):
        """All five outputs of :meth:`forward`, whatever ``deep_supervision`` says."""
        require_sides(image)
        return at_size_of(image, self.decode(self.backbone(image)).maps)

    def decode(self, features: list[Tensor]) -> Decoded:
        """All outputs of the encoder's five feature maps, each on the grid on which it is drawn."""
        _, x4, x8, x16, x32 = features
        edge = self.edge_guidance(x4)
        context = [self.rfb8(x8), self.rfb16(x16), self.rfb32(x32)]
        sg = self.partial_decoder(context[2], context[1], context[0])
        s5 = self.attention5(x32, _resize_to(sg, x32), edge)
        s4 = self.attention4(x16, _resize_to(s5, x16), edge)
        s3 = self.attention3(x8, _resize_to(s4, x8), edge)
        return Decoded(InfNetOutput(s3, s4, s5, sg, self.edge_head(edge)), context)


def require_sides(image: Tensor) -> None:
    """Refuse an image (B, C, H, W) that the encoder cannot halve five times.

    Raises:
        ValueError: if a side is not a multiple of 32.
    """
    height, width = image.shape[-2:]
    if height % 32 != 0 or width % 32 != 0:
        raise ValueError(f"image sides must be multiples of 32; got {height} x {width}")


def at_size_of(image: Tensor, maps: InfNetOutput) -> InfNetOutput:
    """All outputs at the size of ``image``."""
    return InfNetOutput(
        _resize_to(maps.s3, image),
        _resize_to(maps.s4, image),
        _resize_to(maps.s5, image),
        _resize_to(maps.sg, image),
        _resize_to(maps.edge, image),
    )


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def _resize_to(x: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(x, size=target.shape[-2:], mode="bilinear", align_corners=False)


def _not_lesion(logits: Tensor) -> Tensor:
    """(B, 1, h, w) share of "no lesion here": 1 - sigmoid of one map, or sigmoid of the background channel."""
    if logits.shape[1] == 1:
        return 1 - torch.sigmoid(logits)
    return torch.sigmoid(logits[:, :1])
