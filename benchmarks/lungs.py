"""Train the lung network on every fold of scans with lung masks, and measure the lungs of the held-out scans.

    python benchmarks/lungs.py LABELLED_SCANS -o runs/lungs

What has a model.pt is not trained again, so a command can be stopped and started. Some 10 minutes a fold on two cores.
The lungs are those of `covsev severity`: network, airways, sides, borders, disease at the border. Prints a row a scan
and the means, and the means of the threshold alone on the same scans, and writes lungs.csv and lungs_threshold.csv; see
covsev.training.evaluation.lungs for the columns.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import pandas as pd

from covsev.anatomy.lungs.model import load_lung_model
from covsev.bundle_run import run_configs
from covsev.lesions.model import load_model
from covsev.options import INFECTION_BUNDLE, LUNG_BUNDLE
from covsev.training.data.manifests import load_datalist
from covsev.training.data.volume_layout import LUNG_FOLDS
from covsev.training.evaluation.lungs import evaluate_lungs, summarise_lungs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--manifest", default="labelled_lungs")
    parser.add_argument("--folds", type=int, nargs="+", default=range(LUNG_FOLDS))
    parser.add_argument("--no-threshold", action="store_true", help="leave the threshold alone out")
    options = parser.parse_args(arguments)
    roads: dict[str, list[pd.DataFrame]] = {"lungs": [], "lungs_threshold": []}
    infection = load_model(INFECTION_BUNDLE)  # it has seen none of the scans
    for fold in options.folds:
        folder = options.output / f"fold{fold}"
        if not (folder / "model.pt").is_file():
            data = {"dataset_dir": options.dataset_dir, "manifest": options.manifest, "fold": fold}
            run_configs([LUNG_BUNDLE / "configs" / "train.yaml"], {**data, "output_dir": folder})
        model = load_lung_model(LUNG_BUNDLE, checkpoint=folder / "model.pt")
        records = load_datalist(options.manifest, options.dataset_dir, fold=fold, part="validation")
        roads["lungs"].append(evaluate_lungs(model, records, infection))
        print(roads["lungs"][-1].to_string(index=False, float_format="%.4f"), flush=True)
        if not options.no_threshold:
            roads["lungs_threshold"].append(evaluate_lungs(None, records))
    for name, tables in roads.items():
        if tables:
            table = pd.concat(tables)
            table.to_csv(options.output / f"{name}.csv", index=False, float_format="%.6g")
            print(f"{name}: {summarise_lungs(table)}")


if __name__ == "__main__":
    main()
