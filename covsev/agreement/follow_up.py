"""Two assessed scans of one patient: what changed, against the noise of the measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from covsev.errors import CovsevError
from covsev.labels import DISCLAIMER
from covsev.quality.table import FAIL
from covsev.scan.writing import write_json

IMPROVING, STABLE, WORSENING, UNKNOWN = "improving", "stable", "worsening", "unknown"
DEFAULT_NOISE_PCT = 10.0
"""Share of a scan's lesion volume that counts as noise where the scan has no interval.

covsev's own choice, not a published one.
"""
_BREATH_FACTOR = 1.25
"""Lungs whose volumes differ by more than this factor differ in breath-hold or coverage, which moves percentages."""


@dataclass(frozen=True)
class RegionChange:
    """Change of the lesion in one region.

    Attributes:
        first_ml, second_ml: lesion volume; ``None`` where the region is absent or cut off.
        change_ml: second minus first.
        noise_ml: a change up to this counts as none.
        first_pct, second_pct: lesion in percent of the region's volume.
        change_pct: second minus first, in percentage points.
        state: ``improving``, ``stable``, ``worsening``; ``unknown`` without both values, or if a quality check failed.
    """

    first_ml: float | None
    second_ml: float | None
    change_ml: float | None
    noise_ml: float | None
    first_pct: float | None
    second_pct: float | None
    change_pct: float | None
    state: str


@dataclass(frozen=True)
class Change:
    """What changed between two scans.

    Attributes:
        first, second: names of the scans.
        state: that of both lungs together.
        text: one sentence.
        regions: by region name.
        scores: first, second and change of each score, in its own unit.
        warnings: what makes the two hard to compare.
    """

    first: str
    second: str
    state: str
    text: str
    regions: Mapping[str, RegionChange]
    scores: Mapping[str, Mapping[str, float | None]]
    warnings: tuple[str, ...]


def read_result(path: Path) -> dict[str, Any]:
    """Content of a ``<case>_severity.json``.

    Raises:
        CovsevError: if the file is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("case", "regions", "scores", "noise_floor_ml") if key not in content]
    except (ValueError, TypeError) as error:
        raise CovsevError(f"{path}: not a result of covsev; give <case>_severity.json") from error
    if missing:
        raise CovsevError(f"{path}: not a result of covsev, {', '.join(missing)} missing; give <case>_severity.json")
    return dict(content)


def compare_scans(
    first: Mapping[str, Any], second: Mapping[str, Any], *, noise_pct: float = DEFAULT_NOISE_PCT
) -> Change:
    """Compare two results of one patient, the earlier one first.

    The noise of a region's lesion is half of its interval where the scan was assessed with ``--uncertainty``.
    Elsewhere it is ``noise_pct`` of the lesion. The noises of both scans add up as independent ones do: by their
    squares. The noise of the change is never below the noise floor.

    Args:
        first, second: contents of ``<case>_severity.json``.
        noise_pct: noise of a lesion without an interval, in percent of its volume.

    Raises:
        CovsevError: if the noise floors differ, so that the scores cannot be compared.
    """
    # Another noise floor gives other points for the same lesion, so the scores would differ without a change.
    floors_ml = first["noise_floor_ml"], second["noise_floor_ml"]
    if floors_ml[0] != floors_ml[1]:
        raise CovsevError(
            f"the noise floors differ ({floors_ml[0]:g} and {floors_ml[1]:g} ml); assess both scans with one of them"
        )
    # Only what both results have: an older one may lack regions or scores that were added later.
    regions = {
        name: _region_change(name, first, second, noise_pct) for name in first["regions"] if name in second["regions"]
    }
    scores = {
        id_: _score_change(result["value"], second["scores"][id_]["value"])
        for id_, result in first["scores"].items()
        if id_ in second["scores"]
    }
    both = regions["both_lungs"]
    warnings = _warnings(first, second, both)
    if _failed(first) or _failed(second):
        # The numbers stay, for a reader to judge. No region gets a verdict, since its mask may be wrong.
        text = "unknown: a quality check failed"
        regions = {name: replace(change, state=UNKNOWN) for name, change in regions.items()}
        return Change(first["case"], second["case"], UNKNOWN, text, regions, scores, warnings)
    return Change(first["case"], second["case"], both.state, _text(both), regions, scores, warnings)


