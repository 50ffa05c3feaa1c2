"""How well a bundle's network does on labelled slices and volumes, by the path that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from covsev.lesions.model import LesionModel
from covsev.lesions.picture import segment_slice, slice_probability
from covsev.lesions.volume import segment_lesions
from covsev.training.data.records import Record, stem_of
from covsev.training.data.volumes import LabelledVolume, VolumeSlicing, is_picture, lungs_of
from covsev.training.evaluation.metrics import CaseMetrics, case_metrics, legacy_infnet, lesion_metrics, write_metrics

LEGACY = "infection_legacy"
"""Name of the metrics by the protocol of the public Inf-Net evaluation; only for comparison with published numbers."""


def evaluate_records(
    model: LesionModel, records: Sequence[Record], *, true_prior: bool = False
) -> dict[str, dict[str, CaseMetrics]]:
    """Metrics of every slice at its own size, and of every volume as a whole, by the path that serves them.

    Args:
        model: see :func:`covsev.lesions.model.load_model`; its threshold is used.
        records: of :func:`covsev.training.data.manifests.load_datalist`; slices, slices of a stack, or volumes.
        true_prior: give a multi network the radiologist's infection mask as prior; for slices only.

    Returns:
        for each image's name: of a single network ``infection`` at the model's threshold and, if there are only
        slices, ``infection_legacy`` by the protocol of the public Inf-Net evaluation; of a multi network ``infection``,
        ``ground_glass`` and ``consolidation``.

    Raises:
        ValueError: if ``true_prior`` is asked of a single network or for a volume, or a record lacks the labels that
            are needed.
    """
    cut = VolumeSlicing(model.preprocessing.hu_window, model.preprocessing.crop_margin_mm or 0.0)
    kind = "infection" if model.prior is None else "lesions"
    volumes = [record for record in records if not (is_picture(record) or "slice" in record)]
    if volumes and true_prior:
        raise ValueError(f"{volumes[0]['image']}: the true prior is for slices, and this is a volume")
    if true_prior and model.prior is None:
        raise ValueError(f"{model.name}: the true prior is for a multi network, and this is a single one")
    # Slices in one call, so that a stack is read once for all of them; volumes one by one, since each is large.
    slices = [record for record in records if record not in volumes]
    cases = {}
    for record, item in zip(slices, cut(slices), strict=True):
        if kind not in item:
            raise ValueError(f"{record['image']}: it has no {kind} labels to compare with")
        cases[_name(record)] = _slice_metrics(model, item, true_prior)
    for record in volumes:
        cases[_name(record)] = _volume_metrics(model, cut.load(record), kind)
    if volumes:  # volumes have no legacy protocol, and a table has the same metrics for all
        cases = {name: {key: m for key, m in case.items() if key != LEGACY} for name, case in cases.items()}
    return cases


def _name(record: Record) -> str:
    path = Path(record["image"])
    # The slices of a stack share a file, so its name alone would not tell them apart.
    return f"{stem_of(path)}_{record['slice']:04d}" if "slice" in record else path.name


def _slice_metrics(model: LesionModel, record: Record, true_prior: bool) -> dict[str, CaseMetrics]:
    grey = read_grey(record["image"])
    if model.prior is not None:
        reference = read_labels(record["lesions"])
        prior = reference > 0 if true_prior else None
        return lesion_metrics(segment_slice(grey, model, prior=prior), reference)
    infected = read_grey(record["infection"]) > 127  # JPG masks are not pure black and white
    probability = slice_probability(grey, model)[0]
    return {
        "infection": case_metrics(probability, infected, threshold=model.postprocessing.threshold),
        LEGACY: legacy_infnet(probability, infected),
    }


def _volume_metrics(model: LesionModel, volume: LabelledVolume, kind: str) -> dict[str, CaseMetrics]:
    if kind not in volume.labels:
        raise ValueError(f"{volume.scan.source}: it has no {kind} labels to compare with")
    lungs = lungs_of(volume).astype(np.uint8)
    # The lungs of the record, where it has them: errors of the lungs are not the network's.
    found = segment_lesions(volume.scan, lungs, model)
    if model.prior is not None:
        return lesion_metrics(found.labels, volume.labels["lesions"])
    return {"infection": case_metrics(found.labels > 0, volume.labels["infection"])}


def evaluate_to_csv(
    model: LesionModel, records: Sequence[Mapping[str, Any]], output_dir: str | Path, *, true_prior: bool = False
) -> pd.DataFrame:
    """Evaluate, write ``metrics.csv`` into ``output_dir`` and print its summary; returns the table.

    Args:
        model, records, true_prior: see :func:`evaluate_records`.
        output_dir: made if it does not exist.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    cases = evaluate_records(model, records, true_prior=true_prior)
    table = write_metrics(folder / "metrics.csv", cases, groups=groups_of(records))
    print_summary(table)
    return table


def groups_of(records: Sequence[Record]) -> dict[str, Any]:
    """The patient of each record, by the name that :func:`evaluate_records` gives it."""
    return {_name(record): record["group"] for record in records}


def print_summary(table: pd.DataFrame) -> None:
    """Print the statistics of a metrics table, one row a metric."""
    summary = table[table["row"] == "summary"].drop(columns="row").set_index("name")
    print(summary.transpose().to_string(float_format="%.4f"))


def read_grey(picture: str | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A PNG or JPG file as 8-bit grey (H, W); an array is returned as it is."""
    if isinstance(picture, np.ndarray):
        return picture
    with Image.open(picture) as image:
        return np.asarray(image.convert("L"))


def read_labels(picture: str | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A PNG file's label numbers (H, W), of palette images too; an array is returned as it is."""
    if isinstance(picture, np.ndarray):
        return picture
    with Image.open(picture) as image:
        return np.asarray(image)  # a palette image gives its numbers, not its colours
