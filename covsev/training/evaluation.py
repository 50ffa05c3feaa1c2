"""How well a bundle's network does on labelled slices, by the path that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from covsev.lesion_model import LesionModel
from covsev.lesions import slice_probability
from covsev.training.metrics import CaseMetrics, case_metrics, legacy_infnet, write_metrics


def evaluate_slices(model: LesionModel, records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, CaseMetrics]]:
    """Metrics of the infection mask on every slice, at the slice's own size.

    Args:
        model: see :func:`covsev.lesion_model.load_model`; its threshold is used.
        records: of :func:`covsev.training.manifests.load_datalist`.

    Returns:
        for each image's name, ``infection`` at the model's threshold and ``infection_legacy`` by the
        protocol of the public Inf-Net evaluation.
    """
    cases = {}
    for record in records:
        grey, reference = read_grey(record["image"]), read_grey(record["infection"]) > 127
        probability = slice_probability(grey, model)[0]
        cases[Path(record["image"]).name] = {
            "infection": case_metrics(probability, reference, threshold=model.postprocessing.threshold),
            "infection_legacy": legacy_infnet(probability, reference),
        }
    return cases


def evaluate_to_csv(model: LesionModel, records: Sequence[Mapping[str, Any]], output_dir: str | Path) -> pd.DataFrame:
    """Evaluate, write ``metrics.csv`` into ``output_dir`` and print its summary; returns the table."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    groups = {Path(record["image"]).name: record["group"] for record in records}
    table = write_metrics(folder / "metrics.csv", evaluate_slices(model, records), groups=groups)
    print_summary(table)
    return table


def print_summary(table: pd.DataFrame) -> None:
    """Print the statistics of a metrics table, one row a metric."""
    summary = table[table["row"] == "summary"].drop(columns="row").set_index("name")
    print(summary.transpose().to_string(float_format="%.4f"))


def read_grey(path: str | Path) -> NDArray[np.uint8]:
    """An image file as 8-bit grey (H, W)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))
