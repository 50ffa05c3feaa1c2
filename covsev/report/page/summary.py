"""One page a scan for slides and folders, as PNG or PDF: scores, lobes, findings and the overlay. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from covsev.errors import CovsevError
from covsev.labels import DISCLAIMER, LOBES
from covsev.report.page.words import (
    LEVEL_TEXT,
    NO_VALUE,
    capfirst,
    findings,
    interval_text,
    number,
    reason_text,
    score_text,
)
from covsev.scan import replacing

_A4_LANDSCAPE_INCHES = (11.69, 8.27)
_PNG_DPI = 150
_QUALITY_WIDTH, _QUALITY_LINES = 48, 22
"""Characters and lines of 8 points that fit into the column below "Quality"."""
# The scores of the left column, in this order.
_SCORES = (
    "ctss25_pan2020",
    "po_chaganti2020",
    "pho_chaganti2020",
    "mosmed_ct_worse_lung",
    "ctss40_yang2020",
    "wal_colombi2020",
)


def write_summary_page(content: Mapping[str, Any], overlay: Path, path: Path) -> None:
    """Write the page.

    Args:
        content: of the scan's JSON file.
        overlay: the scan's picture.
        path: ``.png`` or ``.pdf``.

    Raises:
        CovsevError: if matplotlib is not installed, the picture is missing, or ``path`` ends in something else.
    """
    if path.suffix not in (".png", ".pdf"):
        raise CovsevError(f"{path}: a summary page is .png or .pdf")
    if not overlay.is_file():
        raise CovsevError(f"{overlay}: missing; assess the scan again")
    # Only here: matplotlib is an extra. Figure without pyplot needs no display and keeps no global state.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CovsevError("the summary page needs matplotlib; install covsev[agreement]") from error
    figure = Figure(figsize=_A4_LANDSCAPE_INCHES)
    # Places are parts of the page, from its lower left corner. A "$" in a case's name is no formula.
    figure.text(0.04, 0.945, content["case"], fontsize=20, weight="bold", parse_math=False)
    figure.text(0.04, 0.915, f"{capfirst(DISCLAIMER)}. covsev {content.get('covsev_version', '')}", fontsize=9)
    _picture(figure, overlay)
    _scores(figure, content)
    _lobes(figure, content.get("regions", {}))
    _quality(figure, content)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=_PNG_DPI, metadata=_metadata(path, content))


def _metadata(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """A title; no date in the PDF, so that equal results give equal files."""
    title = {"Title": f"{content['case']}: covsev, {DISCLAIMER}"}
    return title | ({"CreationDate": None} if path.suffix == ".pdf" else {})


def _picture(figure: Any, overlay: Path) -> None:
    panel = figure.add_axes((0.04, 0.46, 0.92, 0.44))
    with Image.open(overlay) as image:
        panel.imshow(image.convert("RGB"), interpolation="antialiased")
    panel.set_axis_off()


def _scores(figure: Any, content: Mapping[str, Any]) -> None:
    scores = content.get("scores", {})
    intervals = (content.get("uncertainty") or {}).get("scores", {})
    _heading(figure, 0.04, "Scores")
    top = 0.395
    for id_ in (id_ for id_ in _SCORES if id_ in scores):
        score = scores[id_]
        interval = interval_text(intervals.get(id_, {}), str(score.get("unit", "")))
        value = score_text(score) + (f" ({interval})" if interval else "")
        title = "\n".join(textwrap.wrap(score.get("title", id_), 34))
        figure.text(0.04, top, title, fontsize=9, va="top")
        figure.text(0.36, top, value, fontsize=10, weight="bold", va="top", ha="right")
        # A title of two lines pushes the next score down by one line more.
        top -= 0.035 + 0.018 * title.count("\n")


def _heading(figure: Any, left: float, text: str) -> None:
    figure.text(left, 0.42, text, fontsize=12, weight="bold")


def _lobes(figure: Any, regions: Mapping[str, Mapping[str, Any]]) -> None:
    _heading(figure, 0.40, "Lesion in percent of each lobe")
    panel = figure.add_axes((0.50, 0.12, 0.16, 0.28))
    known = [regions.get(lobe.name, {}).get("lesion_pct") for lobe in LOBES]
    # A lobe without a value has no bar; the text beside it says that it is not a 0.
    lengths = [value or 0.0 for value in known]
    panel.barh(range(len(LOBES)), lengths, color=[_rgb(lobe.rgb) for lobe in LOBES])
    panel.set_yticks(range(len(LOBES)), [lobe.text for lobe in LOBES], fontsize=9)
    panel.invert_yaxis()  # the first lobe at the top
    widest = max([value for value in known if value is not None], default=0.0)
    # A third more than the widest bar, for its text; at least 5 %, so that traces of lesion look small.
    panel.set_xlim(0, max(5.0, 1.35 * widest))
    for row, value in enumerate(known):
        text = number(value)
        panel.text(value or 0.0, row, f" {text}{'' if text == NO_VALUE else ' %'}", va="center", fontsize=9)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _rgb(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255


def _missing(content: Mapping[str, Any]) -> dict[str, str]:
    """What has no value, by the reason."""
    scores, regions = content.get("scores", {}), content.get("regions", {})
    shown = [(scores[id_], scores[id_].get("title", id_), "value") for id_ in _SCORES if id_ in scores]
    shown += [(regions[lobe.name], lobe.text, "lesion_pct") for lobe in LOBES if lobe.name in regions]
    # One line a reason, since a failed check takes all scores away for the same one.
    missing: dict[str, list[str]] = {}
    for values, title, key in shown:
        if values.get(key) is None:
            missing.setdefault(reason_text(values), []).append(title)
    return {reason: _first_of(titles) for reason, titles in missing.items()}


def _first_of(titles: Sequence[str]) -> str:
    first, *others = titles
    return f"{first} and {len(others)} more" if others else first


def _quality(figure: Any, content: Mapping[str, Any]) -> None:
    level = str(content.get("quality", "warn"))
    _heading(figure, 0.70, f"Quality: {LEVEL_TEXT.get(level, level)}")
    lines = [capfirst(str(content.get("finding", {}).get("text", "")))]
    lines += [f"{finding.title}: {finding.text}" for finding in findings(content.get("flags", ()))]
    lines += [f"No value for {what}: {reason}" for reason, what in _missing(content).items()]
    wrapped = [textwrap.wrap(f"- {line}.", _QUALITY_WIDTH, subsequent_indent="  ") for line in lines if line]
    text = "\n".join("\n".join(part) for part in wrapped)
    # Cut by lines and not by findings: the last line that fits tells that there is more.
    shown = text.splitlines()
    if len(shown) > _QUALITY_LINES:
        text = "\n".join([*shown[: _QUALITY_LINES - 1], "  ... more in the report"])
    figure.text(0.70, 0.395, text, fontsize=8, va="top", parse_math=False)
