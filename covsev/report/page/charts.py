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
"""Ends of the chart: from below air to the upper end of the lung window, in whole steps of :data:`_BIN_HU`."""
_BIN_HU = 20
_PLOT = (600.0, 260.0)
"""Width and height of the chart of densities, in SVG units; the page scales it."""
_BARS = (300, 90)
"""Width and height of a batch's distribution, as ``index.html`` frames it."""
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
    """Volume of lung, and of lesion in it, by HU in steps of 20. Values beyond the ends count in the outer steps.

    Args:
        hu, lungs, lesions: of one shape.
        voxel_ml: volume of a voxel.
    """
    low, high = HISTOGRAM_HU
    counts = np.zeros((2, high - low), dtype=np.int64)
    # Slice by slice, as files hold them: the densities of a whole scan's lungs would be one more copy of it.
    for density, lung, lesion in zip(hu.T, lungs.T, lesions.T, strict=True):
        inside = lung > 0
        infected = inside & (lesion > 0)
        counts += [_counts(density[inside]), _counts(density[infected])]
    # Counted by whole HU, which the median needs, and drawn by steps of 20.
    lung_ml, lesion_ml = (n.reshape(-1, _BIN_HU).sum(axis=1) * voxel_ml for n in counts)
    width, height = _PLOT
    round_hu = range(-1000, high + 1, 200)
    ticks = [(_across(at), str(at)) for at in round_hu]
    summary = f"Median density {_median(counts[0])} in the lungs, {_median(counts[1])} in the lesions."
    peaks = float(lung_ml.max()), float(lesion_ml.max())
    return Histogram(_area(lung_ml), _area(lesion_ml), width, height, ticks, *peaks, summary)


def _across(hu: int) -> float:
    """Position of a density along the chart."""
    low, high = HISTOGRAM_HU
    return _PLOT[0] * (hu - low) / (high - low)


def _counts(hu: NDArray[Any]) -> NDArray[np.int64]:
    """Number of voxels by whole HU from one end to the other."""
    low, high = HISTOGRAM_HU
    # Clipped before it becomes int16, which cannot hold every density that a file may hold.
    within = np.clip(hu, low, high - 1).astype(np.int16)
    return np.bincount(within - np.int16(low), minlength=high - low)


def _median(counts: NDArray[np.int64]) -> str:
    if not counts.any():
        return NO_VALUE
    # From the counts: the first HU at or below which half of the voxels lie.
    cumulated = np.cumsum(counts)
    half = cumulated[-1] / 2
    above_low = int(np.searchsorted(cumulated, half))
    return f"{HISTOGRAM_HU[0] + above_low} HU"


def _area(volumes_ml: NDArray[np.float64]) -> str:
    """A stepped area from the left to the right of the box, its peak at the top."""
    width, height = _PLOT
    shares = volumes_ml / max(float(volumes_ml.max()), 1e-9)  # not by 0, where there is no lesion
    step = width / len(shares)
    steps = ""
    # V goes up or down to a step's height, H along it; SVG counts heights from the top.
    for i, share in enumerate(shares, start=1):
        steps += f"V{height * (1 - share):.1f}H{step * i:.1f}"
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
    red, green, blue = rgb = _colour(float(pct))
    ink = "#fff" if _luminance(rgb) < _BLACK_ON else "#000"
    return LobeColour(f"rgb({red} {green} {blue})", ink, f"{text} %")


def _colour(pct: float) -> tuple[int, int, int]:
    """Between two steps the colours are mixed, channel by channel."""
    steps = [step for step, _ in _COLOUR_STEPS]
    channels = zip(*(colour for _, colour in _COLOUR_STEPS), strict=True)
    red, green, blue = (round(float(np.interp(pct, steps, channel))) for channel in channels)
    return red, green, blue


def _luminance(rgb: Sequence[int]) -> float:
    """Relative luminance, 0 to 1, as WCAG 2 defines it."""
    red, green, blue = (_linear(part / 255) for part in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    """One channel of sRGB, 0 to 1, as an amount of light. The numbers are those of WCAG 2."""
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def colour_scale() -> str:
    """The diagram's colours as a CSS gradient from 0 to 100 %."""
    return ", ".join(f"rgb({c[0]} {c[1]} {c[2]}) {at:g}%" for at, c in _COLOUR_STEPS)


@dataclass(frozen=True)
class Distribution:
    """How one number spreads over the scans of a batch.

    Attributes:
        title: of the number.
        bars: (left, top, width, height, text) in a box of 300 x 90.
        ends: texts at the two ends of the axis.
        summary: the chart in one sentence.
    """

    title: str
    bars: Sequence[tuple[float, float, float, float, str]]
    ends: tuple[str, str]
    summary: str


def distribution(title: str, values: Sequence[float | None], maximum: float, unit: str) -> Distribution:
    """A histogram of ``values`` from 0 to ``maximum``; of percentages, to the next ten above the largest."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if unit == "%":
        # Most lungs have little lesion: on an axis to 100 all scans would share a few bars.
        maximum = max(10.0, 10 * math.ceil(max(known, default=0) / 10))
        bins, top = 20, maximum
    else:
        # Points are whole numbers: a bar for each, while they are few, and the last one begins at the maximum.
        bins, top = min(int(maximum) + 1, 26), maximum + 1
    counts, edges = np.histogram(known, bins=bins, range=(0, top))
    spans = [_span(edges, i, unit) for i in range(bins)]
    bars = _bars(counts.tolist(), spans)
    median = number(float(np.median(known))) if known else NO_VALUE
    summary = f"{len(known)} of {len(values)} scans have a value; median {median}."
    return Distribution(title, bars, ("0", f"{maximum:g}{' %' if unit == '%' else ''}"), summary)


def _bars(counts: Sequence[int], spans: Sequence[str]) -> list[tuple[float, float, float, float, str]]:
    """The bars of :class:`Distribution`; an empty bin has none."""
    width, height = _BARS
    step = width / len(counts)
    peak = max(1, *counts)  # without a value there is no peak to divide by
    bars = []
    for i, (count, span) in enumerate(zip(counts, spans, strict=True)):
        if count:
            bar_height = height * count / peak
            # A tenth of each step is the gap to the next bar.
            bars.append((step * i, height - bar_height, step * 0.9, bar_height, f"{span}: {count}"))
    return bars


def _span(edges: NDArray[np.float64], i: int, unit: str) -> str:
    """The values that bin ``i`` holds, in words."""
    low, high = edges[i], edges[i + 1]
    if unit == "%":
        return f"{low:g} to {high:g} %"
    # Edges need not be whole numbers; the points between them are.
    first, last = math.ceil(low), math.ceil(high) - 1
    return f"{first}" if first == last else f"{first} to {last}"
