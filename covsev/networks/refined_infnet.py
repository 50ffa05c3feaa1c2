"""InfNet with a refinement: its answer on a quarter of the pixels instead of one in 64.

InfNet draws S_3 at 1/8 of the image's side. Bilinear interpolation does the rest. For 256 x 256 pixels, S_3 has only
32 x 32. Even the true mask loses 0.15 of its Dice when it is brought to that grid and back (docs/results.md).
The refinement takes S_3 and the encoder's features at 1/4 and 1/2, and corrects the borders of S_3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from covsev.networks.infnet import InfNet, at_size_of, require_sides, resize_to


class RefinedInfNetOutput(NamedTuple):
    """Logits of all heads, each (B, C, H, W) at the input's size; ``edge`` has one channel."""

    # As in InfNetOutput, the answer comes first and the edge last.
    s1: Tensor
    s3: Tensor
    s4: Tensor
    s5: Tensor
    sg: Tensor
    edge: Tensor


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        # No bias: the batch norm after it subtracts the mean, and has an offset of its own.
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Refinement(nn.Module):
    """Corrects coarse logits with finer features.

    A decoder of two levels, at 1/4 and 1/2 of the image's side. Its output is added to the coarse logits. Its last
    layer starts at zero, so at first it changes nothing.

    Args:
        fine_channels: of the encoder's features at 1/2 and 1/4.
        context_channels: of each receptive-field block, at 1/8, 1/16 and 1/32.
        out_channels: of the logits.
        channels: of the decoder at 1/2 and 1/4.
    """

    def __init__(
        self, fine_channels: tuple[int, int], context_channels: int, out_channels: int, channels: tuple[int, int]
    ):
        super().__init__()
        at2, at4 = fine_channels
        width2, width4 = channels
        # The context is narrowed before it is enlarged: at 1/4 its channels would cost the most.
        self.context = _conv_norm_relu(3 * context_channels, width4, 1)
        self.level4 = nn.Sequential(
            _conv_norm_relu(width4 + at4 + out_channels, width4, 3), _conv_norm_relu(width4, width4, 3)
        )
        self.level2 = nn.Sequential(_conv_norm_relu(width4 + at2, width2, 3), _conv_norm_relu(width2, width2, 3))
        self.head = nn.Conv2d(width2, out_channels, 1)
        # Zeros make the new network begin with the answers of the InfNet inside it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x2: Tensor, x4: Tensor, context: list[Tensor], coarse: Tensor) -> Tensor:
        """Logits at 1/2.

        Args:
            x2, x4: features of the encoder.
            context: the three receptive-field blocks, finest first.
            coarse: logits at 1/8.
        """
        together = torch.cat([resize_to(block, context[0]) for block in context], dim=1)
        around = resize_to(self.context(together), x4)
        # The coarse logits are an input, too: what there is to correct depends on them.
        at4 = torch.cat((around, x4, resize_to(coarse, x4)), dim=1)
        at2 = torch.cat((resize_to(self.level4(at4), x2), x2), dim=1)
        return self.head(self.level2(at2)) + resize_to(coarse, x2)


class RefinedInfNet(InfNet):
    """InfNet with a refinement of S_3, called S_1.

    Args:
        backbone, in_channels, out_channels, decoder_channels, edge_channels, attention_channels: see
            :class:`~covsev.networks.InfNet`.
        refinement_channels: of the refinement at 1/2 and 1/4.
        deep_supervision: return all six outputs (training) instead of S_1 alone.

    Raises:
        ValueError: for an unknown backbone.
    """

    def __init__(
        self,
        backbone: str = "res2net50",
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        decoder_channels: int = 32,
        edge_channels: int = 64,
        attention_channels: tuple[int, int, int] = (256, 64, 64),
        refinement_channels: tuple[int, int] = (16, 32),
        deep_supervision: bool = False,
    ):
        super().__init__(
            backbone,
            in_channels,
            out_channels,
            decoder_channels=decoder_channels,
            edge_channels=edge_channels,
            attention_channels=attention_channels,
            deep_supervision=deep_supervision,
        )
        at2, at4 = self.backbone.channels[:2]
        self.refinement = Refinement((at2, at4), decoder_channels, out_channels, refinement_channels)

    def all_outputs(self, image: Tensor) -> RefinedInfNetOutput:
        """All six outputs, S_1 first, whatever ``deep_supervision`` says."""
        require_sides(image)
        features = self.backbone(image)
        maps, context = self.decode(features)
        x2, x4 = features[0], features[1]
        # S_3 on the grid on which it is drawn, 1/8, not at the image's size: the refinement resizes it itself.
        s1 = resize_to(self.refinement(x2, x4, context, maps.s3), image)
        s3, s4, s5, sg, edge = at_size_of(image, maps)
        return RefinedInfNetOutput(s1, s3, s4, s5, sg, edge)
