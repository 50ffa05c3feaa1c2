"""InfNet with shortened chains gives the logits of InfNet, at the borders too."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_networks import SMALL, randomise

from covsev.networks import InfNet, RefinedInfNet
from covsev.networks.infnet_inference import InferenceInfNet, inference_form

MULTI = {"in_channels": 2, "out_channels": 3}
NETWORKS = [(InfNet, {}), (InfNet, MULTI), (RefinedInfNet, {}), (RefinedInfNet, MULTI)]


@pytest.fixture(params=NETWORKS, ids=["single", "multi", "refined single", "refined multi"])
def network(request):
    torch.manual_seed(0)
    architecture, settings = request.param
    network = architecture("efficientnet_lite0", **SMALL, **settings)
    if architecture is RefinedInfNet:  # which starts without effect
        torch.nn.init.normal_(network.refinement.head.weight)
    return randomise(network)


@torch.inference_mode()
def test_logits_are_equal_up_to_rounding(network):
    image = torch.rand(2, network.backbone.in_channels, 96, 160, generator=torch.Generator().manual_seed(1))
    expected, result = network(image), inference_form(network)(image)
    assert expected.std() > 0.01
    for border in (1, 8, 80):  # of the whole image, its rim and its corner
        torch.testing.assert_close(result[..., :border], expected[..., :border], rtol=0, atol=2e-5 * expected.std())
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5 * expected.std())


def test_the_network_itself_is_left_as_it_is(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    form = inference_form(network)
    assert isinstance(form, InferenceInfNet)
    for parameter in form.parameters():
        parameter.data.zero_()
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_other_networks_and_training_forms_stay(network):
    conv = nn.Conv2d(1, 1, 1)
    assert inference_form(conv) is conv
    deep = InfNet("efficientnet_lite0", **SMALL, deep_supervision=True)
    assert inference_form(deep) is deep


def test_sides_must_be_multiples_of_32(network):
    with pytest.raises(ValueError, match="image sides must be multiples of 32; got 64 x 48"):
        inference_form(network)(torch.zeros(1, network.backbone.in_channels, 64, 48))
