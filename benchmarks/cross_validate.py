"""Train a bundle's recipe on every fold of a manifest and print the metrics on the held-out slices.

    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/cross_validation
    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/lesion_cross_validation \
      --bundle bundles/covid_lesion_ct_segmentation --prior runs/cross_validation

The first is the single network, each fold in two steps: InfNet (fold<n>/infnet), then with its refinement from there.
It takes four hours on two cores. The second is the multi network, which is trained with the InfNet of the same fold as
start and prior, and tested with the refined one as prior; one hour. What has a model.pt is not trained again, so a
command can be stopped and started. Writes metrics.csv, a row a slice, and prints mean, SD and bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

from covsev.bundle_run import run_configs
from covsev.lesion_model import load_model
from covsev.options import INFECTION_BUNDLE
from covsev.runtime import RUNTIMES
from covsev.training.evaluation import evaluate_records, groups_of, print_summary
from covsev.training.folds import FOLDS
from covsev.training.manifests import load_datalist
from covsev.training.metrics import write_metrics

INFNET = "network_infnet.yaml"
REFINEMENT_EPOCHS = 40


def train_refined(bundle: Path, folder: Path, settings: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """The single network: InfNet into ``folder/infnet``, then the refined InfNet from there into ``folder``.

    Args:
        settings: of both.
        first: further settings of the first training.
    """
    configs, infnet = bundle / "configs", folder / "infnet"
    if not (infnet / "model.pt").is_file():
        run_configs(
            [bundle / "configs" / "train.yaml", bundle / "configs" / INFNET],
            {**settings, "output_dir": infnet, **first},
        )
    start = {"pretrained": infnet / "model.pt", "epochs": REFINEMENT_EPOCHS}
    run_configs([configs / "train.yaml"], {**settings, "output_dir": folder, **start})


def train_multi(bundle: Path, folder: Path, settings: Mapping[str, Any], prior: Path) -> None:
    """The multi network into ``folder``, with the InfNet in ``prior/infnet`` as its start and its prior in training."""
    infnet = prior / "infnet" / "model.pt"
    start = {"pretrained": infnet, "prior_checkpoint": infnet, "prior_network": INFNET}
    run_configs([bundle / "configs" / "train.yaml"], {**settings, "output_dir": folder, **start})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=INFECTION_BUNDLE)
    parser.add_argument("--prior", type=Path, help="output of this command for the single network, for the multi one")
    parser.add_argument("--true-prior", action="store_true", help="evaluate with the radiologist's mask as prior")
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument("--uninfected-dir", type=Path, help="volumes without infection for the first training")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="torch", help="what runs the networks that are evaluated"
    )
    parser.add_argument("--unbounded", action="store_true", help="consolidation as the multi network alone divides it")
    options = parser.parse_args()
    if (options.prior is None) != (options.bundle / "configs" / INFNET).is_file():
        parser.error("--prior is for the bundle of the multi network, which needs it")
    if options.prior and options.uninfected_dir:
        parser.error("--uninfected-dir is for the single network")
    cases, groups = {}, {}
    for fold in range(FOLDS):
        folder = options.output / f"fold{fold}"
        prior = options.prior and options.prior / f"fold{fold}"
        if not (folder / "model.pt").is_file():
            settings = {"dataset_dir": options.dataset_dir, "manifest": options.manifest, "fold": fold}
            first = {"uninfected_dir": options.uninfected_dir} if options.uninfected_dir else {}
            if prior:
                train_multi(options.bundle, folder, settings, prior)
            else:
                train_refined(options.bundle, folder, settings, first)
        records = load_datalist(options.manifest, options.dataset_dir, fold=fold, part="validation")
        model = load_model(
            options.bundle,
            checkpoint=folder / "model.pt",
            prior_checkpoint=prior and prior / "model.pt",
            runtime=options.runtime,
        )
        if options.unbounded:
            model = replace(model, postprocessing=model.postprocessing.unbounded)
        cases |= evaluate_records(model, records, true_prior=options.true_prior)
        groups |= groups_of(records)
    name = "metrics_true_prior.csv" if options.true_prior else "metrics.csv"
    print_summary(write_metrics(options.output / name, cases, groups=groups))


if __name__ == "__main__":
    main()
