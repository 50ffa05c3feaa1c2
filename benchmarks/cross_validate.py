"""Train a bundle's recipe on every fold of a manifest and print the metrics on the held-out slices.

    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/cross_validation
    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/lesion_cross_validation \
      --bundle bundles/covid_lesion_ct_segmentation --prior runs/cross_validation

The second is the multi network, whose prior and start are the single networks of the same folds. Each takes about an
hour on two cores. A fold whose model.pt exists is not trained again, so the command can be stopped
and started. Writes metrics.csv (a row a slice) and prints mean, SD and bootstrap interval over all slices.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

from covsev.lesion_model import load_model
from covsev.options import INFECTION_BUNDLE
from covsev.runtime import RUNTIMES
from covsev.training.evaluation import evaluate_records, groups_of, print_summary
from covsev.training.folds import FOLDS
from covsev.training.manifests import load_datalist
from covsev.training.metrics import write_metrics


def train(bundle: Path, settings: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "train.yaml")]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=INFECTION_BUNDLE)
    parser.add_argument("--prior", type=Path, help="output of this command for the single network, for the multi one")
    parser.add_argument("--true-prior", action="store_true", help="evaluate with the radiologist's mask as prior")
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument("--uninfected-dir", type=Path, help="volumes without infection to train on too, see train.yaml")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="torch", help="what runs the networks that are evaluated"
    )
    parser.add_argument("--unbounded", action="store_true", help="consolidation as the multi network alone divides it")
    options = parser.parse_args()
    cases, groups = {}, {}
    for fold in range(FOLDS):
        folder = options.output / f"fold{fold}"
        prior = options.prior and options.prior / f"fold{fold}" / "model.pt"
        if not (folder / "model.pt").is_file():
            settings = {"dataset_dir": options.dataset_dir, "output_dir": folder, "manifest": options.manifest}
            if options.uninfected_dir:
                settings["uninfected_dir"] = options.uninfected_dir
            train(
                options.bundle,
                settings | {"fold": fold} | ({"prior_checkpoint": prior, "pretrained": prior} if prior else {}),
            )
        records = load_datalist(options.manifest, options.dataset_dir, fold=fold, part="validation")
        model = load_model(
            options.bundle, checkpoint=folder / "model.pt", prior_checkpoint=prior, runtime=options.runtime
        )
        if options.unbounded:
            model = replace(model, postprocessing=model.postprocessing.unbounded)
        cases |= evaluate_records(model, records, true_prior=options.true_prior)
        groups |= groups_of(records)
    name = "metrics_true_prior.csv" if options.true_prior else "metrics.csv"
    print_summary(write_metrics(options.output / name, cases, groups=groups))


if __name__ == "__main__":
    main()
