"""The report of one scan: one HTML file with its pictures inside, that needs no network and no covsev to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from covsev.labels import DISCLAIMER, LESIONS, LOBES, LUNGS
from covsev.report.page.charts import colour_scale, density_histogram, lobe_colours
from covsev.report.page.slices import AXIAL, CORONAL, SlicePicture, picture_slices
from covsev.report.page.words import (
    LEVEL_TEXT,
    NO_VALUE,
    NOT_SAID,
    QUALITY_TEXT,
    capfirst,
    findings,
    interval_text,
    number,
    plain,
    plain_tree,
    reason_text,
    score_text,
)
from covsev.scan import Scan, replacing

_MONTAGE = {AXIAL: 6, CORONAL: 3}
"""Pictures of the overview, by plane. It is what a page without scripts, or a printed one, shows."""
_MAIN_SCORES = ("ctss25_pan2020", "po_chaganti2020", "mosmed_ct_worse_lung")
"""What stands at the top of the page: points, percent and a class."""
# The keys that have a place of their own on the page. All others are listed as "extras", so that a newer version's
# results lose nothing on an older version's page.
_SHOWN = frozenset(
    {"case", "covsev_version", "disclaimer", "source", "weights", "networks", "method", "seconds", "outputs"}
    | {"noise_floor_ml", "quality", "flags", "finding", "uncertainty", "scores", "regions", "subregions", "fingerprint"}
)
_SCORE_SHOWN = frozenset(
    {"title", "unit", "source", "approximate", "value", "maximum", "parts", "reading", "reason", "near_edge"}
)
_REGION_COLUMNS = {
    "volume_ml": "volume, ml",
    "lesion_ml": "lesion, ml",
    "ggo_ml": "ground glass, ml",
    "consolidation_ml": "consolidation, ml",
    "high_opacity_ml": "high opacity, ml",
    "mean_hu": "mean, HU",
    "lesion_mean_hu": "lesion mean, HU",
    "well_aerated_pct": "well aerated, %",
}


def environment() -> Environment:
    """Templates of all pages. Values are escaped, and a name that a template misspells is an error."""
    # Case names and reasons come from files: escaped, none of them can be a script.
    made = Environment(
        loader=PackageLoader("covsev.report.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"number": number, "plain": plain, "reason": reason_text, "caption": caption, "capfirst": capfirst}
    return made


def write_report(
    content: Mapping[str, Any],
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    path: Path,
    *,
    viewer: bool = False,
) -> None:
    """Write the page of one scan.

    Args:
        content: of its JSON file; keys that are not known here are shown as they are.
        scan: the scan.
        lungs, lobes, lesions: (X, Y, Z) labels on its grid.
        path: of the HTML file.
        viewer: also an interactive viewer in three planes; see :mod:`covsev.report.page.niivue`.

    Raises:
        CovsevError: if the viewer is wanted and its package is not installed.
    """
    page = report_page(content, scan, lungs, lobes, lesions, viewer=viewer)
    # Bytes of a path that are no text become escapes, as in the tables.
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def report_page(
    content: Mapping[str, Any],
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    *,
    viewer: bool = False,
) -> str:
    """The page of :func:`write_report` as text."""
    pictures = picture_slices(scan, lungs, lobes, lesions)
    return (
        environment()
        .get_template("report.html")
        .render(
            **_summary(content),
            pictures=pictures,
            starts={plane: _worst(slices) for plane, slices in pictures.items()},
            captions={plane: _captions(plane, slices) for plane, slices in pictures.items()},
            # The bars under a slider are drawn to this; not to 0, where there is no lesion.
            most_cm2={plane: max(0.01, *(s.lesion_cm2 for s in slices)) for plane, slices in pictures.items()},
            montage={plane: _spread(pictures[plane], count) for plane, count in _MONTAGE.items()},
            histogram=density_histogram(scan.hu, lungs, lesions, scan.voxel_ml),
            labels={"lung": LUNGS, "lobe": LOBES, "lesion": LESIONS},
            geometry=_geometry(scan),
            viewer=_viewer(scan, lungs, lobes, lesions) if viewer else None,
        )
        + "\n"
    )


def _viewer(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> Mapping[str, Any]:
    # Only here: the viewer is an extra, and most pages do without.
    from covsev.report.page.niivue import viewer_parts

    return viewer_parts(scan, lungs, lobes, lesions)


def _summary(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates need of the JSON content, in words."""
    # Keys are asked for with a default: results of an older version may lack them, and still get a page.
    regions, scores = content.get("regions", {}), content.get("scores", {})
    quality = str(content.get("quality", "warn"))
    finding = content.get("finding", {})
    uncertainty = content.get("uncertainty") or {}
    intervals, region_intervals = uncertainty.get("scores", {}), uncertainty.get("regions", {})
    shown = {id_: _score(id_, score, intervals.get(id_, {})) for id_, score in scores.items()}
    return {
        "case": content["case"],
        # The name alone: folders may name a patient or a hospital.
        "source": PurePath(str(content.get("source", ""))).name or NO_VALUE,
        "version": content.get("covsev_version", NO_VALUE),
        "disclaimer": content.get("disclaimer", DISCLAIMER),
        "quality": {"level": quality, "word": LEVEL_TEXT.get(quality, quality), "text": QUALITY_TEXT.get(quality, "")},
        "findings": findings(content.get("flags", ())),
        "levels": LEVEL_TEXT,
        "finding": {"state": finding.get("state", "uncertain"), "text": finding.get("text", NOT_SAID)},
        "main_scores": [shown[id_] for id_ in _MAIN_SCORES if id_ in shown],
        "scores": list(shown.values()),
        "intervals": bool(uncertainty),
        "regions": regions,
        "region_columns": _REGION_COLUMNS,
        "region_rows": _region_rows(regions, region_intervals),
        "lobe_colours": lobe_colours(regions),
        "lobes": LOBES,
        "scale": colour_scale(),
        "method": content.get("method", {}),
        "networks": content.get("networks", {}),
        "weights": content.get("weights", NO_VALUE),
        "noise_floor_ml": content.get("noise_floor_ml"),
        "extras": {plain(key): plain_tree(value) for key, value in content.items() if key not in _SHOWN},
    }


