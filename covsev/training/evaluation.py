"""How well a bundle's network does on labelled slices, by the path that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from covsev.lesion_model import LesionModel
from covsev.lesions import segment_slice, slice_probability
from covsev.training.metrics import CaseMetrics, case_metrics, legacy_infnet, lesion_metrics, write_metrics


def evaluate_slices(
    model: LesionModel, records: Sequence[Mapping[str, Any]], *, true_prior: bool = False
) -> dict[str, dict[str, CaseMetrics]]:
    """Metrics on every slice, at the slice's own size.

    Args:
        model: see :func:`covsev.lesion_model.load_model`; its threshold is used.
        records: of :func:`covsev.training.manifests.load_datalist`.
        true_prior: give a multi network the radiologist's infection mask as prior.

    Returns:
        for each image's name: of a single network ``infection`` at the model's threshold and
        ``infection_legacy`` by the protocol of the public Inf-Net evaluation; of a multi network
        ``infection``, ``ground_glass`` and ``consolidation``.
    """
    evaluate = _infection if model.prior is None else partial(_lesions, true_prior=true_prior)
    return {Path(record["image"]).name: evaluate(model, record) for record in records}


def _infection(model: LesionModel, record: Mapping[str, Any]) -> dict[str, CaseMetrics]:
    reference = read_grey(record["infection"]) > 127
    probability = slice_probability(read_grey(record["image"]), model)[0]
    return {
        "infection": case_metrics(probability, reference, threshold=model.postprocessing.threshold),
        "infection_legacy": legacy_infnet(probability, reference),
    }


def _lesions(model: LesionModel, record: Mapping[str, Any], *, true_prior: bool) -> dict[str, CaseMetrics]:
    with Image.open(record["lesions"]) as image:
        reference = np.asarray(image)
    prior = reference > 0 if true_prior else None
    return lesion_metrics(segment_slice(read_grey(record["image"]), model, prior=prior), reference)


def evaluate_to_csv(
    model: LesionModel, records: Sequence[Mapping[str, Any]], output_dir: str | Path, *, true_prior: bool = False
) -> pd.DataFrame:
    """Evaluate, write ``metrics.csv`` into ``output_dir`` and print its summary; returns the table.

    Args:
        model, records, true_prior: see :func:`evaluate_slices`.
        output_dir: made if it does not exist.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    groups = {Path(record["image"]).name: record["group"] for record in records}
    cases = evaluate_slices(model, records, true_prior=true_prior)
    table = write_metrics(folder / "metrics.csv", cases, groups=groups)
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
