"""Tables: a JSON file a scan, one CSV row a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from covsev import __version__
from covsev.labels import DISCLAIMER
from covsev.quality.result import Flag, worst_level
from covsev.severity import REGION_NAMES, SCORES, RegionMeasures, ScoreResult, SeverityReport
from covsev.severity.intervals import Uncertainty

# Numbers only. The reason of a missing measure is in the JSON file.
_MEASURES = tuple(field.name for field in fields(RegionMeasures) if field.name != "reason")
_HEAD = ("case", "source", "status", "code", "reason", "quality", "flags", "finding")
_TAIL = ("recovered_ml", "po_without_recovery_pct", "noise_floor_ml", "covsev_version", "weights", "disclaimer")
_ENDS = ("low", "high")
"""The two ends of an interval."""
# Columns in this order in every table of every run, so that tables can be joined.
COLUMNS = (
    *_HEAD,
    *(score.id for score in SCORES),
    *(f"{score.id}_{end}" for score in SCORES for end in _ENDS),
    *(f"{region}_{measure}" for region in REGION_NAMES for measure in _MEASURES),
    *_TAIL,
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How the results of one scan were made. The JSON file has these keys in this order.

    Attributes:
        source: path of the scan.
        weights: SHA-256 of the lesion network's checkpoint, or ``none`` if no network was run.
        networks: the networks that were run; left out if None.
        method: how each label map was made, in words.
        recovered_ml: volume of dense lung that was closed back into the lung mask.
        po_without_recovery_pct: percentage of opacity without that volume.
        airways_ml: volume of the airways that were taken out.
        fissure_support: for each fissure the share that the scan shows; left out if None.
        seconds: time of each stage.
    """

    source: str
    weights: str
    networks: Mapping[str, Any] | None = None
    method: Mapping[str, str]
    recovered_ml: float | None = None
    po_without_recovery_pct: float | None = None
    airways_ml: float | None = None
    fissure_support: Mapping[str, Any] | None = None
    seconds: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The keys and values for the JSON file."""
        # Not asdict, which copies all values, too.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # These two have no null: where no covsev network or lobe fit was run, they are not in the file.
        absent = {name for name in ("networks", "fissure_support") if values[name] is None}
        return {name: value for name, value in values.items() if name not in absent}


def severity_json(
    report: SeverityReport, flags: Sequence[Flag], provenance: Mapping[str, Any], uncertainty: Uncertainty | None = None
) -> dict[str, Any]:
    """Content of ``<case>_severity.json``.

    Args:
        report: what was measured.
        flags: findings of :func:`covsev.quality.result.check`.
        provenance: of :meth:`Provenance.as_json`, and what else says how it was made.
        uncertainty: intervals, where they were asked for.
    """
    # Each score carries its definition, so that the file can be read without covsev.
    definitions = {
        score.id: {"title": score.title, "unit": score.unit, "source": score.source, "approximate": score.approximate}
        for score in SCORES
    }
    return {
        "case": report.case,
        "covsev_version": __version__,
        "disclaimer": DISCLAIMER,
        **provenance,
        "noise_floor_ml": report.noise_floor_ml,
        "quality": worst_level(tuple(flags)),
        "flags": [asdict(flag) for flag in flags],
        "finding": asdict(report.finding),
        "uncertainty": asdict(uncertainty) if uncertainty else None,
        "scores": {id_: definitions[id_] | _plain(result) for id_, result in report.scores.items()},
        "regions": {name: asdict(measures) for name, measures in report.regions.items()},
        "subregions": {name: asdict(measures) for name, measures in report.subregions.items()},
    }


def _plain(result: ScoreResult) -> dict[str, Any]:
    """A result as JSON holds it: lists, not tuples, so that it equals what is read back from the file."""
    return asdict(result) | {"near_edge": list(result.near_edge)}


def row(content: Mapping[str, Any]) -> dict[str, Any]:
    """Row of ``severity.csv`` from the content of one JSON file; null becomes an empty cell."""
    values = {
        "case": content["case"],
        "source": content["source"],
        "status": "ok",
        "quality": content["quality"],
        "flags": " ".join(flag["code"] for flag in content["flags"]),
        "finding": content["finding"]["state"],
    }
    values |= {id_: score["value"] for id_, score in content["scores"].items()}
    # Without --uncertainty there are no intervals: their cells stay empty.
    intervals = (content["uncertainty"] or {}).get("scores", {})
    for id_ in content["scores"]:
        interval = intervals.get(id_, {})
        values |= {f"{id_}_{end}": interval.get(end) for end in _ENDS}
    for region, measures in content["regions"].items():
        values |= {f"{region}_{measure}": measures[measure] for measure in _MEASURES}
    return values | {name: content[name] for name in _TAIL}


def failed_row(case: str, source: str, code: str, reason: str) -> dict[str, Any]:
    """Row of a scan that could not be assessed."""
    return {
        "case": case,
        "source": source,
        "status": "failed",
        "code": code,
        "reason": reason,
        "covsev_version": __version__,
        "disclaimer": DISCLAIMER,
    }
