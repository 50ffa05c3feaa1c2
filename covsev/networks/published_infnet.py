"""Checkpoints of the public Inf-Net repository (github.com/DengPingFan/Inf-Net) as our :class:`InfNet`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from covsev.networks.backbones import RGB_MEAN, RGB_STD, fold_rgb_stem
from covsev.networks.infnet import InfNet

_PUBLISHED_DEAD = "resnet.fc."  # the published network carries an unused ImageNet classifier

# Their numbers are the encoder's stages: 2, 3 and 4 are at 1/8, 1/16 and 1/32 of the side. Here a receptive-field block
# is named after that divisor, and a reverse attention after the map that it draws, S_3, S_4 or S_5.
_PUBLISHED_NAMES = {
    "resnet": "backbone",
    "rfb2_1": "rfb8",
    "rfb3_1": "rfb16",
    "rfb4_1": "rfb32",
    "ParDec": "partial_decoder",
    "ra4_conv1": "attention5.reduce",
    "ra4_conv2": "attention5.convs.0",
    "ra4_conv3": "attention5.convs.1",
    "ra4_conv4": "attention5.convs.2",
    "ra4_conv5": "attention5.head",
    "ra3_conv1": "attention4.reduce",
    "ra3_conv2": "attention4.convs.0",
    "ra3_conv3": "attention4.convs.1",
    "ra3_conv4": "attention4.head",
    "ra2_conv1": "attention3.reduce",
    "ra2_conv2": "attention3.convs.0",
    "ra2_conv3": "attention3.convs.1",
    "ra2_conv4": "attention3.head",
    "edge_conv1": "edge_guidance.0",
    "edge_conv2": "edge_guidance.1",
    "edge_conv3": "edge_guidance.2",
    "edge_conv4": "edge_head",
}


def published_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint of the public Inf-Net repository to the names of :class:`InfNet`.

    The 3-channel stem and its ImageNet normalisation are folded into the grey stem, so the network takes the
    plain slice in [0, 1]. The unused ImageNet classifier is dropped.

    Raises:
        ValueError: if a key is not one of the published network's.
    """
    own: dict[str, Tensor] = {}
    # Unknown keys are refused: a checkpoint of another network would load in part, and draw nonsense.
    for key, value in state.items():
        if key.startswith(_PUBLISHED_DEAD):
            continue
        module, _, rest = key.partition(".")
        if module not in _PUBLISHED_NAMES:
            raise ValueError(f"not a checkpoint of the public Inf-Net repository: unexpected key {key!r}")
        own[f"{_PUBLISHED_NAMES[module]}.{rest}"] = value
    stem = "backbone.conv1.0.weight"
    if stem not in own:
        raise ValueError("not a checkpoint of the public Inf-Net repository: 'resnet.conv1.0.weight' is missing")
    own[stem] = fold_rgb_stem(own[stem], mean=RGB_MEAN, std=RGB_STD)
    return own


def load_published_infnet(path: str | Path) -> InfNet:
    """Read a checkpoint of the public Inf-Net repository, ``Inf-Net-100.pth`` for example.

    Args:
        path: file of a ``state_dict`` of the published single network; only tensors are unpickled.

    Returns:
        network in evaluation mode, with Res2Net-50. A grey slice in [0, 1] gives the logits that the published
        network gives on that slice repeated to RGB and normalised with the ImageNet statistics.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, or is not a checkpoint of that network.
    """
    network = InfNet("res2net50")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # a download: no code of it may run
        network.load_state_dict(published_state_dict(state))
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises anything on broken files; the cause stays attached
        reason = textwrap.shorten(str(error), width=300)
        raise ValueError(f"{path}: does not fit the published Inf-Net: {reason}") from error
    return network.eval()
