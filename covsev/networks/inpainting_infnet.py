"""InfNet that paints images: the same body, its last layers swapped for linear ones.

The form for pretraining by inpainting. Everything but the heads carries over into the segmentation form, see
:func:`covsev.training.pretraining.pretrained.load_pretrained`.
"""

from __future__ import annotations

from torch import nn

from covsev.networks.infnet import InfNet

HEADS = ("partial_decoder.conv5", "attention5.head", "attention4.head", "attention3.head", "edge_head")
"""The modules whose meaning depends on the task: they draw S_g, S_5, S_4, S_3 and the edge."""


class InpaintingInfNet(InfNet):
    """InfNet whose outputs S_3, S_4, S_5 and S_g are a grey image in [0, 1], and whose edge is that of the image.

    Each head is one convolution with a bias, without batch norm or activation. A call returns all five
    outputs as :class:`~covsev.networks.InfNetOutput`, each (B, 1, H, W).

    Args:
        backbone: name of the encoder, see :func:`covsev.networks.make_backbone`.
        decoder_channels, edge_channels, attention_channels: see :class:`~covsev.networks.InfNet`.

    Raises:
        ValueError: for an unknown backbone.
    """

    def __init__(
        self,
        backbone: str = "res2net50",
        *,
        decoder_channels: int = 32,
        edge_channels: int = 64,
        attention_channels: tuple[int, int, int] = (256, 64, 64),
    ):
        super().__init__(
            backbone,
            decoder_channels=decoder_channels,
            edge_channels=edge_channels,
            attention_channels=attention_channels,
            deep_supervision=True,
        )
        # By name and after the body is built, so that all other tensors keep the names of the segmentation form.
        for name in HEADS:
            self.set_submodule(name, _linear(self.get_submodule(name)))


def _linear(head: nn.Module) -> nn.Conv2d:
    """A fresh convolution with bias, of the shape of the one in ``head``."""
    conv = next(module for module in head.modules() if isinstance(module, nn.Conv2d))
    return nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
