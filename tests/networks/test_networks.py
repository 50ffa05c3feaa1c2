"""Backbones and InfNet: shapes, folded ImageNet stems, scripting, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import EfficientNetBNFeatures
from torch.utils.flop_counter import FlopCounterMode
from toy_networks import SMALL, randomise

from covsev.networks import Backbone, InfNet, InfNetOutput, RefinedInfNet, RefinedInfNetOutput, make_backbone
from covsev.networks.backbones import RGB_MEAN, RGB_STD, fold_rgb_stem, with_ones
from covsev.networks.efficientnet_lite import EfficientNetLite
from covsev.networks.monai_efficientnet import MonaiEfficientNet
from covsev.networks.res2net import Res2Net50

BACKBONES = ("res2net50", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "efficientnet-b0")


def _image(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- backbones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_gives_five_maps_at_strides_2_to_32(name):
    backbone = make_backbone(name).eval()
    with torch.no_grad():
        features = backbone(_image(1, 1, 64, 96))
    assert isinstance(backbone, Backbone)
    assert [tuple(f.shape) for f in features] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.channels, (2, 4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("res2net50", (64, 256, 512, 1024, 2048)),
        ("efficientnet_lite0", (16, 24, 40, 112, 320)),
        ("efficientnet_lite1", (16, 24, 40, 112, 320)),
        ("efficientnet_lite2", (16, 24, 48, 120, 352)),
        ("efficientnet-b0", (16, 24, 40, 112, 320)),
        ("efficientnet-b2", (16, 24, 48, 120, 352)),
    ],
)
def test_backbone_channels_are_the_published_ones(name, channels):
    assert make_backbone(name).channels == channels


def test_unknown_backbone_is_refused():
    known = "res2net50, efficientnet_lite0, 1, 2 or efficientnet-b0 to -b7"
    with pytest.raises(ValueError, match=f"backbone must be {known}; got 'vgg'"):
        make_backbone("vgg")
    with pytest.raises(ValueError, match=r"variant must be one of efficientnet-b0.*got 'efficientnet-b9'"):
        make_backbone("efficientnet-b9")
    with pytest.raises(ValueError, match=r"variant must be one of efficientnet_lite0.*got 'efficientnet_lite9'"):
        make_backbone("efficientnet_lite9")


def test_base_backbone_has_no_forward():
    with pytest.raises(NotImplementedError):
        Backbone()(_image(1, 1, 32, 32))


# ---- the folded stem -------------------------------------------------------------------------------------------


def test_folded_stem_equals_rgb_stem_on_normalised_grey_borders_included():
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    grey = _image(2, 1, 9, 12)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (RGB_MEAN, RGB_STD))
    expected = F.conv2d((grey.repeat(1, 3, 1, 1) - mean) / std, weight, padding=1, stride=2)
    folded = fold_rgb_stem(weight, mean=RGB_MEAN, std=RGB_STD)
    torch.testing.assert_close(F.conv2d(with_ones(grey), folded, padding=1, stride=2), expected, atol=1e-5, rtol=0)


def test_folded_stem_ignores_further_channels_at_first():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    single = fold_rgb_stem(weight, mean=RGB_MEAN, std=RGB_STD)
    double = fold_rgb_stem(weight, mean=RGB_MEAN, std=RGB_STD, in_channels=2)
    assert double.shape == (4, 3, 3, 3)
    assert torch.equal(double[:, [0, 2]], single)
    assert not double[:, 1].any()


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (4, 3)])
def test_folding_refuses_what_is_no_rgb_stem(shape):
    with pytest.raises(ValueError, match=r"weight must have the shape \(O, 3, k, k\) of an RGB stem; got"):
        fold_rgb_stem(torch.zeros(shape), mean=RGB_MEAN, std=RGB_STD)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_equals_the_reference_package_on_grey_rgb(number):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet_lite_pytorch")
    reference = randomise(package.EfficientNet.from_name(f"efficientnet-lite{number}", image_size=96))
    ours = EfficientNetLite(f"efficientnet_lite{number}").eval()
    ours.load_imagenet(reference.state_dict())
    grey = _image(1, 1, 96, 96)
    expected, rgb = {}, (grey.repeat(1, 3, 1, 1) * 255 - 127) / 128
    with torch.no_grad():
        x = F.relu6(reference._bn0(reference._conv_stem(rgb)))
        for block in reference._blocks:
            x = block(x)
            expected[x.shape[-1]] = x  # the last block at each size
        features = ours(grey)
    for feature, size in zip(features, (24, 12, 6, 3), strict=True):
        assert expected[size].std() > 0.01
        torch.testing.assert_close(feature, expected[size], atol=1e-4, rtol=1e-4)


def test_efficientnet_refuses_weights_with_a_missing_tensor():
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet_lite_pytorch")
    state = package.EfficientNet.from_name("efficientnet-lite0").state_dict()
    del state["_blocks.3._bn1.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        EfficientNetLite().load_imagenet(state)


def test_monai_efficientnet_equals_the_rgb_network_of_monai_on_grey():
    reference = randomise(EfficientNetBNFeatures("efficientnet-b0", pretrained=False))
    ours = make_backbone("efficientnet-b0").eval()
    ours.load_imagenet(reference.state_dict())
    grey = _image(1, 1, 64, 96)
    rgb = (grey - torch.tensor(RGB_MEAN).view(1, 3, 1, 1)) / torch.tensor(RGB_STD).view(1, 3, 1, 1)
    with torch.no_grad():
        expected, features = reference(rgb), ours(grey)
    assert all(feature.std() > 0.01 for feature in expected)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_monai_efficientnet_has_no_dead_parameters_and_refuses_incomplete_weights():
    backbone = MonaiEfficientNet().train()
    sum(feature.sum() for feature in backbone(_image(2, 1, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    state = EfficientNetBNFeatures("efficientnet-b0", pretrained=False).state_dict()
    del state["_bn0.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        backbone.load_imagenet(state)
    with pytest.raises(KeyError, match=r"_conv_stem\.weight"):
        backbone.load_imagenet({})


def test_res2net_loads_published_imagenet_weights_into_two_channels():
    source = Res2Net50()
    state = source.state_dict() | {"conv1.0.weight": torch.rand(32, 3, 3, 3), "fc.weight": torch.zeros(1000, 2048)}
    network = Res2Net50(in_channels=2)
    network.load_imagenet(state)
    assert network.conv1[0].weight.shape == (32, 3, 3, 3)
    assert not network.conv1[0].weight[:, 1].any()
    assert torch.equal(network.layer3[2].convs[1].weight, source.layer3[2].convs[1].weight)
    del state["bn1.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_imagenet(state)
    with pytest.raises(KeyError, match=r"conv1\.0\.weight"):
        network.load_imagenet({})


# ---- InfNet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["res2net50", "efficientnet_lite0"])
def test_infnet_gives_five_maps_at_the_size_of_the_image(name):
    network = InfNet(name, 2, 3, **SMALL, deep_supervision=True).eval()
    with torch.no_grad():
        outputs = network(_image(2, 2, 64, 32))
    assert isinstance(outputs, InfNetOutput)
    assert [tuple(o.shape) for o in outputs[:4]] == [(2, 3, 64, 32)] * 4
    assert outputs.edge.shape == (2, 1, 64, 32)


def test_deep_supervision_is_a_flag_and_changes_no_number():
    network = randomise(InfNet("efficientnet_lite0", **SMALL))
    image = _image(1, 1, 64, 64)
    with torch.no_grad():
        answer = network(image)
        network.deep_supervision = True
        outputs = network.eval()(image)
    assert isinstance(answer, torch.Tensor)
    assert torch.equal(answer, outputs.s3)


def test_refinement_starts_as_the_infnet_that_it_refines():
    infnet = randomise(InfNet("efficientnet_lite0", **SMALL))
    refined = RefinedInfNet("efficientnet_lite0", **SMALL).eval()
    refined.load_state_dict(infnet.state_dict(), strict=False)
    image = _image(2, 1, 64, 96)
    with torch.no_grad():
        coarse = F.interpolate(infnet.decode(infnet.backbone(image)).maps.s3, (32, 48), mode="bilinear")
        expected = F.interpolate(coarse, (64, 96), mode="bilinear")
        torch.testing.assert_close(refined(image), expected)


def test_refinement_sees_what_an_eighth_of_the_side_cannot_hold():
    """One row of pixels changes the answer there, and hardly anywhere else: S_3 and the context are given."""
    refinement = RefinedInfNet("efficientnet_lite0", **SMALL).eval().refinement
    torch.nn.init.ones_(refinement.head.weight)
    x2, x4, coarse = torch.zeros(1, 16, 32, 32), torch.zeros(1, 24, 16, 16), torch.zeros(1, 1, 8, 8)
    context = [torch.zeros(1, 8, side, side) for side in (8, 4, 2)]
    with torch.no_grad():
        before = refinement(x2, x4, context, coarse)
        x2[:, :, 16] = 1
        changed = (refinement(x2, x4, context, coarse) - before).abs().amax(dim=(0, 1, 3)) > 0
    assert before.shape == (1, 1, 32, 32)
    assert changed[16]
    assert not changed[:14].any()
    assert not changed[19:].any()


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_refined_infnet_gives_six_maps_or_the_finest(deep_supervision):
    network = RefinedInfNet("efficientnet_lite0", 2, 3, **SMALL, deep_supervision=deep_supervision).eval()
    with torch.no_grad():
        outputs = network(_image(2, 2, 64, 32))
    if not deep_supervision:
        assert outputs.shape == (2, 3, 64, 32)
        return
    assert isinstance(outputs, RefinedInfNetOutput)
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 64, 32)] * 5 + [(2, 1, 64, 32)]
    network.deep_supervision = False
    with torch.no_grad():
        assert torch.equal(network(_image(2, 2, 64, 32)), outputs.s1)


def test_default_infnet_has_the_published_size():
    with torch.device("meta"):
        network = InfNet()
    rgb_stem, grey_stem, classifier = 32 * 3 * 9, 32 * 2 * 9, 2048 * 1000 + 1000
    count = sum(p.numel() for p in network.parameters()) - grey_stem + rgb_stem + classifier
    assert round(count / 1e6, 2) == 33.12


def test_default_infnet_has_the_published_cost():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        InfNet()(torch.rand(1, 1, 352, 352))
    assert round(counter.get_total_flops() / 1e9, 1) == 27.7


@pytest.mark.parametrize(
    ("architecture", "name", "deep"),
    [
        (InfNet, "res2net50", False),
        (InfNet, "efficientnet_lite0", True),
        (InfNet, "efficientnet-b0", False),
        (RefinedInfNet, "efficientnet_lite0", False),
    ],
)
def test_scripted_infnet_equals_eager(architecture, name, deep):
    network = randomise(architecture(name, 2, 3, **SMALL, deep_supervision=deep))
    scripted = torch.jit.script(network)
    image = _image(1, 2, 64, 64)
    with torch.no_grad():
        expected, actual = network(image), scripted(image)
    torch.testing.assert_close(tuple(actual), tuple(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("lesion", "nothing"),
    [([200.0], [-200.0]), ([-200.0, 200.0, 200.0], [200.0, -200.0, -200.0])],  # three classes: background first
    ids=["single", "multi"],
)
def test_reverse_attention_looks_where_the_coarse_map_saw_nothing(lesion, nothing):
    """Where the coarse map is sure of a lesion, the features change no number; where it saw nothing, they do."""
    network = randomise(InfNet("efficientnet_lite0", out_channels=len(lesion), **SMALL))
    channels, edge = network.backbone.channels[3], torch.zeros(1, 8, 16, 16)
    moves = {}
    for name, logits in (("lesion", lesion), ("nothing", nothing)):
        coarse = torch.tensor(logits)[None, :, None, None].expand(1, -1, 8, 8)
        with torch.no_grad():
            some, others = (network.attention4(_image(1, channels, 8, 8, seed=seed), coarse, edge) for seed in (1, 2))
        assert some.shape == coarse.shape
        moves[name] = (some - others).abs().max()
    assert moves["lesion"] == 0
    assert moves["nothing"] > 1e-3


@pytest.mark.parametrize("architecture", [InfNet, RefinedInfNet])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 33)])
def test_infnet_refuses_sides_that_are_no_multiples_of_32(architecture, height, width):
    with pytest.raises(ValueError, match=f"image sides must be multiples of 32; got {height} x {width}"):
        architecture("efficientnet_lite0", **SMALL)(_image(1, 1, height, width))
