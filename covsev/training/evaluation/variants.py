"""The paper's comparison: which variants are trained, and the tables of their results.

The paper's own figures are not on these data: it trains and tests on slices that are not published as a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

METRICS = ("dice", "jaccard", "sensitivity", "specificity", "mae")
SINGLE, MULTI = "infection", "lesion"


@dataclass(frozen=True)
class Variant:
    """One way to train a network.

    Attributes:
        id: of its files.
        title: what a reader sees.
        stages: which networks are trained so: ``infection`` (single), ``lesion`` (multi).
        networks: by stage, the configuration beside ``train.yaml`` that names another network than the bundle's own.
        settings: overrides of ``train.yaml``.
        pretrained: whether it starts from the coach pretraining, not from ImageNet.
        semi: id of the variant that is trained on with pseudo labels, or ``None``.
        prior: id of the variant whose single network is the prior of the multi network; ``None`` for its own.
    """

    id: str
    title: str
    stages: tuple[str, ...] = (SINGLE, MULTI)
    # By default the paper's InfNet: the bundle's own network is the refined one.
    networks: Mapping[str, str] = field(default_factory=lambda: {SINGLE: "network_infnet.yaml"})
    settings: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    semi: str | None = None
    prior: str | None = None


VARIANTS = (
    Variant("infnet", "InfNet", settings={"augment": False}),
    Variant("infnet_aug04", "InfNet + augmentation 0.4", settings={"cutout_probability": 0.4}),
    Variant("infnet_aug05", "InfNet + augmentation 0.5", settings={"cutout_probability": 0.5}),
    Variant("self_infnet", "Self-InfNet", settings={"augment": False}, pretrained=True),
    Variant(
        "self_infnet_aug04", "Self-InfNet + augmentation 0.4", settings={"cutout_probability": 0.4}, pretrained=True
    ),
    Variant("unet", "U-Net", networks=dict.fromkeys((SINGLE, MULTI), "network_unet.yaml"), prior="infnet_aug04"),
    Variant("covid_segnet", "COVID-SegNet", (SINGLE,), networks={SINGLE: "network_covid_segnet.yaml"}),
    # It goes on from another variant's weights, so it is trained after that one.
    Variant("semi_infnet", "Semi-InfNet", (SINGLE,), semi="infnet_aug04"),
    Variant("refined_infnet", "InfNet + refinement", (SINGLE,), networks={}, settings={"augment": False}),
    Variant(
        "refined_infnet_aug04",
        "InfNet + refinement + augmentation 0.4",
        (SINGLE,),
        networks={},
        settings={"cutout_probability": 0.4},
    ),
)
"""The paper's five variants, the networks that it compares them with, and covsev's own."""

PAIRS = (
    ("self_infnet", "infnet"),
    ("self_infnet_aug04", "infnet_aug04"),
    ("infnet_aug04", "infnet"),
    ("infnet_aug05", "infnet_aug04"),
    ("semi_infnet", "infnet_aug04"),
    ("unet", "infnet"),
    ("covid_segnet", "infnet"),
    ("refined_infnet", "infnet"),
    ("refined_infnet_aug04", "infnet_aug04"),
)
"""Which variants are compared fold by fold, so that easy and hard folds cancel."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: mean over folds, and the standard error of that mean."""

    mean: float
    error: float

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f}" if np.isnan(self.error) else f"{self.mean:.3f} ± {self.error:.3f}"


def fold_cell(values: Sequence[float], folds: Sequence[int]) -> Cell:
    """Mean over folds of the mean over each fold's slices, with its standard error; NaN values are left out.

    Args:
        values: (N,) one number a slice.
        folds: (N,) the fold in which each slice was held out.
    """
    # Fold by fold: slices of one fold share a network, so they are no independent results.
    by_fold = pd.Series(values, dtype=float).groupby(np.asarray(folds))
    means = by_fold.mean().dropna()
    if len(means) == 0:
        return Cell(np.nan, np.nan)
    error = np.nan  # one fold says nothing about how much folds differ
    if len(means) > 1:
        error = float(means.std(ddof=1) / np.sqrt(len(means)))
    return Cell(float(means.mean()), error)


