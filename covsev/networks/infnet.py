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

    # The answer comes first and the edge last: the losses and the plain forward pass rely on both places.
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

    # Attribute names are those of the published code, so that its checkpoints load by renaming whole modules.

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
        # A row and a column of ``size`` see a square of that side, with 2 * size weights instead of its square.
        return nn.Sequential(
            _ConvNorm(in_channels, channels, 1),
            _ConvNorm(channels, channels, (1, size), padding=(0, half)),
            _ConvNorm(channels, channels, (size, 1), padding=(half, 0)),
            # Dilated by as much as was just seen: its nine taps lie side by side, without a gap.
            _ConvNorm(channels, channels, 3, padding=size, dilation=size),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), dim=1)
        return F.relu(self.conv_cat(branches) + self.conv_res(x))


class PartialDecoder(nn.Module):
    """Parallel partial decoder: draws the global map S_g at 1/8 of the image's side.

    Coarser maps are doubled in size. They are multiplied with the finer ones, and then joined to them as channels.

    Args:
        channels: of each receptive-field block.
        out_channels: of S_g.
    """

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
        """S_g logits (B, out_channels, h, w) on the grid of ``at8``.

        Args:
            at32, at16, at8: receptive-field blocks (B, channels, ...), at 1/32, 1/16 and 1/8 of the image's side.
        """
        # A product keeps what both scales agree on: a map near zero at one scale silences the other there.
        at32_up = _double(at32)
        mixed16 = self.conv_upsample1(at32_up) * at16
        from32 = self.conv_upsample2(_double(at32_up))
        from16 = self.conv_upsample3(_double(at16))
        mixed8 = from32 * from16 * at8
        joined16 = self.conv_concat2(torch.cat((mixed16, self.conv_upsample4(at32_up)), dim=1))
        joined8 = self.conv_concat3(torch.cat((mixed8, self.conv_upsample5(_double(joined16))), dim=1))
        # No activation between the two: the inference form merges them, see ``infnet_inference``.
        return self.conv5(self.conv4(joined8))


class _ReverseAttention(nn.Module):
    """Look again where the coarser map saw nothing: features times (1 - sigmoid), guided by the edges."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, edge_channels: int, *, depth: int, kernel: int
    ):
        super().__init__()
        self.reduce = _ConvNorm(in_channels, hidden, 1)
        pad = kernel // 2
        # The edges join the features once, so the first convolution alone has their channels.
        inputs = [hidden + edge_channels, *[hidden] * (depth - 1)]
        self.convs = nn.ModuleList(_ConvNorm(width, hidden, kernel, padding=pad) for width in inputs)
        last = 1 if kernel == 5 else 3  # the coarsest branch, alone with kernels of 5, ends pointwise
        self.head = _ConvNorm(hidden, out_channels, last, padding=last // 2)

    def forward(self, feature: Tensor, coarse: Tensor, edge: Tensor) -> Tensor:
        """Refined logits (B, C, h, w) from ``coarse`` logits (B, C, h, w) at the size of ``feature``."""
        x = self.reduce(feature * _not_lesion(coarse))
        x = torch.cat((x, resize_to(edge, feature)), dim=1)
        for conv in self.convs:
            x = F.relu(conv(x))
        # The branch draws a correction: where its features say nothing, the coarser map stands.
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

    __constants__ = ("deep_supervision",)  # TorchScript compiles only the branch that the flag selects

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
        _, at4, at8, at16, at32 = self.backbone.channels  # InfNet has no use for the finest map, the refinement has
        self.rfb8 = _ReceptiveFieldBlock(at8, decoder_channels)
        self.rfb16 = _ReceptiveFieldBlock(at16, decoder_channels)
        self.rfb32 = _ReceptiveFieldBlock(at32, decoder_channels)
        self.partial_decoder = PartialDecoder(decoder_channels, out_channels)
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
        edge = self.edge_guidance(x4)  # from fine features: coarser ones have lost where borders run
        context = [self.rfb8(x8), self.rfb16(x16), self.rfb32(x32)]
        sg = self.partial_decoder(context[2], context[1], context[0])
        # From coarse to fine: each branch looks again where the map before it saw nothing.
        s5 = self.attention5(x32, resize_to(sg, x32), edge)
        s4 = self.attention4(x16, resize_to(s5, x16), edge)
        s3 = self.attention3(x8, resize_to(s4, x8), edge)
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
    # Written out one by one: TorchScript cannot build a named tuple from a generator.
    return InfNetOutput(
        resize_to(maps.s3, image),
        resize_to(maps.s4, image),
        resize_to(maps.s5, image),
        resize_to(maps.sg, image),
        resize_to(maps.edge, image),
    )


def _double(x: Tensor) -> Tensor:
    # Corners are aligned here, but not in ``resize_to``: so it is in the published network, whose weights load here.
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def resize_to(x: Tensor, target: Tensor) -> Tensor:
    """Maps ``x`` (B, C, h, w), bilinearly resized to the height and width of ``target``."""
    return F.interpolate(x, size=target.shape[-2:], mode="bilinear", align_corners=False)


def _not_lesion(logits: Tensor) -> Tensor:
    """(B, 1, h, w) share of "no lesion here": 1 - sigmoid of one map, or sigmoid of the background channel."""
    if logits.shape[1] == 1:
        return 1 - torch.sigmoid(logits)
    return torch.sigmoid(logits[:, :1])  # three classes: background comes first
