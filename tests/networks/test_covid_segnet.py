"""COVID-SegNet: shapes, its two blocks, scripting, refusals."""

from __future__ import annotations

import pytest
import torch

from covsev.networks import CovidSegNet
from covsev.networks.covid_segnet import _FeatureVariation, _ProgressivePyramid

NARROW = (4, 4, 8, 8, 8)


def _image(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("in_channels", "out_channels", "size"), [(1, 1, (32, 48)), (2, 3, (64, 16))])
def test_logits_have_the_size_of_the_image(in_channels, out_channels, size):
    network = CovidSegNet(in_channels, out_channels, channels=NARROW).eval()
    with torch.no_grad():
        assert network(_image(2, in_channels, *size)).shape == (2, out_channels, *size)


def test_default_size():
    with torch.device("meta"):
        assert round(sum(p.numel() for p in CovidSegNet().parameters()) / 1e6, 2) == 5.78


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = CovidSegNet(channels=(16, 32, 32))
    network(_image(2, 1, 32, 32)).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_scripted_equals_eager():
    network = CovidSegNet(channels=NARROW).eval()
    scripted = torch.jit.script(network)
    image = _image(1, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network(image), atol=1e-6, rtol=0)


def test_feature_variation_branches_scale_channels_and_places():
    block = _FeatureVariation(4).eval()
    features = _image(1, 4, 6, 6)
    with torch.no_grad():
        contrast, position = block.contrast(features), block.position(features)
    assert contrast.shape == (1, 4, 1, 1)
    assert position.shape == (1, 4, 6, 6)
    assert 0 < contrast.min() <= contrast.max() < 1
    assert 0 < position.min() <= position.max() < 1
    torch.nn.init.zeros_(block.fuse[0].weight)
    assert torch.equal(block(features), features), "what is left is the residual"


@pytest.mark.parametrize(
    ("pair", "branch", "reach"), [("fine", "near", 1), ("fine", "far", 2), ("coarse", "near", 4), ("coarse", "far", 8)]
)
def test_pyramid_reaches_as_far_as_its_dilations(pair, branch, reach):
    conv = getattr(getattr(_ProgressivePyramid(8).eval(), pair), branch)
    torch.nn.init.ones_(conv[0].weight)
    point = torch.zeros(1, 2, 33, 33)
    point[:, :, 16, 16] = 1
    with torch.no_grad():
        seen = conv(point)[0, 0].nonzero()
    assert (seen.min().item(), seen.max().item()) == (16 - reach, 16 + reach)


@pytest.mark.parametrize(("height", "width"), [(40, 32), (32, 31)])
def test_refuses_sides_that_are_no_multiples_of_16(height, width):
    with pytest.raises(ValueError, match=f"image sides must be multiples of 16; got {height} x {width}"):
        CovidSegNet(channels=NARROW)(_image(1, 1, height, width))


@pytest.mark.parametrize("channels", [(16,), (16, 30)])
def test_refuses_channels_that_cannot_be_built(channels):
    with pytest.raises(ValueError, match="channels must be two or more, the last a multiple of 4; got"):
        CovidSegNet(channels=channels)
