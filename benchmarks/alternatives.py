"""What limits the networks on the held-out slices, and what other ways to use them would give.

    python benchmarks/alternatives.py COVID_SEMISEG --folds runs/cross_validation \
      [--lesion-folds runs/lesion_cross_validation]

Needs the weights of `benchmarks/cross_validate.py`. Prints, as mean Dice over all slices,

- at threshold 0.5: the network as it ships, its S_3 (that is, without its refinement), means over flips and over grids,
  and the shipped one if all errors within 3 pixels of the network's grid from the truth's border are forgiven;
- the truth itself, brought to a coarser grid and back: what a network that answers on that grid can reach;
- what a fixed grey threshold in place of the multi network gives at the bundle's own threshold;
- with the multi networks of the same folds: Dice by the least share of a slice that is called consolidation, and with
  the share chosen on other folds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from covsev.inference.slices import probabilities_at, resize_slices
from covsev.lesions.kinds import lesion_labels
from covsev.lesions.model import LesionModel, load_model
from covsev.lesions.picture import label_slice, slice_probability
from covsev.options import INFECTION_BUNDLE, LESION_BUNDLE
from covsev.training.data.folds import FOLDS
from covsev.training.data.manifests import load_datalist
from covsev.training.data.orientations import mean_over_orientations
from covsev.training.evaluation.evaluation import read_grey, read_labels
from covsev.training.evaluation.metrics import case_metrics, lesion_metrics

GRIDS = (256, 352)
ANSWER_GRIDS = (32, 64, 128)
BORDER_PX = 3
GREYS = (150, 170)
THRESHOLDS = np.arange(0.05, 1, 0.05)
SHARES = (0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01)
KINDS = ["ground_glass", "consolidation"]


def probabilities(model: LesionModel, grey: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Infection probability (H, W) of a slice, as it ships and by each alternative."""
    image = (grey.astype(np.float32) / np.float32(255))[None, None]
    size = (grey.shape[0], grey.shape[1])
    resized = model.preprocessing.resize(image)
    grids = [resize_slices(model.infection(resize_slices(image, (side, side))), size) for side in GRIDS]

    def infection(slices: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model.infection(slices.numpy()))

    turned = mean_over_orientations(infection, torch.from_numpy(resized))
    maps = {
        "as it ships": probabilities_at(size, model.infection(resized)),
        "mean over flips and turns": probabilities_at(size, turned.numpy()),
        "mean over grids": np.clip(np.mean(grids, axis=0), 0, 1),
    }
    return {name: found[0, 0] for name, found in maps.items()}


def on_coarser_grid(infected: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """The mask (H, W) on a grid of ``side`` x ``side``, and back."""
    coarse = resize_slices(infected.astype(np.float32)[None, None], (side, side))
    return probabilities_at((infected.shape[0], infected.shape[1]), coarse)[0, 0]


def without_border(found: NDArray[np.float32], infected: NDArray[np.bool_], width_px: float) -> NDArray[np.float32]:
    """``found`` (H, W) with the truth in its place within ``width_px`` of the truth's border."""
    outside, inside = (distance_transform_edt(part) for part in (~infected, infected))
    return np.where(outside + inside <= width_px, infected.astype(np.float32), found)


def without_refinement(checkpoint: Path) -> LesionModel:
    """The InfNet in a refined network: its answer is S_3."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    with TemporaryDirectory() as temporary:
        inner = Path(temporary) / "model.pt"
        torch.save({name: value for name, value in state.items() if not name.startswith("refinement.")}, inner)
        return load_model(INFECTION_BUNDLE, checkpoint=inner, network="network_infnet.yaml", runtime="torch")


def evaluate(model: LesionModel, coarse: LesionModel, record: Mapping[str, Any]) -> dict[str, float]:
    """Dice of one slice by each alternative; ``coarse`` is :func:`without_refinement`."""
    grey, kinds = read_grey(record["image"]), read_labels(record["lesions"])
    infected = read_grey(record["infection"]) > 127
    maps = probabilities(model, grey)
    shipped = maps["as it ships"]
    maps["S_3 of the same network"] = slice_probability(grey, coarse)[0]
    width_px = BORDER_PX * max(grey.shape) / max(model.preprocessing.network_size)
    maps["borders forgiven"] = without_border(shipped, infected, width_px)
    maps |= {f"the truth on {side} x {side}": on_coarser_grid(infected, side) for side in ANSWER_GRIDS}
    dice = {name: case_metrics(found, infected).dice for name, found in maps.items()}
    dice["best threshold of each slice"] = max(case_metrics(shipped, infected, threshold=t).dice for t in THRESHOLDS)
    for level in GREYS:
        labels = lesion_labels(shipped >= model.postprocessing.threshold, grey > level)
        apart = lesion_metrics(labels, kinds)
        dice |= {f"{kind} by grey above {level}": apart[kind].dice for kind in KINDS}
    return dice


def evaluate_shares(model: LesionModel, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Dice of one slice by the least share of it that is called consolidation, and without any bound."""
    usual = model.postprocessing
    bounds = {"network alone": usual.unbounded} | {
        f"{s:.4f}": replace(usual, min_consolidation_share=s) for s in SHARES
    }
    grey, reference = read_grey(record["image"]), read_labels(record["lesions"])
    probability = slice_probability(grey, model)
    for share, bounded in bounds.items():
        apart = lesion_metrics(label_slice(grey, probability, replace(model, postprocessing=bounded)), reference)
        yield {"share": share} | {kind: apart[kind].dice for kind in KINDS}


def chosen_elsewhere(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each fold with the share that is best for consolidation on all other folds."""
    parts = []
    for fold, own in table.groupby("fold"):
        best = table[table["fold"] != fold].groupby("share")["consolidation"].mean().idxmax()
        parts.append(own[own["share"] == best])
    return pd.concat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--folds", type=Path, required=True, help="output of cross_validate.py")
    parser.add_argument("--lesion-folds", type=Path, help="output of cross_validate.py for the multi network")
    parser.add_argument("--manifest", default="covid_semiseg")
    options = parser.parse_args()
    rows, by_share = [], []
    for fold in range(FOLDS):
        single = options.folds / f"fold{fold}" / "model.pt"
        model = load_model(INFECTION_BUNDLE, checkpoint=single, runtime="torch")
        records = load_datalist(options.manifest, options.dataset_dir, fold=fold, part="validation")
        coarse = without_refinement(single)
        rows += [{"fold": fold} | evaluate(model, coarse, record) for record in records]
        if options.lesion_folds:
            own = options.lesion_folds / f"fold{fold}" / "model.pt"
            multi = load_model(LESION_BUNDLE, checkpoint=own, prior_checkpoint=single, runtime="torch")
            by_share += [{"fold": fold} | row for record in records for row in evaluate_shares(multi, record)]
    by_fold = pd.DataFrame(rows).groupby("fold").mean().T
    by_fold["all slices"] = pd.DataFrame(rows).drop(columns="fold").mean()
    print(by_fold.to_string(float_format="%.3f"))
    if by_share:
        table = pd.DataFrame(by_share)
        print(table.groupby("share")[KINDS].mean().to_string(float_format="%.3f"))
        print("share chosen on the other folds", chosen_elsewhere(table)[KINDS].mean().round(3).to_dict())


if __name__ == "__main__":
    main()
