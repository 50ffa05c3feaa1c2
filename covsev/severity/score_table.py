"""The table of severity scores as published: data, read by :mod:`covsev.severity.scores`.

A score's id carries its author and year, since the literature reuses names such as "CT-SS" for different scales.
Percentages are of volume. Where a paper leaves a gap between bands, they are half-open as written in ``edges``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from covsev.labels import LEFT_LUNG, LOBES, RIGHT_LUNG
from covsev.severity.regions import BOTH_LUNGS, SEGMENT_NAMES, ZONE_NAMES

DEFAULT_NOISE_FLOOR_ML = 1.0
"""Lesion below this in a region counts as none for the bands; the raw percentage is written all the same."""

_LOBE_NAMES = tuple(lobe.name for lobe in LOBES)
SUM, PERCENT, WORST_BAND = "sum over regions", "percentage", "worst region"


@dataclass(frozen=True)
class Edge:
    """Upper end of a band: percentages up to ``pct``, that value included or not."""

    pct: float
    inclusive: bool


_QUARTERS = (Edge(25, True), Edge(50, True), Edge(75, True))


@dataclass(frozen=True)
class Score:
    """Definition of one score.

    Attributes:
        id: author and year in it.
        title: what a reader sees.
        measure: the field of :class:`covsev.severity.regions.RegionMeasures` that it bands or shows: ``lesion_pct``,
            ``high_opacity_pct`` or ``well_aerated_pct``.
        regions: names of the regions.
        edges: band 0 is "none"; band i > 0 ends at ``edges[i - 1]``, the last has no end. Empty: a percentage.
        combine: how the regions' bands become one value.
        maximum: largest value.
        readings: (smallest value, meaning), ascending; the last one reached is the reading.
        source: where it is published.
        approximate: in what the regions here differ from the source's; must be shown with the value.
    """

    id: str
    title: str
    measure: str
    regions: tuple[str, ...]
    edges: tuple[Edge, ...]
    combine: str
    maximum: float
    readings: tuple[tuple[float, str], ...]
    source: str
    approximate: str | None = None

    @property
    def unit(self) -> str:
        """``%``, ``points`` or ``class``."""
        return {PERCENT: "%", SUM: "points", WORST_BAND: "class"}[self.combine]

    @property
    def rule(self) -> str:
        """The bands in words, such as ``1: < 50; 2: >= 50``; empty for a percentage."""
        if not self.edges:
            return ""
        texts = ["0: none", f"1: {_up_to(self.edges[0])}"]
        for number, (lower, upper) in enumerate(pairwise(self.edges), start=2):
            texts.append(f"{number}: {_from(lower)} and {_up_to(upper)}")
        texts.append(f"{len(self.edges) + 1}: {_from(self.edges[-1])}")
        return "; ".join(texts)


def _up_to(edge: Edge) -> str:
    return f"{'<=' if edge.inclusive else '<'} {edge.pct:g}"


def _from(edge: Edge) -> str:
    return f"{'>' if edge.inclusive else '>='} {edge.pct:g}"


_CHAGANTI = "Chaganti 2020, doi 10.1148/ryai.2020200048 (PMC7392373)"
_MOSMED_READINGS = (
    (0, "CT-0, none"),
    (1, "CT-1, mild"),
    (2, "CT-2, moderate"),
    (3, "CT-3, severe"),
    (4, "CT-4, critical"),
)
_MOSMED_EDGES = (Edge(25, False), Edge(50, False), Edge(75, True))
_MOSMED = "Morozov 2020, MosMedData, arXiv 2005.06465"

SCORES = (
    Score(
        "ctss25_pan2020",
        "CT severity score, five lobes, 0-25",
        "lesion_pct",
        _LOBE_NAMES,
        (Edge(5, False), Edge(25, True), Edge(50, False), Edge(75, True)),
        SUM,
        25,
        ((18, "18 or more: higher mortality risk (Francone 2020, doi 10.1007/s00330-020-07033-y)"),),
        "Pan 2020, doi 10.1148/radiol.2020200370; bands of Chang 2005",
    ),
    Score(
        "tss20_chung2020",
        "Total severity score, five lobes, 0-20",
        "lesion_pct",
        _LOBE_NAMES,
        _QUARTERS,
        SUM,
        20,
        (),
        "Chung 2020, doi 10.1148/radiol.2020200230",
    ),
    Score(
        "po_chaganti2020",
        "Percentage of opacity",
        "lesion_pct",
        (BOTH_LUNGS,),
        (),
        PERCENT,
        100,
        (
            (0, "below 1 %, as are 98 of 100 healthy scans in the source"),
            (1, "1 % or more: above 98 of 100 healthy scans in the source"),
        ),
        _CHAGANTI,
    ),
    Score(
        "pho_chaganti2020",
        "Percentage of high opacity (lesion above -200 HU)",
        "high_opacity_pct",
        (BOTH_LUNGS,),
        (),
        PERCENT,
        100,
        (),
        _CHAGANTI,
    ),
    Score(
        "lss_chaganti2020",
        "Lung severity score, five lobes, 0-20",
        "lesion_pct",
        _LOBE_NAMES,
        _QUARTERS,
        SUM,
        20,
        (),
        _CHAGANTI,
    ),
    Score(
        "lhos_chaganti2020",
        "Lung high opacity score, five lobes, 0-20",
        "high_opacity_pct",
        _LOBE_NAMES,
        _QUARTERS,
        SUM,
        20,
        (),
        _CHAGANTI,
    ),
    Score(
        "mosmed_ct_worse_lung",
        "CT-0 to CT-4 of the worse lung",
        "lesion_pct",
        (RIGHT_LUNG.name, LEFT_LUNG.name),
        _MOSMED_EDGES,
        WORST_BAND,
        4,
        _MOSMED_READINGS,
        _MOSMED,
    ),
    Score(
        "mosmed_ct_both_lungs",
        "CT-0 to CT-4 of both lungs together",
        "lesion_pct",
        (BOTH_LUNGS,),
        _MOSMED_EDGES,
        WORST_BAND,
        4,
        _MOSMED_READINGS,
        _MOSMED,
    ),
    Score(
        "ctss40_yang2020",
        "CT severity score, 20 lung regions, 0-40",
        "lesion_pct",
        SEGMENT_NAMES,
        (Edge(50, False),),
        SUM,
        40,
        ((0, "below 19.5: mild"), (19.5, "19.5 or more: severe")),
        "Yang 2020, doi 10.1148/ryct.2020200047",
        approximate="the 20 regions are geometric parts of the lobes, not segments found in the scan",
    ),
    Score(
        "zones24",
        "CT score, six lung zones, 0-24",
        "lesion_pct",
        ZONE_NAMES,
        (Edge(25, False), Edge(50, False), Edge(75, False)),
        SUM,
        24,
        (),
        "Wang 2020, doi 10.1148/radiol.2020200843",
        approximate="zones are thirds of each lung's height, not cut at the carina and the lower pulmonary veins",
    ),
    Score(
        "wal_colombi2020",
        "Well-aerated lung, percent of the lungs at -950 to -700 HU",
        "well_aerated_pct",
        (BOTH_LUNGS,),
        (),
        PERCENT,
        100,
        (
            (0, "below 71 %: more often intensive care or death (by software; by eye the source cuts at 73 %)"),
            (71, "71 % or more"),
        ),
        "Colombi 2020, doi 10.1148/radiol.2020201433 (PMC7233411)",
    ),
)
