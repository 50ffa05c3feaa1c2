"""Does pretraining by the coach game help fine-tuning from its start? Training loss of short runs, epoch by epoch.

    python benchmarks/pretraining.py COVID_SEMISEG --inpainter runs/pretrain/inpainter.pt [--seeds 0 1 2 3 4]

Trains the single network of fold 0 by train.yaml on a small grid without augmentation, from random weights, from the
inpainter of pretrain.yaml and from ImageNet, with the same seeds. Prints the loss of every epoch, mean over the seeds,
and in how many of the seeds the run from the inpainter lies below the run from random weights.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import pandas as pd
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from covsev.options import INFECTION_BUNDLE

RANDOM, PRETRAINED, IMAGENET = "random", "coach game", "ImageNet"


def starts(inpainter: Path) -> dict[str, dict[str, Any]]:
    """Overrides of train.yaml by what a run starts from."""
    return {
        RANDOM: {"initial_network#_target_": "covsev.training.pretraining.pretrained.from_scratch"},
        PRETRAINED: {"pretrained": str(inpainter)},
        IMAGENET: {},
    }


def epoch_losses(settings: Mapping[str, Any]) -> list[float]:
    """Mean training loss of each epoch of a run of train.yaml with these overrides."""
    configs = INFECTION_BUNDLE / "configs"
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as output:
        workflow = ConfigWorkflow(
            config_file=str(configs / "train.yaml"),
            workflow_type="train",
            logging_file=str(configs / "logging.conf"),
            output_dir=output,
            **settings,
        )
        workflow.initialize()
        trainer: Engine = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: losses.append(engine.state.metrics["loss"]))
        workflow.run()
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--inpainter", type=Path, required=True, help="inpainter.pt of a run of pretrain.yaml")
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="side of the network's grid")
    parser.add_argument("--batch-size", type=int, default=1, help="slices a step")
    options = parser.parse_args()
    shared = {
        "dataset_dir": str(options.dataset_dir),
        "manifest": options.manifest,
        "fold": 0,
        "epochs": options.epochs,
        "network_size": [options.size, options.size],
        "batch_size": options.batch_size,
        "augment": False,
    }
    rows = [
        {"start": start, "seed": seed, **dict(enumerate(epoch_losses({**shared, **overrides, "seed": seed}), 1))}
        for seed in options.seeds
        for start, overrides in starts(options.inpainter).items()
    ]
    table = pd.DataFrame(rows).set_index(["start", "seed"])
    print(table.groupby("start", sort=False).mean().to_string(float_format="%.3f"))
    below = table.loc[PRETRAINED] < table.loc[RANDOM]
    print(f"{PRETRAINED} below {RANDOM} in", ", ".join(f"{n} of {len(below)}" for n in below.sum()), "seeds, by epoch")


if __name__ == "__main__":
    main()
