"""Charts as SVG geometry: densities, the lobe diagram's colours, distributions over a batch. No drawing library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.labels import LOBES
from covsev.report.page.words import NO_VALUE, number

HISTOGRAM_HU = (-1050, 150)
_BIN_HU = 20
_PLOT = (600.0, 260.0)
_COLOUR_STEPS = (
    (0.0, (241, 245, 249)),
    (5.0, (254, 226, 170)),
    (25.0, (252, 167, 88)),
    (50.0, (221, 88, 50)),
    (75.0, (158, 32, 44)),
    (100.0, (92, 10, 38)),
)
"""Percent of lesion and its colour: the edges are those of the CT severity score."""
_BLACK_ON = 0.179
"""From this luminance on, black has more contrast than white; either way it is at least 4.58 (WCAG 2)."""


@dataclass(frozen=True)
class Histogram:
    """Volume by density.

    Attributes:
        lung, lesion: SVG paths in a box of :attr:`width` x :attr:`height`.
        width, height: of the box.
        ticks: (position, text) along the HU axis.
        lung_peak_ml, lesion_peak_ml: volume at the top of the box.
        summary: the chart in one sentence.
    """

    lung: str
    lesion: str
    width: float
    height: float
    ticks: Sequence[tuple[float, str]]
    lung_peak_ml: float
    lesion_peak_ml: float
    summary: str


def density_histogram(
    hu: NDArray[Any], lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], voxel_ml: float
) -> Histogram:
    """Volume of lung, and of lesion in it, by HU in steps of 20; values beyond the ends count in the outer steps.

    Args:
        hu, lungs, lesions: of one shape.
        voxel_ml: volume of a voxel.
    """
    low, high = HISTOGRAM_HU
    counts = np.zeros((2, high - low), dtype=np.int64)
    for density, lung, lesion in zip(hu.T, lungs.T, lesions.T, strict=True):  # slices, as files hold them
        inside = lung > 0
        counts += [_counts(density[inside]), _counts(density[inside & (lesion > 0)])]
    lung_ml, lesion_ml = (n.reshape(-1, _BIN_HU).sum(axis=1) * voxel_ml for n in counts)
    width, height = _PLOT
    ticks = [(width * (at - low) / (high - low), str(at)) for at in range(-1000, high + 1, 200)]
    summary = f"Median density {_median(counts[0])} in the lungs, {_median(counts[1])} in the lesions."
    peaks = float(lung_ml.max()), float(lesion_ml.max())
    return Histogram(_area(lung_ml), _area(lesion_ml), width, height, ticks, *peaks, summary)


def _counts(hu: NDArray[Any]) -> NDArray[np.int64]:
    """Number of voxels by whole HU from one end to the other."""
    low, high = HISTOGRAM_HU
    return np.bincount(np.clip(hu, low, high - 1).astype(np.int16) - np.int16(low), minlength=high - low)


def _median(counts: NDArray[np.int64]) -> str:
    if not counts.any():
        return NO_VALUE
    cumulated = np.cumsum(counts)
    return f"{HISTOGRAM_HU[0] + int(np.searchsorted(cumulated, cumulated[-1] / 2))} HU"


def _area(volumes_ml: NDArray[np.float64]) -> str:
    """A stepped area from the left to the right of the box, its peak at the top."""
    width, height = _PLOT
    shares = volumes_ml / max(float(volumes_ml.max()), 1e-9)
    step = width / len(shares)
    steps = "".join(f"V{height * (1 - share):.1f}H{step * (i + 1):.1f}" for i, share in enumerate(shares))
    return f"M0 {height:g}{steps}V{height:g}z"


@dataclass(frozen=True)
class LobeColour:
    """How one lobe of the diagram is drawn.

    Attributes:
        fill: CSS colour, empty where there is no value.
        ink: colour of a text on it.
        text: percent of lesion, or "no value".
    """

    fill: str
    ink: str
    text: str


def lobe_colours(regions: Mapping[str, Mapping[str, Any]]) -> dict[str, LobeColour]:
    """Colour and text of every lobe, by name, from its percent of lesion."""
    return {lobe.name: _lobe_colour(regions.get(lobe.name, {}).get("lesion_pct")) for lobe in LOBES}


def _lobe_colour(pct: Any) -> LobeColour:
    text = number(pct)
    if text == NO_VALUE:
        return LobeColour("", "", NO_VALUE)
    rgb = _colour(float(pct))
    return LobeColour(
        f"rgb({rgb[0]} {rgb[1]} {rgb[2]})", "#fff" if _luminance(rgb) < _BLACK_ON else "#000", f"{text} %"
    )


def _colour(pct: float) -> tuple[int, int, int]:
    at = [step for step, _ in _COLOUR_STEPS]
    red, green, blue = (round(float(np.interp(pct, at, [c[i] for _, c in _COLOUR_STEPS]))) for i in range(3))
    return red, green, blue


def _luminance(rgb: Sequence[int]) -> float:
    """Relative luminance, 0 to 1, as WCAG 2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colour_scale() -> str:
    """The diagram's colours as a CSS gradient from 0 to 100 %."""
    return ", ".join(f"rgb({c[0]} {c[1]} {c[2]}) {at:g}%" for at, c in _COLOUR_STEPS)


@dataclass(frozen=True)
class Distribution:
    """How one number spreads over the scans of a batch.

    Attributes:
        title: of the number.
        bars: (left, top, width, height, text) in a box of 300 x 90.
        ends: texts of the axis' ends.
        summary: the chart in one sentence.
    """

    title: str
    bars: Sequence[tuple[float, float, float, float, str]]
    ends: tuple[str, str]
    summary: str


def distribution(title: str, values: Sequence[float | None], maximum: float, unit: str) -> Distribution:
    """A histogram of ``values`` from 0 to ``maximum`` (percentages: to the next ten above the largest)."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if unit == "%":
        maximum = max(10.0, 10 * math.ceil(max(known, default=0) / 10))
    bins = min(int(maximum) + 1, 26) if unit != "%" else 20
    top = maximum + 1 if unit != "%" else maximum
    counts, edges = np.histogram(known, bins=bins, range=(0, top))
    width = 300 / bins
    peak = max(1, int(counts.max()))
    bars = [
        (width * i, 90 - 90 * count / peak, width * 0.9, 90 * count / peak, f"{_span(edges, i, unit)}: {count}")
        for i, count in enumerate(counts.tolist())
        if count
    ]
    median = number(float(np.median(known))) if known else NO_VALUE
    summary = f"{len(known)} of {len(values)} scans have a value; median {median}."
    return Distribution(title, bars, ("0", f"{maximum:g}{' %' if unit == '%' else ''}"), summary)


def _span(edges: NDArray[np.float64], i: int, unit: str) -> str:
    if unit == "%":
        return f"{edges[i]:g} to {edges[i + 1]:g} %"
    first, last = math.ceil(edges[i]), math.ceil(edges[i + 1]) - 1
    return f"{first}" if first == last else f"{first} to {last}"
