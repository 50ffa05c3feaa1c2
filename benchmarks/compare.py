"""Train the paper's variants on the folds of a manifest, evaluate them and store their metrics.

    python benchmarks/compare.py COVID_SEMISEG -o runs/compare --metrics docs/results/comparison

Every variant gets the same schedule, scaled down to hours on two cores. What is trained already is not trained again,
so the command can be stopped and started, and more folds can follow. `python benchmarks/results.py` makes the tables.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import pandas as pd

from covsev.bundle_run import run_configs
from covsev.options import INFECTION_BUNDLE, LESION_BUNDLE
from covsev.training.data.folds import FOLDS
from covsev.training.evaluation.variants import MULTI, SINGLE, VARIANTS, Variant

BUNDLES = {SINGLE: INFECTION_BUNDLE, MULTI: LESION_BUNDLE}
UNBOUNDED = {"model#postprocessing": "$@postprocessing.unbounded"}  # the networks alone are compared


@dataclass(frozen=True)
class Run:
    """What all variants have in common."""

    dataset_dir: Path
    output: Path
    manifest: str
    epochs: int
    size: int
    pretraining_epochs: int

    def folder(self, stage: str, variant: Variant, fold: int) -> Path:
        return self.output / stage / variant.id / f"fold{fold}"

    def shared(self, output_dir: Path) -> dict[str, Any]:
        names = {"dataset_dir": self.dataset_dir, "output_dir": output_dir, "manifest": self.manifest}
        return names | {"network_size": [self.size, self.size]}


def pretrain(run: Run) -> Path:
    """The coach game over the unlabelled slices alone, so that all folds share it."""
    folder = run.output / "pretrain"
    if not (folder / "inpainter.pt").is_file():
        settings = {"total_epochs": run.pretraining_epochs, "datalist": "$@slicing(@unlabelled)"}
        run_configs([BUNDLES[SINGLE] / "configs" / "pretrain.yaml"], run.shared(folder) | settings)
    return folder / "inpainter.pt"


def train(run: Run, stage: str, variant: Variant, fold: int) -> Path:
    """Weights of a variant for a fold, trained if they are not there."""
    folder = run.folder(stage, variant, fold)
    if (folder / "model.pt").is_file():
        return folder / "model.pt"
    configs = BUNDLES[stage] / "configs"
    settings = run.shared(folder) | {"fold": fold} | dict(variant.settings)
    if variant.semi is not None:
        start = train(run, stage, by_id(variant.semi), fold)
        run_configs([configs / "semi_train.yaml", *network_of(stage, variant)], settings | {"start": start})
        return folder / "model.pt"
    settings |= {"epochs": run.epochs} | prior_of(run, stage, variant, fold)
    if variant.pretrained:
        settings["pretrained"] = pretrain(run)
    run_configs([configs / "train.yaml", *network_of(stage, variant)], settings)
    return folder / "model.pt"


def evaluate(run: Run, stage: str, variant: Variant, fold: int, *, true_prior: bool) -> pd.DataFrame:
    """Metrics of a variant on a fold's held-out slices, a row a slice."""
    checkpoint = train(run, stage, variant, fold)
    folder = checkpoint.parent / ("true_prior" if true_prior else "evaluation")
    if not (folder / "metrics.csv").is_file():
        settings = run.shared(folder) | {"fold": fold, "checkpoint": checkpoint, "threshold": 0.5}
        settings |= prior_of(run, stage, variant, fold) | UNBOUNDED
        if true_prior:
            settings["true_prior"] = True
        configs = BUNDLES[stage] / "configs"
        run_configs([configs / "inference.yaml", *network_of(stage, variant), configs / "evaluate.yaml"], settings)
    table = pd.read_csv(folder / "metrics.csv")
    return table[table["row"] == "case"]


def by_id(variant_id: str) -> Variant:
    return next(variant for variant in VARIANTS if variant.id == variant_id)


def prior_of(run: Run, stage: str, variant: Variant, fold: int) -> dict[str, Any]:
    """The settings that name a multi network's prior, from the same fold; nothing for a single network."""
    if stage == SINGLE:
        return {}
    single = by_id(variant.prior) if variant.prior else variant
    settings: dict[str, Any] = {"prior_checkpoint": train(run, SINGLE, single, fold)}
    return settings | ({"prior_network": single.networks[SINGLE]} if SINGLE in single.networks else {})


def network_of(stage: str, variant: Variant) -> list[Path]:
    return [BUNDLES[stage] / "configs" / variant.networks[stage]] if stage in variant.networks else []


def store(table: pd.DataFrame, path: Path) -> None:
    """Write rows of slices, keeping those of other slices that the file has."""
    if path.is_file():
        kept = pd.read_csv(path)
        table = pd.concat([kept[~kept["name"].isin(table["name"])], table])
    table.to_csv(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="weights")
    parser.add_argument("--metrics", type=Path, required=True, help="where the metrics are stored, a file a variant")
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument("--variants", nargs="+", choices=[v.id for v in VARIANTS], default=[v.id for v in VARIANTS])
    parser.add_argument("--stages", nargs="+", choices=[SINGLE, MULTI], default=[SINGLE, MULTI])
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=128, help="side of the network's grid")
    parser.add_argument("--pretraining-epochs", type=int, default=12)
    options = parser.parse_args()
    names = ("dataset_dir", "output", "manifest", "epochs", "size", "pretraining_epochs")
    run = Run(**{name: getattr(options, name) for name in names})
    options.metrics.mkdir(parents=True, exist_ok=True)
    for stage in options.stages:
        for variant in (by_id(name) for name in options.variants if stage in by_id(name).stages):
            for true_prior in (False, True) if stage == MULTI else (False,):
                tables = [evaluate(run, stage, variant, fold, true_prior=true_prior) for fold in options.folds]
                stem = f"{stage}_true_prior" if true_prior else stage
                store(pd.concat(tables), options.metrics / f"{stem}_{variant.id}.csv")


if __name__ == "__main__":
    main()
