"""What carries over from pretraining: every tensor accounted for, in the single and the multi network."""

from __future__ import annotations

import pytest
import torch

from covsev.networks import InfNet, InpaintingInfNet, RefinedInfNet
from covsev.networks.inpainting_infnet import HEADS
from covsev.training.pretraining.pretrained import load_pretrained, with_pretrained

SMALL = {"attention_channels": (8, 8, 8), "decoder_channels": 8, "edge_channels": 8}


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(1)
    return InpaintingInfNet("efficientnet_lite0", **SMALL)


def is_head(name):
    return name.startswith(HEADS)


def test_the_body_carries_over_into_the_single_network(pretrained):
    single = InfNet("efficientnet_lite0", **SMALL)
    before, state = weights(single), pretrained.state_dict()
    report = load_pretrained(single, state)
    after = weights(single)
    assert set(report.loaded) == {name for name in state if not is_head(name)}
    assert all(torch.equal(after[name], state[name]) for name in report.loaded)
    assert report.widened == ()
    assert set(report.skipped) == {f"{head}.{tensor}" for head in HEADS for tensor in ("weight", "bias")}
    assert set(report.skipped.values()) == {"a head"}
    assert set(report.untouched) == {name for name in after if is_head(name)}
    assert all(torch.equal(after[name], before[name]) for name in report.untouched)


def test_the_multi_network_begins_blind_to_its_prior(pretrained):
    multi = InfNet("efficientnet_lite0", 2, 3, **SMALL).eval()
    report = load_pretrained(multi, pretrained.state_dict())
    assert report.widened == ("backbone.stem.0.conv.weight",)
    stem, pretrained_stem = (network.backbone.stem[0].conv.weight for network in (multi, pretrained))
    assert torch.equal(stem[:, [0, 2]], pretrained_stem)
    assert (stem[:, 1] == 0).all()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        seen = multi.backbone(torch.cat((image, torch.rand(1, 1, 64, 64)), dim=1))
        wanted = pretrained.eval().backbone(image)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(seen, wanted, strict=True))


def test_a_refined_infnet_goes_on_from_an_infnet_heads_included():
    torch.manual_seed(2)
    infnet = InfNet("efficientnet_lite0", 2, 3, **SMALL)
    refined = RefinedInfNet("efficientnet_lite0", 2, 3, **SMALL)
    refinement = weights(refined.refinement)
    report = load_pretrained(refined, infnet.state_dict())
    assert set(report.loaded) == set(infnet.state_dict())
    assert report.widened == ()
    assert report.skipped == {}
    assert set(report.untouched) == {f"refinement.{name}" for name in refinement}
    assert all(torch.equal(value, refinement[name]) for name, value in refined.refinement.state_dict().items())


def test_a_multi_network_takes_what_fits_of_a_refined_single_one():
    single, multi = (RefinedInfNet("efficientnet_lite0", *channels, **SMALL) for channels in ((1, 1), (2, 3)))
    report = load_pretrained(multi, single.state_dict())
    reasons = {name: reason for name, reason in report.skipped.items() if reason != "a head"}
    assert set(reasons) == {"refinement.level4.0.0.weight", "refinement.head.weight", "refinement.head.bias"}
    assert reasons["refinement.head.bias"] == "its shape is (1,), but (3,) is needed"
    assert sum(is_head(name) for name in report.skipped) == sum(is_head(name) for name in single.state_dict())
    assert "refinement.level2.0.0.weight" in report.loaded


def test_other_shapes_of_the_body_are_skipped_with_the_reason(pretrained):
    single = InfNet("efficientnet_lite0", **(SMALL | {"edge_channels": 4}))
    state = dict(pretrained.state_dict()) | {"nonsense": torch.zeros(1)}
    report = load_pretrained(single, state)
    assert report.skipped["edge_guidance.0.conv.weight"] == "its shape is (8, 24, 1, 1), but (4, 24, 1, 1) is needed"
    assert report.skipped["nonsense"] == "the network has no such tensor"
    assert "edge_guidance.0.conv.weight" in report.untouched


def test_report_reads_well(pretrained):
    report = str(load_pretrained(InfNet("efficientnet_lite0", 2, 3, **SMALL), pretrained.state_dict()))
    first, *rest = report.splitlines()
    bodies = sum(not is_head(name) for name in pretrained.state_dict())
    assert first == f"loaded {bodies - 1} tensors, widened 1, skipped 10; 26 of the network keep their values"
    assert "  widened    backbone.stem.0.conv.weight" in rest
    assert "  skipped    edge_head.weight: a head" in rest
    assert "  untouched  edge_head.conv.weight" in rest


def test_another_encoder_is_refused_and_nothing_changes(pretrained):
    other = InfNet("efficientnet_lite1", **SMALL)
    before = weights(other)
    with pytest.raises(ValueError, match=r"does not fit the encoder: \d+ tensors, backbone\.levels"):
        load_pretrained(other, pretrained.state_dict())
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_weights_from_a_file(pretrained, tmp_path, caplog):
    torch.save(pretrained.state_dict(), tmp_path / "inpainter.pt")
    single = InfNet("efficientnet_lite0", **SMALL)
    with caplog.at_level("INFO"):
        assert with_pretrained(single, tmp_path / "inpainter.pt") is single
    assert "skipped 10; 26 of the network keep their values" in caplog.text
    assert torch.equal(single.rfb8.conv_res.conv.weight, pretrained.rfb8.conv_res.conv.weight)
