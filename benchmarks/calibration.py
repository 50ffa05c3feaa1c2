"""Reliability of the infection probability on held-out slices, agreement by threshold, and opacity by threshold.

    python benchmarks/calibration.py COVID_SEMISEG --folds runs/cross_validation -o docs/results \
      --plot docs/images/calibration.png --scans VOLUMES

Needs the weights of `benchmarks/cross_validate.py`. Opacity of the scans is that of the shipped weights.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import numpy as np
import pandas as pd

from covsev.anatomy.lungs.segment import segment_lungs
from covsev.assessment import lung_model_for
from covsev.lesions.model import LesionModel, load_model
from covsev.lesions.picture import slice_probability
from covsev.lesions.volume import segment_lesions
from covsev.options import INFECTION_BUNDLE, Options
from covsev.scan import find_scans, load_scan
from covsev.training.data.folds import FOLDS
from covsev.training.data.manifests import load_datalist
from covsev.training.evaluation.calibration import (
    Slice,
    agreement_by_threshold,
    expected_calibration_error,
    plot_calibration,
    reliability,
)
from covsev.training.evaluation.evaluation import read_grey

THRESHOLDS = np.round(np.arange(0.1, 0.95, 0.05), 2).tolist()
SHOWN = (0.3, 0.4, 0.5, 0.6, 0.7)


def held_out_slices(dataset_dir: Path, manifest: str, folds: Path) -> list[Slice]:
    slices = []
    for fold in range(FOLDS):
        model = load_model(INFECTION_BUNDLE, checkpoint=folds / f"fold{fold}" / "model.pt", runtime="torch")
        for record in load_datalist(manifest, dataset_dir, fold=fold, part="validation"):
            probability = slice_probability(read_grey(record["image"]), model)[0]
            slices.append((probability, read_grey(record["infection"]) > 127))
    return slices


def opacity_by_threshold(scans: Path, model: LesionModel) -> pd.DataFrame:
    """Percentage of lung that is infected at each threshold, a row a scan."""
    rows = []
    for source in find_scans(scans):
        scan = load_scan(source)
        lungs = segment_lungs(scan, lung_model_for(Options())).labels
        inside = segment_lesions(scan, lungs, model).probability[lungs > 0]
        rows.append({"scan": scan.case} | {f"{t:g}": 100 * float((inside >= t).mean()) for t in SHOWN})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--folds", type=Path, required=True, help="output of cross_validate.py")
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    parser.add_argument("--scans", type=Path, help="scans whose opacity is shown by threshold")
    options = parser.parse_args()
    for folder in (options.output, options.plot.parent):
        folder.mkdir(parents=True, exist_ok=True)
    slices = held_out_slices(options.dataset_dir, options.manifest, options.folds)
    tables = {"reliability": reliability(slices), "threshold": agreement_by_threshold(slices, THRESHOLDS)}
    plot_calibration(tables["reliability"], tables["threshold"], options.plot)
    if options.scans:
        tables["opacity_by_threshold"] = opacity_by_threshold(options.scans, load_model(INFECTION_BUNDLE))
    for name, table in tables.items():
        table.to_csv(options.output / f"{name}.csv", index=False, float_format="%.4f")
        print(table.to_string(index=False, float_format="%.3f"))
    print(f"expected calibration error {expected_calibration_error(tables['reliability']):.4f}")


if __name__ == "__main__":
    main()
