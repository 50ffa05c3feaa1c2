"""A run of train.yaml that is interrupted and continued ends with the weights of an uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from toy_slices import write_toy_dataset

from covsev.options import INFECTION_BUNDLE, LESION_BUNDLE
from covsev.training.resuming import run_resumable


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = write_toy_dataset(tmp_path_factory.mktemp("toy"))
    content = json.loads(path.read_text())
    for record in content["training"]:
        mask = np.asarray(Image.open(path.parent / record["infection"])) > 0
        labels = mask * np.where(np.arange(mask.shape[1]) % 14 < 7, 1, 2)
        record["lesions"] = record["infection"].replace("mask", "lesions")
        Image.fromarray(labels.astype(np.uint8)).save(path.parent / record["lesions"])
    path.write_text(json.dumps(content))
    return path


def _train(bundle: Path, manifest: Path, output: Path, **overrides) -> dict[str, torch.Tensor]:
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.yaml"),
        workflow_type="train",
        logging_file=str(bundle / "configs" / "logging.conf"),
        dataset_dir=str(manifest.parent),
        output_dir=str(output),
        manifest=str(manifest),
        network_size=[64, 64],
        batch_size=2,
        checkpoint_every=1,
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    return torch.load(output / "model.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [INFECTION_BUNDLE, LESION_BUNDLE], ids=["single", "multi"])
def test_an_interrupted_run_ends_with_the_same_weights(bundle, manifest, tmp_path):
    whole = _train(bundle, manifest, tmp_path / "whole", epochs=2)
    # The schedule of the learning rate spans the whole run, so the interruption must not shorten it.
    _train(bundle, manifest, tmp_path / "half", **{"epochs": 2, "train#trainer#max_epochs": 1})
    checkpoint = tmp_path / "half" / "checkpoint_epoch=1.pt"
    resumed = _train(bundle, manifest, tmp_path / "resumed", epochs=2, resume=str(checkpoint))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.slow
def test_another_seed_ends_with_other_weights(manifest, tmp_path):
    first = _train(INFECTION_BUNDLE, manifest, tmp_path / "first", epochs=1)
    other = _train(INFECTION_BUNDLE, manifest, tmp_path / "other", epochs=1, seed=1)
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^resume: .*none.pt is not a file"):
        run_resumable(None, {}, tmp_path, final={}, resume=tmp_path / "none.pt")