def comparison_table(folder: Path, folds: Mapping[str, int], *, stem: str, lesion: str) -> str:
    """Markdown table of all variants whose metrics are in ``folder``, in the order of :data:`VARIANTS`.

    Args:
        folder: holds ``<stem>_<variant>.csv`` of :func:`covsev.training.evaluation.metrics.write_metrics`.
        folds: fold of each slice, by name.
        stem: ``infection``, ``lesion`` or ``lesion_true_prior``.
        lesion: ``infection``, ``ground_glass`` or ``consolidation``.

    Raises:
        ValueError: if a file names a slice without a fold, or no variant has a file.
    """
    lines = [f"| variant | folds | {' | '.join(METRICS)} |", "|---" * (2 + len(METRICS)) + "|"]
    for variant, table in _tables(folder, folds, stem):
        columns = [table[f"{lesion}_{metric}"].tolist() for metric in METRICS]
        of_slices = table["fold"].tolist()
        cells = " | ".join(str(fold_cell(values, of_slices)) for values in columns)
        lines.append(f"| {variant.title} | {table['fold'].nunique()} | {cells} |")
    if len(lines) == 2:  # the head alone
        raise ValueError(f"{folder}: no {stem}_<variant>.csv in it")
    return "\n".join(lines)


def paired_table(folder: Path, folds: Mapping[str, int], *, stem: str, lesion: str) -> str:
    """Markdown table of the differences in Dice of all :data:`PAIRS` whose metrics are in ``folder``.

    The difference is that of the two means of each fold; its error is the standard error over the folds.

    Args:
        folder, folds, stem, lesion: as for :func:`comparison_table`.

    Raises:
        ValueError: if a file names a slice without a fold.
    """
    lines = ["| variant | against | Dice higher by | in folds |", "|---|---|---|---|"]
    means = {
        variant.id: (variant.title, table.groupby("fold")[f"{lesion}_dice"].mean())
        for variant, table in _tables(folder, folds, stem)
    }
    for first, second in PAIRS:
        if first in means and second in means:
            (title, mean), (other_title, other_mean) = means[first], means[second]
            by_fold = (mean - other_mean).dropna()  # pandas joins by fold; one that either lacks is left out
            cell = fold_cell(by_fold.tolist(), by_fold.index.tolist())
            wins = f"{int((by_fold > 0).sum())} of {len(by_fold)}"
            lines.append(f"| {title} | {other_title} | {cell} | {wins} |")
    return "\n".join(lines)


def _tables(folder: Path, folds: Mapping[str, int], stem: str) -> Iterator[tuple[Variant, pd.DataFrame]]:
    """The slices of each variant that has a file, with the column ``fold``."""
    for variant in VARIANTS:
        path = folder / f"{stem}_{variant.id}.csv"
        if not path.is_file():
            continue
        table = pd.read_csv(path)
        table = table[table["row"] == "case"]  # without the statistics below
        unknown = sorted(set(table["name"]) - set(folds))
        if unknown:
            raise ValueError(f"{path}: no fold is known for {', '.join(unknown)}")
        yield variant, table.assign(fold=table["name"].map(folds))


def replace_between(text: str, name: str, content: str) -> str:
    """``text`` with what stands between ``<!-- name -->`` and ``<!-- /name -->`` replaced by ``content``.

    Raises:
        ValueError: if the two marks are not there, once each, in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    # A second mark, or one in the wrong order, would lose text that somebody wrote by hand.
    again = start in after or end in after
    if not found or not closed or again:
        raise ValueError(f"the marks {start} and {end} must stand in the text once, in this order")
    return f"{before}{start}\n{content}\n{end}{after}"
