"""How well lungs agree with those that radiologists drew, and what of the lesion they keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from covsev.anatomy.lungs.model import LungModel
from covsev.anatomy.lungs.segment import LungSegmentation, segment_lungs
from covsev.lesions.model import LesionModel
from covsev.lesions.volume import segment_lesions
from covsev.scan import Scan, load_scan, read_labels
from covsev.training.data.lung_slices import NOT_LABELLED
from covsev.training.data.records import Record

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LungAgreement:
    """One scan's lungs against the radiologists'.

    Attributes:
        dice: overlap of both masks.
        kept_pct: share of the lesion within the radiologists' lungs that lies in ours; ``None`` without lesion.
        true_share_pct: that lesion, in percent of their lungs.
        share_pct: what of their lesion lies in our lungs, in percent of our lungs.
    """

    dice: float
    kept_pct: float | None = None
    true_share_pct: float | None = None
    share_pct: float | None = None


def lung_agreement(lungs: Mask, truth: Mask, lesions: Mask | None = None) -> LungAgreement:
    """Agreement of two lung masks, and of the infected share in both.

    Args:
        lungs, truth: of any one shape; at least one is not empty.
        lesions: the radiologists' lesion. What they drew beyond their lungs no mask can keep, so it does not count.

    Raises:
        ValueError: if both masks are empty.

    >>> truth = np.array([1, 1, 1, 1, 0], bool)
    >>> lungs = np.array([0, 1, 1, 1, 0], bool)
    >>> lesions = np.array([1, 1, 0, 0, 0], bool)
    >>> lung_agreement(lungs, truth, lesions)
    LungAgreement(dice=0.8571428571428571, kept_pct=50.0, true_share_pct=50.0, share_pct=33.333333333333336)
    """
    voxels, true_voxels = int(np.count_nonzero(lungs)), int(np.count_nonzero(truth))
    if voxels + true_voxels == 0:
        raise ValueError("neither mask holds lung, so there is nothing to compare")
    dice = 2 * int(np.count_nonzero(lungs & truth)) / (voxels + true_voxels)
    inside = None if lesions is None else lesions & truth
    if inside is None or not inside.any():
        return LungAgreement(dice)
    lesion, kept = int(np.count_nonzero(inside)), int(np.count_nonzero(inside & lungs))
    share_pct = 100 * kept / voxels if voxels else 0.0
    return LungAgreement(dice, 100 * kept / lesion, 100 * lesion / true_voxels, share_pct)


def evaluate_lungs(
    model: LungModel | None, records: Sequence[Record], infection: LesionModel | None = None
) -> pd.DataFrame:
    """A row a scan: ``case``, ``fold``, and the fields of :class:`LungAgreement`.

    Slices in which nobody drew the lungs are left out. With both models the lungs are those of ``covsev severity``:
    airways, sides, borders, and disease at the border included.

    Args:
        model: of the lungs; ``None`` measures the threshold alone.
        infection: the single network, for disease at the border; without it, there is none.
        records: of :func:`covsev.training.data.manifests.load_datalist`, with ``image``, ``lungs``, and ``lesions`` or
            ``infection`` where there are any.
    """
    rows = []
    for record in records:
        scan = load_scan(record["image"])
        drawn = read_labels(Path(record["lungs"]))[0]
        labelled = ~(drawn == NOT_LABELLED).any(axis=(0, 1))
        path = record.get("lesions", record.get("infection"))
        lesions = None
        if path is not None:
            lesions = read_labels(Path(path))[0][:, :, labelled] > 0
        lungs = lungs_as_assessed(scan, model, infection).labels[:, :, labelled] > 0
        found = lung_agreement(lungs, drawn[:, :, labelled] == 1, lesions)
        rows.append({"case": scan.case, "fold": record.get("fold"), **asdict(found)})
    return pd.DataFrame(rows)


def lungs_as_assessed(scan: Scan, model: LungModel | None, infection: LesionModel | None = None) -> LungSegmentation:
    """The lungs as :func:`covsev.assess` has them; arguments as of :func:`evaluate_lungs`."""
    found = segment_lungs(scan, model)
    if infection is None or found.possible is None:
        return found
    lesions = segment_lesions(scan, found.labels, infection, keep_probability=False, possible=found.possible)
    return found.with_disease(lesions.lungs, scan.voxel_ml)


def summarise_lungs(table: pd.DataFrame) -> str:
    """Means and worst values of :func:`evaluate_lungs`: scans with lesion, then those without."""
    with_lesion = table[table["kept_pct"].notna()]
    without = table[table["kept_pct"].isna()]
    parts = []
    if len(with_lesion):
        off = (with_lesion["share_pct"] - with_lesion["true_share_pct"]).abs()
        dice, kept = with_lesion["dice"], with_lesion["kept_pct"]
        parts += [
            f"{len(with_lesion)} scans with lesion: Dice {dice.mean():.4f} (least {dice.min():.4f})",
            f"lesion kept {kept.mean():.2f} % (least {kept.min():.2f})",
            f"infected share off by {off.mean():.2f} points (most {off.max():.2f})",
        ]
    if len(without):
        dice = without["dice"]
        parts.append(f"{len(without)} scans without lesion: Dice {dice.mean():.4f} (least {dice.min():.4f})")
    return "; ".join(parts)


def evaluate_lungs_to_csv(
    model: LungModel, records: Sequence[Record], output_dir: str | Path, infection: LesionModel | None = None
) -> pd.DataFrame:
    """Evaluate, write ``lungs.csv`` into ``output_dir`` and print its summary; returns the table."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    table = evaluate_lungs(model, records, infection)
    table.to_csv(folder / "lungs.csv", index=False, float_format="%.6g")
    print(summarise_lungs(table))
    return table
