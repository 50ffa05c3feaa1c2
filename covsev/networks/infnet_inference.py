"""InfNet with less to compute, for inference: the same function of the image, up to rounding.

Two convolutions without an activation between them are one linear map. InfNet has such chains. Here they are merged.
The zero padding inside a chain has the same effect as before, at the border too. Two tricks keep it:

* A bias before a padding does not reach into the padding. It becomes the weight of an input channel of ones.
* The tail of the partial decoder passes on one channel for each tap of its last kernel.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covsev.networks.backbones import with_ones
from covsev.networks.infnet import InfNet, PartialDecoder, require_sides, resize_to
from covsev.networks.refined_infnet import RefinedInfNet


def inference_form(network: nn.Module) -> nn.Module:
    """A network that gives the answer of an InfNet, refined or not, with less work; any other network as it is."""
    # The exact types: a subclass, such as InpaintingInfNet, may have other layers than those merged here.
    if type(network) not in (InfNet, RefinedInfNet) or network.deep_supervision:
        return network
    return InferenceInfNet(cast("InfNet", network))


class InferenceInfNet(nn.Module):
    """S_3 logits of an :class:`InfNet`, or S_1 of a :class:`~covsev.networks.RefinedInfNet`.

    Args:
        network: trained; it is copied.
    """

    def __init__(self, network: InfNet):
        super().__init__()
        parts = copy.deepcopy(network).eval()  # layers are replaced below; the caller's network stays whole
        self.backbone = parts.backbone
        self.rfb8, self.rfb16, self.rfb32 = parts.rfb8, parts.rfb16, parts.rfb32
        self.partial_decoder = parts.partial_decoder
        _shorten_tail(self.partial_decoder)
        # Nobody asks for the edge map in use, so its head is dropped, and the last layer is made once for each size.
        first, second, last = parts.edge_guidance
        self.edge = _pointwise_then(first, second)
        self.edge_at8, self.edge_at16, self.edge_at32 = (_then_shrink(last, factor) for factor in (2, 4, 8))
        self.attention5, self.attention4, self.attention3 = parts.attention5, parts.attention4, parts.attention3
        self.refinement = parts.refinement if isinstance(parts, RefinedInfNet) else None
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, H, W) of ``image`` (B, in_channels, H, W), values in [0, 1], H and W multiples of 32.

        Raises:
            ValueError: if a side is not a multiple of 32.
        """
        require_sides(image)
        x2, x4, x8, x16, x32 = self.backbone(image)
        edge = self.edge(with_ones(x4))
        context = [self.rfb8(x8), self.rfb16(x16), self.rfb32(x32)]
        sg = self.partial_decoder(context[2], context[1], context[0])
        edge32 = self.edge_at32(edge[:, :, 2:-2, 2:-2])  # at 1/8 the mean leaves two pixels out
        s5 = self.attention5(x32, resize_to(sg, x32), edge32)
        s4 = self.attention4(x16, resize_to(s5, x16), self.edge_at16(edge))
        answer = self.attention3(x8, resize_to(s4, x8), self.edge_at8(edge))
        if self.refinement is not None:
            answer = self.refinement(x2, x4, context, answer)
        return resize_to(answer, image)


def _folded(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution with its batch norm."""
    norm = layer.get_submodule("bn")
    assert isinstance(norm, nn.BatchNorm2d)
    # Double precision until the numbers are loaded into a layer, so that they are rounded to float32 once.
    state = {name: value.double() for name, value in layer.state_dict().items()}
    spread = torch.sqrt(state["bn.running_var"] + norm.eps)
    scale = state["bn.weight"] / spread
    weight = state["conv.weight"] * scale[:, None, None, None]
    bias = state["bn.bias"] - state["bn.running_mean"] * scale
    return weight, bias


def _conv(weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1) -> nn.Conv2d:
    """The convolution with these numbers."""
    out_channels, in_channels, kernel, _ = weight.shape
    conv = nn.Conv2d(in_channels * groups, out_channels, kernel, stride, padding, groups=groups)
    conv.load_state_dict({"weight": weight, "bias": bias})
    return conv.requires_grad_(False)


def _pointwise_then(first: nn.Module, second: nn.Module) -> nn.Conv2d:
    """A 1 x 1 and a padded 3 x 3 layer as one convolution over the input and a last channel of ones."""
    (weight1, bias1), (weight2, bias2) = _folded(first), _folded(second)
    # Letters of the sums: o output, m middle and i input channels, h and w the kernel's rows and columns.
    image = torch.einsum("omhw,mi->oihw", weight2, weight1[:, :, 0, 0])
    # The first bias is missing where the second kernel reaches into the padding; a padded channel of ones is, too.
    ones = torch.einsum("omhw,m->ohw", weight2, bias1)[:, None]
    return _conv(torch.cat((image, ones), dim=1), bias2, padding=1)


def _then_shrink(layer: nn.Module, factor: int) -> nn.Conv2d:
    """A padded 3 x 3 layer and the resizing by 1/2, 1/4 or 1/8 after it, as one strided convolution.

    Bilinear resizing by an even factor takes the mean of two by two pixels in the middle of each square. At 1/8 the
    convolution expects the input without two pixels at each border.
    """
    weight, bias = _folded(layer)
    # The mean of four neighbouring outputs of a 3 x 3 kernel is one output of a 4 x 4 kernel: the mean of four shifts.
    shifts = [(row, 1 - row, column, 1 - column) for row in (0, 1) for column in (0, 1)]
    mean = torch.stack([F.pad(weight, shift) for shift in shifts]).mean(dim=0)
    # At 1/2 the first square touches the border, and the kernel reaches one pixel beyond; at 1/4 it just fits inside.
    return _conv(mean, bias, stride=factor, padding=1 if factor == 2 else 0)


def _shorten_tail(decoder: PartialDecoder) -> None:
    """Replace the last three layers, which are 3 x 3, 3 x 3 and 1 x 1, by two with fewer channels.

    The new first layer has nine channels for each output: what each tap of the second kernel contributes. The new
    second layer moves these nine to the places of their taps and adds them up. Its zero padding acts as before.
    """
    (weight1, bias1), (weight2, bias2) = _folded(decoder.conv_concat3), _folded(decoder.conv4)
    last = decoder.conv5.weight.double()[:, :, 0, 0]
    # The 1 x 1 layer reads after the second padding, so it merges into the second kernel without a trick.
    taps = torch.einsum("om,mihw->oihw", last, weight2)
    outputs = len(last)
    # d and e are the row and the column of a tap of the second kernel: each becomes a channel of its own.
    read = torch.einsum("omde,mihw->odeihw", taps, weight1).flatten(0, 2)
    read_bias = torch.einsum("omde,m->ode", taps, bias1).flatten()
    decoder.add_module("conv_concat3", _conv(read, read_bias, padding=1))
    places = torch.eye(9).reshape(1, 9, 3, 3)  # channel n reads nothing but tap n
    bias = last @ bias2 + decoder.conv5.state_dict()["bias"].double()
    each = places.repeat(outputs, 1, 1, 1)
    decoder.add_module("conv4", _conv(each, bias, padding=1, groups=outputs))
    decoder.add_module("conv5", nn.Identity())
