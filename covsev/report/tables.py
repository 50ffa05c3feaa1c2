"""Tables: a JSON file a scan, one CSV row a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from covsev import __version__
from covsev.labels import DISCLAIMER
from covsev.quality.result import Flag, worst_level
from covsev.severity import REGION_NAMES, SCORES, RegionMeasures, ScoreResult, SeverityReport
from covsev.severity.intervals import Uncertainty

_MEASURES = tuple(field.name for field in fields(RegionMeasures) if field.name != "reason")
_HEAD = ("case", "source", "status", "code", "reason", "quality", "flags", "finding")
_TAIL = ("recovered_ml", "po_without_recovery_pct", "noise_floor_ml", "covsev_version", "weights", "disclaimer")
_ENDS = ("low", "high")
COLUMNS = (
    *_HEAD,
    *(score.id for score in SCORES),
    *(f"{score.id}_{end}" for score in SCORES for end in _ENDS),
    *(f"{region}_{measure}" for region in REGION_NAMES for measure in _MEASURES),
    *_TAIL,
)


def severity_json(
    report: SeverityReport, flags: Sequence[Flag], provenance: Mapping[str, Any], uncertainty: Uncertainty | None = None
) -> dict[str, Any]:
    """Content of ``<case>_severity.json``.

    Args:
        report: what was measured.
        flags: findings of :func:`covsev.quality.result.check`.
        provenance: ``source``, ``weights``, ``method`` and what else says how it was made.
        uncertainty: intervals, where they were asked for.
    """
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
    """A result as JSON holds it: lists, not tuples."""
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
    intervals = (content["uncertainty"] or {}).get("scores", {})
    values |= {f"{id_}_{end}": intervals.get(id_, {}).get(end) for id_ in content["scores"] for end in _ENDS}
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
