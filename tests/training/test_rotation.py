"""Pretraining by rotation: turned slices, the network, and its way into InfNet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from toy_slices import parse_configs, run_configs, write_toy_dataset

from covsev.networks import InfNet
from covsev.networks.rotation import TURNS, RotationNet
from covsev.training.pretraining.pretrained import load_pretrained
from covsev.training.pretraining.rotation import (
    QuarterTurnd,
    rotation_training,
    split_patients,
    with_every_turn,
    with_upright,
)

pytestmark = pytest.mark.usefixtures("global_seed_unset")


@pytest.fixture
def slice_file(tmp_path):
    """A slice whose upper half is bright."""
    grey = np.full((48, 48), 40, np.uint8)
    grey[:24] = 200
    Image.fromarray(grey).save(tmp_path / "slice.png")
    return str(tmp_path / "slice.png")


# ---- turning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turns", "expected"), [(0, [[1, 2], [3, 4]]), (1, [[2, 4], [1, 3]]), (2, [[4, 3], [2, 1]])])
def test_a_given_turn_is_made(turns, expected):
    data = {"image": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "label": turns, "other": "kept"}
    result = QuarterTurnd(keys="image")(data)
    assert result["image"].tolist() == [expected]
    assert result["label"].item() == turns
    assert result["label"].dtype == torch.int64
    assert result["other"] == "kept"
    assert data["image"].tolist() == [[[1, 2], [3, 4]]], "the input is left alone"


def test_images_are_made_upright_before_they_are_turned():
    image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    result = QuarterTurnd(keys="image")({"image": image, "label": 1, "upright": 2})
    assert torch.equal(result["image"], torch.rot90(image, 3, dims=(1, 2)))
    assert result["label"].item() == 1


def test_turns_are_drawn_evenly_and_named_truly():
    turn = QuarterTurnd(keys="image", name="turns").set_random_state(0)
    image = torch.arange(4.0).reshape(1, 2, 2)
    drawn = []
    for _ in range(300):
        result = turn({"image": image})
        assert torch.equal(result["image"], torch.rot90(image, int(result["turns"]), dims=(1, 2)))
        drawn.append(int(result["turns"]))
    counts = np.bincount(drawn, minlength=TURNS)
    assert len(counts) == TURNS
    assert counts.min() > 70


def test_the_chain_turns_and_stays_in_range(slice_file):
    chain = rotation_training((32, 32)).set_random_state(0)
    for _ in range(6):
        sample = chain({"image": slice_file})
        assert set(sample) == {"image", "label"}
        assert sample["image"].shape == (1, 32, 32)
        assert sample["image"].dtype == torch.float32
        assert 0 <= sample["image"].min() <= sample["image"].max() <= 1


def test_without_augmentation_only_the_turn_is_left(slice_file):
    chain = rotation_training((32, 32), augment=False)
    upright, left, down = (chain(record)["image"][0] for record in with_every_turn([{"image": slice_file}]))
    assert upright[:12].min() > 0.7
    assert upright[20:].max() < 0.2
    assert torch.equal(left, torch.rot90(upright, 1))
    assert torch.equal(down, upright.flip(0, 1))


def test_every_turn_is_listed_for_every_record():
    records = with_every_turn([{"image": "a", "upright": 2}, {"image": "b"}])
    assert [(r["image"], r["label"]) for r in records] == [(name, turns) for name in "ab" for turns in range(TURNS)]
    assert records[0]["upright"] == 2


def test_upside_down_slices_are_known_by_their_names():
    records = [{"image": "/corona/radio_1.jpg"}, {"image": "/corona/corona_1.jpg"}]
    assert [record["upright"] for record in with_upright(records, "corona")] == [0, 2]
    assert [record["upright"] for record in with_upright(records, None)] == [0, 0]


def test_whole_patients_are_held_out():
    names = ["a_1.jpg", "a_12.jpg", "b_1.jpg", "c_7.jpg", "c_8.jpg", "a_3.jpg"]
    training, held_out = split_patients([{"image": f"/data/{name}"} for name in names], 2)
    assert [record["image"] for record in training] == ["/data/b_1.jpg"]
    assert len(held_out) == 5


def test_something_must_be_left_to_train_on():
    with pytest.raises(ValueError, match="no patient is left to train on: 1 held out, every 2 of them"):
        split_patients([{"image": "a_1.jpg"}, {"image": "a_2.jpg"}], 2)


def test_one_seed_gives_one_sequence_of_samples(slice_file):
    def samples(seed):
        chain = rotation_training((32, 32)).set_random_state(seed)
        return torch.stack([chain({"image": slice_file})["image"] for _ in range(4)])

    assert torch.equal(samples(1), samples(1))
    assert not torch.equal(samples(1), samples(2))


def test_oblong_grid_is_refused():
    with pytest.raises(ValueError, match="size must be square; got 32 x 64"):
        rotation_training((32, 64))


# ---- network ---------------------------------------------------------------------------------------------------


def test_the_network_gives_three_logits():
    network = RotationNet("efficientnet_lite0").eval()
    logits = network(torch.rand(2, 1, 64, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 3)


def test_sides_must_be_multiples_of_32():
    with pytest.raises(ValueError, match="image sides must be multiples of 32; got 32 x 40"):
        RotationNet("efficientnet_lite0")(torch.zeros(1, 1, 32, 40))


def test_unknown_backbones_are_refused():
    with pytest.raises(ValueError, match="backbone must be res2net50, efficientnet_lite0"):
        RotationNet("vgg")


@pytest.mark.parametrize("in_channels", [1, 2])
def test_its_backbone_carries_over_into_infnet(in_channels):
    pretrained = RotationNet("efficientnet_lite0")
    small = {"attention_channels": (8, 8, 8), "decoder_channels": 8, "edge_channels": 8}
    network = InfNet("efficientnet_lite0", in_channels=in_channels, **small)
    decoder = {name: value.clone() for name, value in network.state_dict().items() if not name.startswith("backbone.")}
    report = load_pretrained(network, pretrained.state_dict())
    taken = network.state_dict()
    assert set(report.skipped) == {"head.weight", "head.bias"}
    assert set(report.untouched) == set(decoder)
    assert all(torch.equal(taken[name], value) for name, value in decoder.items())
    name = "backbone.levels.3.4.project.0.conv.weight"
    assert torch.equal(taken[name], pretrained.state_dict()[name])
    assert report.widened == (() if in_channels == 1 else ("backbone.stem.0.conv.weight",))


# ---- the bundle's configuration --------------------------------------------------------------------------------


def _settings(folder, output_dir):
    manifest = write_toy_dataset(folder / "data", labelled=1, unlabelled=6)
    return {
        "initial_network": "@network_def",
        "dataset_dir": str(folder / "data"),
        "output_dir": str(output_dir),
        "manifest": str(manifest),
        "device": "$torch.device('cpu')",
        "network_size": [32, 32],
        "epochs": 2,
        "batch_size": 2,
        "batches_per_epoch": 2,
        "hold_out_every": 2,
        "checkpoint_every": 1,
    }


def test_the_configuration_measures_held_out_slices_and_can_be_resumed(tmp_path):
    config, broken, whole = "pretrain_rotation.yaml", tmp_path / "broken", tmp_path / "whole"
    parser = run_configs(config, **_settings(tmp_path, whole))
    assert 0 <= parser.get_parsed_content("validate#evaluator").state.metrics["accuracy"] <= 1
    assert len(parser.get_parsed_content("validate#dataset")) == 3 * TURNS
    assert len(parser.get_parsed_content("train#dataset")) == 3

    parser = parse_configs(config, **_settings(tmp_path, broken))
    parser.get_parsed_content("initialize")

    def stop():
        raise RuntimeError("stopped in the second epoch")

    parser.get_parsed_content("train#trainer").add_event_handler(Events.EPOCH_STARTED(once=2), stop)
    with pytest.raises(RuntimeError, match="Failed to evaluate") as raised:
        parser.get_parsed_content("run")
    assert "stopped in the second epoch" in str(raised.value.__cause__)
    run_configs(config, **_settings(tmp_path, broken), resume=str(broken / "checkpoint_epoch=1.pt"))

    states = [torch.load(folder / "rotation.pt", weights_only=True) for folder in (whole, broken)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    RotationNet("efficientnet_lite0").load_state_dict(states[0])