def _failed(content: Mapping[str, Any]) -> bool:
    return content.get("quality") == FAIL


def _region_change(name: str, first: Mapping[str, Any], second: Mapping[str, Any], noise_pct: float) -> RegionChange:
    measures = [content["regions"][name] for content in (first, second)]
    first_ml, second_ml = (measure["lesion_ml"] for measure in measures)
    first_pct, second_pct = (measure["lesion_pct"] for measure in measures)
    if first_ml is None or second_ml is None:
        return RegionChange(first_ml, second_ml, None, None, first_pct, second_pct, None, UNKNOWN)
    first_noise, second_noise = (_noise_ml(name, content, noise_pct) for content in (first, second))
    both_noises = (first_noise**2 + second_noise**2) ** 0.5
    # Two tiny lesions have a tiny noise: the floor keeps a few voxels from becoming a verdict.
    noise_ml = max(first["noise_floor_ml"], both_noises)
    change_ml = second_ml - first_ml
    state = STABLE if abs(change_ml) <= noise_ml else WORSENING if change_ml > 0 else IMPROVING
    change_pct = second_pct - first_pct
    return RegionChange(first_ml, second_ml, change_ml, noise_ml, first_pct, second_pct, change_pct, state)


def _noise_ml(name: str, content: Mapping[str, Any], noise_pct: float) -> float:
    """Noise of the lesion in one region of one scan."""
    # Null, or not there at all, where the scan was assessed without ``--uncertainty``.
    of_regions = (content.get("uncertainty") or {}).get("regions", {})
    interval = of_regions.get(name, {}).get("lesion_ml")
    if interval:
        return float(interval["high"] - interval["low"]) / 2
    lesion_ml = float(content["regions"][name]["lesion_ml"])
    return noise_pct / 100 * lesion_ml


def _score_change(first: float | None, second: float | None) -> dict[str, float | None]:
    change = None if first is None or second is None else second - first
    return {"first": first, "second": second, "change": change}


def _text(both: RegionChange) -> str:
    """The verdict on both lungs in one sentence."""
    numbers = both.first_ml, both.second_ml, both.change_ml, both.noise_ml
    first_ml, second_ml, change_ml, noise_ml = numbers
    if None in numbers:
        return "unknown: a scan has no lesion volume"
    how = f"from {first_ml:.1f} to {second_ml:.1f} ml ({change_ml:+.1f}; noise {noise_ml:.1f})"
    return f"{both.state}: lesion in both lungs {how}. A comparison of images, not a diagnosis"


def _warnings(first: Mapping[str, Any], second: Mapping[str, Any], both: RegionChange) -> tuple[str, ...]:
    """What makes the two scans hard to compare, in sentences."""
    found = []
    # Results are read without these keys, too: then both lack them, or they differ.
    if first.get("weights") != second.get("weights"):
        found.append("the lesions were found by different networks or drawn by hand")
    if first.get("covsev_version") != second.get("covsev_version"):
        found.append("the scans were assessed by different versions of covsev")
    found += [f"{content['case']}: a quality check failed" for content in (first, second) if _failed(content)]
    volumes_ml = [content["regions"]["both_lungs"]["volume_ml"] for content in (first, second)]
    if None not in volumes_ml:
        smaller, larger = sorted(volumes_ml)
        if larger > _BREATH_FACTOR * smaller:
            text = f"{volumes_ml[0]:.0f} and {volumes_ml[1]:.0f} ml of lung: breath-hold or coverage differ"
            found.append(f"{text}; percentages change with them")
    # A deeper breath makes a share smaller, although the lesion may have grown.
    opposite = both.change_ml and both.change_pct and both.change_ml * both.change_pct < 0
    if opposite:
        found.append("millilitres and percent changed in opposite directions")
    return tuple(found)


def write_change(change: Change, folder: Path) -> Path:
    """Write ``<first>_to_<second>_change.json`` into ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{change.first}_to_{change.second}_change.json"
    write_json({"disclaimer": DISCLAIMER, **asdict(change), "warnings": list(change.warnings)}, path)
    return path
