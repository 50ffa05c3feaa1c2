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
"""Lesion below this in a region counts as none in the bands. The raw percentage is written all the same.

Band 0 means "none". Without a floor, a single voxel of lesion would lift a region into band 1.
"""

_LOBE_NAMES = tuple(lobe.name for lobe in LOBES)
SUM, PERCENT, WORST_BAND = "sum over regions", "percentage", "worst region"
"""How the bands of the regions become one value."""
_ML_OF = {"lesion_pct": "lesion_ml", "high_opacity_pct": "high_opacity_ml", "well_aerated_pct": "well_aerated_ml"}
"""The fields of :class:`covsev.severity.regions.RegionMeasures` that give a share's volume."""


@dataclass(frozen=True)
class Edge:
    """Upper end of a band: percentages up to ``pct``, that value included or not."""

    pct: float
    inclusive: bool


# The bands of Chung 2020 and Chaganti 2020: quarters, each edge in the band below it.
_QUARTERS = (Edge(25, True), Edge(50, True), Edge(75, True))


@dataclass(frozen=True)
class Score:
    """Definition of one score.

    Attributes:
        id: identifier, with author and year.
        title: what a reader sees.
        measure: the field of :class:`covsev.severity.regions.RegionMeasures` that is banded or shown:
            ``lesion_pct``, ``high_opacity_pct`` or ``well_aerated_pct``.
        regions: names of the regions.
        edges: upper ends of the bands. Band 0 is "none"; band i > 0 ends at ``edges[i - 1]``; the last has no end.
            Without edges the score is a percentage.
        combine: how the regions' bands become one value.
        maximum: largest value.
        readings: (smallest value, meaning), ascending; the last one reached is the reading.
        source: where it is published.
        approximate: how the regions here differ from those of the source; must be shown with the value.
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
    def measure_ml(self) -> str:
        """The field with the volume of what :attr:`measure` is a share of, such as ``lesion_ml``.

        The noise floor is compared with it.
        """
        return _ML_OF[self.measure]

    @property
    def unit(self) -> str:
        """``%``, ``points`` or ``class``."""
        return {PERCENT: "%", SUM: "points", WORST_BAND: "class"}[self.combine]

    @property
    def rule(self) -> str:
        """The bands in words, such as ``1: < 50; 2: >= 50``; empty for a percentage."""
        if not self.edges:
            return ""
        # The first band has no lower end in words, since 0 is a band of its own, and the last has no upper end.
        texts = ["0: none", f"1: {_up_to(self.edges[0])}"]
        for number, (lower, upper) in enumerate(pairwise(self.edges), start=2):
            texts.append(f"{number}: {_from(lower)} and {_up_to(upper)}")
        last = len(self.edges) + 1
        texts.append(f"{last}: {_from(self.edges[-1])}")
        return "; ".join(texts)


def _up_to(edge: Edge) -> str:
    return f"{'<=' if edge.inclusive else '<'} {edge.pct:g}"


def _from(edge: Edge) -> str:
    """The lower end of the next band: it takes the edge where the band below does not."""
    return f"{'>' if edge.inclusive else '>='} {edge.pct:g}"


_CHAGANTI = "Chaganti 2020, doi 10.1148/ryai.2020200048 (PMC7392373)"
# CT-0 is no lesion, so the bands' numbers are the classes' numbers.
_MOSMED_READINGS = (
    (0, "CT-0, none"),
    (1, "CT-1, mild"),
    (2, "CT-2, moderate"),
    (3, "CT-3, severe"),
    (4, "CT-4, critical"),
)
_MOSMED_EDGES = (Edge(25, False), Edge(50, False), Edge(75, True))
_MOSMED = "Morozov 2020, MosMedData, arXiv 2005.06465"

# Data only, without rules of their own: a new score is a new row.
SCORES = (
    Score(
        id="ctss25_pan2020",
        title="CT severity score, five lobes, 0-25",
        measure="lesion_pct",
        regions=_LOBE_NAMES,
        edges=(Edge(5, False), Edge(25, True), Edge(50, False), Edge(75, True)),
        combine=SUM,
        maximum=25,
        readings=((18, "18 or more: higher mortality risk (Francone 2020, doi 10.1007/s00330-020-07033-y)"),),
        source="Pan 2020, doi 10.1148/radiol.2020200370; bands of Chang 2005",
    ),
    Score(
        id="tss20_chung2020",
        title="Total severity score, five lobes, 0-20",
        measure="lesion_pct",
        regions=_LOBE_NAMES,
        edges=_QUARTERS,
        combine=SUM,
        maximum=20,
        readings=(),
        source="Chung 2020, doi 10.1148/radiol.2020200230",
    ),
    Score(
        id="po_chaganti2020",
        title="Percentage of opacity",
        measure="lesion_pct",
        regions=(BOTH_LUNGS,),
        edges=(),
        combine=PERCENT,
        maximum=100,
        readings=(
            (0, "below 1 %, as are 98 of 100 healthy scans in the source"),
            (1, "1 % or more: above 98 of 100 healthy scans in the source"),
        ),
        source=_CHAGANTI,
    ),
    Score(
        id="pho_chaganti2020",
        title="Percentage of high opacity (lesion above -200 HU)",
        measure="high_opacity_pct",
        regions=(BOTH_LUNGS,),
        edges=(),
        combine=PERCENT,
        maximum=100,
        readings=(),
        source=_CHAGANTI,
    ),
    Score(
        id="lss_chaganti2020",
        title="Lung severity score, five lobes, 0-20",
        measure="lesion_pct",
        regions=_LOBE_NAMES,
        edges=_QUARTERS,
        combine=SUM,
        maximum=20,
        readings=(),
        source=_CHAGANTI,
    ),
    Score(
        id="lhos_chaganti2020",
        title="Lung high opacity score, five lobes, 0-20",
        measure="high_opacity_pct",
        regions=_LOBE_NAMES,
        edges=_QUARTERS,
        combine=SUM,
        maximum=20,
        readings=(),
        source=_CHAGANTI,
    ),
    Score(
        id="mosmed_ct_worse_lung",
        title="CT-0 to CT-4 of the worse lung",
        measure="lesion_pct",
        regions=(RIGHT_LUNG.name, LEFT_LUNG.name),
        edges=_MOSMED_EDGES,
        combine=WORST_BAND,
        maximum=4,
        readings=_MOSMED_READINGS,
        source=_MOSMED,
    ),
    Score(
        id="mosmed_ct_both_lungs",
        title="CT-0 to CT-4 of both lungs together",
        measure="lesion_pct",
        regions=(BOTH_LUNGS,),
        edges=_MOSMED_EDGES,
        combine=WORST_BAND,
        maximum=4,
        readings=_MOSMED_READINGS,
        source=_MOSMED,
    ),
    Score(
        id="ctss40_yang2020",
        title="CT severity score, 20 lung regions, 0-40",
        measure="lesion_pct",
        regions=SEGMENT_NAMES,
        edges=(Edge(50, False),),
        combine=SUM,
        maximum=40,
        readings=((0, "below 19.5: mild"), (19.5, "19.5 or more: severe")),
        source="Yang 2020, doi 10.1148/ryct.2020200047",
        # Yang scores segments; here they are parts that the lobes' geometry gives, so the value is marked.
        approximate="the 20 regions are geometric parts of the lobes, not segments found in the scan",
    ),
    Score(
        id="zones24",
        title="CT score, six lung zones, 0-24",
        measure="lesion_pct",
        regions=ZONE_NAMES,
        edges=(Edge(25, False), Edge(50, False), Edge(75, False)),
        combine=SUM,
        maximum=24,
        readings=(),
        source="Wang 2020, doi 10.1148/radiol.2020200843",
        approximate="zones are thirds of each lung's height, not cut at the carina and the lower pulmonary veins",
    ),
    Score(
        id="wal_colombi2020",
        title="Well-aerated lung, percent of the lungs at -950 to -700 HU",
        measure="well_aerated_pct",
        regions=(BOTH_LUNGS,),
        edges=(),
        combine=PERCENT,
        maximum=100,
        readings=(
            (0, "below 71 %: more often intensive care or death (by software; by eye the source cuts at 73 %)"),
            (71, "71 % or more"),
        ),
        source="Colombi 2020, doi 10.1148/radiol.2020201433 (PMC7233411)",
    ),
)
