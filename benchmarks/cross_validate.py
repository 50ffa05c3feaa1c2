"""Train a bundle's recipe on every fold of a manifest and print the metrics on the held-out slices.

    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/cross_validation

Takes about an hour on two cores. A fold whose model.pt exists is not trained again, so the command can be stopped
and started. Writes metrics.csv (a row a slice) and prints mean, SD and bootstrap interval over all slices.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from covsev.lesion_model import load_model
from covsev.options import INFECTION_BUNDLE
from covsev.training.evaluation import evaluate_records, groups_of, print_summary
from covsev.training.folds import FOLDS
from covsev.training.manifests import load_datalist
from covsev.training.metrics import write_metrics


def train(bundle: Path, manifest: str, dataset_dir: Path, output_dir: Path, fold: int) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "train.yaml")]
    settings = {"dataset_dir": dataset_dir, "output_dir": output_dir, "manifest": manifest, "fold": fold}
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=INFECTION_BUNDLE)
    parser.add_argument("--manifest", default="covid_semiseg")
    options = parser.parse_args()
    cases, groups = {}, {}
    for fold in range(FOLDS):
        folder = options.output / f"fold{fold}"
        if not (folder / "model.pt").is_file():
            train(options.bundle, options.manifest, options.dataset_dir, folder, fold)
        records = load_datalist(options.manifest, options.dataset_dir, fold=fold, part="validation")
        model = load_model(options.bundle, checkpoint=folder / "model.pt")
        cases |= evaluate_records(model, records)
        groups |= groups_of(records)
    print_summary(write_metrics(options.output / "metrics.csv", cases, groups=groups))


if __name__ == "__main__":
    main()
