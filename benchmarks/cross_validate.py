"""Train a bundle's recipe on every fold of a manifest and print the metrics on the held-out slices.

    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/cross_validation
    python benchmarks/cross_validate.py COVID_SEMISEG -o runs/lesion_cross_validation \
      --bundle bundles/covid_lesion_ct_segmentation --prior runs/cross_validation

The first is the single network, about an hour and a half on one core. The second is the multi network, whose start and
prior is the single network of the same fold. What has a model.pt is not trained again, so a command can be stopped and
started. Writes a row a slice to metrics.csv, with those options to metrics_unbounded_true_prior.csv, and prints mean,
SD and bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

from covsev.bundle_run import run_configs
from covsev.inference.runtime import RUNTIMES
from covsev.lesions.model import load_model
from covsev.options import INFECTION_BUNDLE
from covsev.training.data.folds import FOLDS
from covsev.training.data.manifests import load_datalist
from covsev.training.evaluation.evaluation import evaluate_records, groups_of, print_summary
from covsev.training.evaluation.metrics import write_metrics

OF_SINGLE = "network_infnet.yaml"  # the bundle of the single network has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=INFECTION_BUNDLE)
    parser.add_argument("--prior", type=Path, help="output of this command for the single network, for the multi one")
    parser.add_argument("--true-prior", action="store_true", help="evaluate with the radiologist's mask as prior")
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="torch", help="what runs the networks that are evaluated"
    )
    parser.add_argument("--unbounded", action="store_true", help="consolidation as the multi network alone divides it")
    options = parser.parse_args()
    if (options.prior is None) != (options.bundle / "configs" / OF_SINGLE).is_file():
        parser.error("--prior is for the bundle of the multi network, which needs it")
    if options.prior is None and (options.true_prior or options.unbounded):
        parser.error("--true-prior and --unbounded are for the multi network")
    cases, groups = {}, {}
    for fold in range(FOLDS):
        folder = options.output / f"fold{fold}"
        prior = options.prior and options.prior / f"fold{fold}"
        if not (folder / "model.pt").is_file():
            start = {"pretrained": prior / "model.pt", "prior_checkpoint": prior / "model.pt"} if prior else {}
            train = {"dataset_dir": options.dataset_dir, "manifest": options.manifest, "output_dir": folder}
            run_configs([options.bundle / "configs" / "train.yaml"], {**train, "fold": fold, **start})
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
    name = "metrics" + "_unbounded" * options.unbounded + "_true_prior" * options.true_prior
    print_summary(write_metrics(options.output / f"{name}.csv", cases, groups=groups))


if __name__ == "__main__":
    main()