def _score(id_: str, score: Mapping[str, Any], interval: Mapping[str, Any]) -> dict[str, Any]:
    value = score_text(score)
    return {
        "id": id_,
        "title": score.get("title", plain(id_)),
        "text": value,
        "interval": interval_text(interval, str(score.get("unit", ""))),
        "moves": interval.get("text") or "",
        "reading": score.get("reading") or "",
        "reason": reason_text(score) if value == NO_VALUE else "",
        "approximate": score.get("approximate") or "",
        "near_edge": [plain(name) for name in score.get("near_edge") or ()],
        "source": score.get("source", ""),
        "extras": {plain(key): plain_tree(item) for key, item in score.items() if key not in _SCORE_SHOWN},
    }


def _region_rows(
    regions: Mapping[str, Mapping[str, Any]], intervals: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    titles = {label.name: label.text for label in (*LUNGS, *LOBES)}
    return [
        {
            "name": name,
            "title": titles.get(name, plain(name)),
            "lobe": name in {lobe.name for lobe in LOBES},
            "pct": measures.get("lesion_pct"),
            "interval": interval_text(intervals.get(name, {}).get("lesion_pct") or {}, "%"),
            "cells": [_cell(measures.get(column), column) for column in _REGION_COLUMNS],
            "reason": reason_text(measures) if measures.get("volume_ml") is None else "",
        }
        for name, measures in regions.items()
    ]


def _cell(value: Any, column: str) -> str:
    text = number(value, 0 if column.endswith("_hu") else 1)
    # The row's reason says why there is none, so a cell need not.
    return "-" if text == NO_VALUE else text


def _worst(pictures: Sequence[SlicePicture]) -> int:
    """Index of the slice with most lesion, the middle one without any."""
    areas = [picture.lesion_cm2 for picture in pictures]
    if not any(areas):
        return len(pictures) // 2
    return int(np.argmax(areas))


def caption(plane: str, picture: SlicePicture) -> str:
    """A slice in words."""
    lesion = "no lung" if picture.lesion_pct is None else f"lesion {number(picture.lesion_pct)} % of its lung"
    return f"{plane} slice {picture.number} of {picture.of}, {lesion}"


def _captions(plane: str, pictures: Sequence[SlicePicture]) -> str:
    """Pictures and their captions for the page's script, which shows one at a time."""
    return json.dumps([{"id": picture.id, "text": caption(plane, picture)} for picture in pictures])


def _spread(pictures: Sequence[SlicePicture], count: int) -> list[SlicePicture]:
    """``count`` pictures, evenly spread, the one with most lesion among them."""
    spread = np.linspace(0, len(pictures) - 1, count + 2)
    # Without the first and the last, which show the tips of the lungs; few pictures may fall on the same place twice.
    at = np.unique(spread.round().astype(int)[1:-1])
    if any(picture.lesion_cm2 for picture in pictures):
        worst = _worst(pictures)
        nearest = np.abs(at - worst).argmin()
        at[nearest] = worst
    places = sorted(set(at.tolist()))
    return [pictures[place] for place in places]


def _geometry(scan: Scan) -> str:
    voxels = " x ".join(str(n) for n in scan.hu.shape)
    sides_mm = " x ".join(f"{side:.3g}" for side in scan.spacing_mm)
    return f"{voxels} voxels of {sides_mm} mm, axes {scan.orientation}"
