"""Figures of agreement: Bland-Altman of every score, and scores by clinical class. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from covsev.agreement.result import Comparison
from covsev.agreement.scores import CLINICAL_CLASSES
from covsev.errors import CovsevError
from covsev.scan import replacing

_COLUMNS = 3
"""Panels beside each other."""
_PANEL_INCHES = 3.6
"""Width and height of a panel."""


def plot_bland_altman(found: Comparison, path: Path) -> Path:
    """One panel a score: difference against mean, with bias and limits of agreement.

    Raises:
        CovsevError: if matplotlib is not installed.
    """
    rows = {row["score"]: row for row in found.scores}
    figure, panels = _panels(len(rows))
    for panel, (id_, row) in zip(panels, rows.items(), strict=False):
        pairs = _pairs(found, id_)
        means = [(r + p) / 2 for r, p in pairs]
        differences = [p - r for r, p in pairs]
        # Half transparent: scores in whole points often fall on the same place.
        panel.scatter(means, differences, s=14, alpha=0.6, color="tab:blue")
        for value, style in ((row["bias"], "-"), (row["loa_low"], "--"), (row["loa_high"], "--")):
            if value is not None:  # one pair has a bias, but no limits
                panel.axhline(value, linestyle=style, color="tab:red", linewidth=1)
        panel.set_title(f"{id_} (n = {row['pairs']})", fontsize=9)
        panel.set_xlabel(f"mean of both, {row['unit']}", fontsize=8)
        panel.set_ylabel("predicted - reference", fontsize=8)
    return _save(figure, path)


def _pairs(found: Comparison, id_: str) -> list[tuple[float, float]]:
    """Reference and predicted value of one score, of the cases that have both."""
    pairs = []
    for case, values in found.reference.items():
        reference, predicted = values.get(id_), found.predicted[case].get(id_)
        if reference is not None and predicted is not None:
            pairs.append((reference, predicted))
    return pairs


def plot_clinical(found: Comparison, path: Path) -> Path:
    """One panel a score: its values by clinical class, as boxes with the cases on them.

    Raises:
        CovsevError: if matplotlib is not installed.
    """
    figure, panels = _panels(len(found.clinical))
    # From mild to critical, as the boxes stand from left to right.
    present = sorted(set(found.classes.values()), key=lambda name: CLINICAL_CLASSES[name])
    for panel, row in zip(panels, found.clinical, strict=False):
        groups = [_values(found, row["score"], of) for of in present]
        # The cases are drawn on the boxes, so outliers would be drawn twice.
        panel.boxplot(groups, tick_labels=present, showfliers=False)
        for position, group in enumerate(groups, start=1):
            panel.scatter([position] * len(group), group, s=10, alpha=0.5, color="tab:blue")
        area = "-" if row["auc"] is None else f"{row['auc']:.2f}"
        panel.set_title(f"{row['score']} (AUC {area}, n = {row['cases']})", fontsize=9)
        panel.tick_params(labelsize=7)
    return _save(figure, path)


def _values(found: Comparison, id_: str, class_: str) -> list[float]:
    """Predicted values of one score in one clinical class; a case may have a class, but no score."""
    cases = [case for case, name in found.classes.items() if name == class_]
    values = [found.predicted.get(case, {}).get(id_) for case in cases]
    return [value for value in values if value is not None]


def _panels(count: int) -> tuple[Any, list[Any]]:
    """A figure with ``count`` panels to draw in, row by row."""
    # ``Figure`` itself, without pyplot: no display is opened, and no figure is kept for later.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CovsevError("figures need matplotlib; install covsev[agreement]") from error
    rows = -(-count // _COLUMNS)  # rounded up
    figure = Figure(figsize=(_COLUMNS * _PANEL_INCHES, rows * _PANEL_INCHES), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as temporary:
        # PNG, whatever suffix the caller's name has.
        figure.savefig(temporary, format="png", dpi=110)
    return path
