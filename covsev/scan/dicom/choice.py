"""One CT series of each study: which reconstruction to assess, and why not the others.

Quantification wants thin axial slices of a kernel without edge enhancement: sharp kernels add noise, which moves
voxels over density thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covsev.errors import ScanError
from covsev.scan import ScanSource
from covsev.scan.dicom import series as dicom
from covsev.scan.dicom.frames import Header, text
from covsev.scan.writing import write_json

SOFT, UNKNOWN, SHARP = "soft", "unknown", "sharp"
THIN_MM, THICK_MM = 3.0, 5.0
"""Up to 3 mm a slice is thin, above 5 mm it is thick, which is flagged in any scan (docs/limits.md)."""
_MIN_SLICES = 20
"""Fewer do not cover a chest: 20 slices of 5 mm are 10 cm."""
_MIN_AXIAL = 0.9
"""Least cosine between the slices' normal and the patient's long axis: an angle of about 26 degrees."""
_SIEMENS_SHARP = 50
"""Of kernels such as B31f and Br40d: from this number on they enhance edges."""
_TOSHIBA_SOFT = 20
"""FC01 to FC19 are for the body, FC30 and above for bone and lung. What is not surely soft counts as sharp."""
_NAMED = {
    **dict.fromkeys(("SOFT", "STANDARD", "DETAIL", "A", "B", "C"), SOFT),  # GE; Philips
    **dict.fromkeys(("LUNG", "BONE", "BONEPLUS", "EDGE", "D", "E", "L", "YA", "YB", "YC", "YD"), SHARP),
}
# A part of the body in one or two letters, two digits for the sharpness, and often one more letter.
_SIEMENS = re.compile(r"[A-Z][A-Z]?(\d\d)[A-Z]?")
_TOSHIBA = re.compile(r"FC(\d\d)")
# Whole words of ImageType or of the description: several slices shown as one are no slice to measure.
_PROJECTION = re.compile(r"\b(MIP|MINIP|AVERAGE)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What of a series decides the choice.

    Attributes:
        description: SeriesDescription.
        kernel: ConvolutionKernel as written.
        sharpness: ``soft``, ``unknown`` or ``sharp``.
        thickness_mm: of a slice; ``None`` where the headers do not say.
        slices: how many.
        unfit: why the series is no stack of axial slices of the chest; ``""`` if it is one.
    """

    description: str
    kernel: str
    sharpness: str
    thickness_mm: float | None
    slices: int
    unfit: str


@dataclass(frozen=True)
class Candidate:
    """One series: its source, its facts, and whether it was chosen or why not."""

    source: ScanSource
    facts: Facts
    chosen: bool
    reason: str


def choose_series(sources: Sequence[ScanSource]) -> tuple[list[ScanSource], list[Candidate]]:
    """Keep one CT series of each study. What is no CT series stays, so that a batch can say what it is.

    Preferred are, in this order: axial slices, enough for a chest; slices up to 3 mm thick, then up to 5 mm, then
    thicker; a soft kernel, then an unknown one, then a sharp one; thinner slices; more slices.

    Returns:
        what to assess, in the order given; and every CT series, with the reason why it was chosen or not.
    """
    studies: dict[str, list[tuple[ScanSource, Facts]]] = {}
    others = []
    for source in sources:
        known = _facts(source)
        if known is None:
            others.append(source)
        else:
            study, facts = known
            studies.setdefault(study, []).append((source, facts))
    candidates = [candidate for found in studies.values() for candidate in _compare(found)]
    kept = {candidate.source for candidate in candidates if candidate.chosen} | set(others)
    return [source for source in sources if source in kept], candidates


def sharpness_of(kernel: str) -> str:
    """Whether a convolution kernel enhances edges, by the names that Siemens, GE, Philips and Toshiba give."""
    name = kernel.upper().strip()
    # Toshiba's before Siemens': FC01 fits both patterns.
    if name in _NAMED:
        return _NAMED[name]
    toshiba = _TOSHIBA.match(name)
    if toshiba:
        return SOFT if int(toshiba[1]) < _TOSHIBA_SOFT else SHARP
    siemens = _SIEMENS.fullmatch(name)
    if siemens:
        return SOFT if int(siemens[1]) < _SIEMENS_SHARP else SHARP
    return UNKNOWN


def _facts(source: ScanSource) -> tuple[str, Facts] | None:
    """Study and facts of a CT series; ``None`` for everything else, and for headers that cannot be understood."""
    if not source.series_uid:
        return None
    try:
        return _facts_of(dicom.slice_headers(source.path, source.series_uid))
    except (ScanError, ValueError, TypeError):  # of values that are no numbers; reading the series says what is wrong
        return None


def _facts_of(headers: Sequence[Header]) -> tuple[str, Facts]:
    first = headers[0]
    kernel, thickness = _first_value(first, "ConvolutionKernel"), text(first, "SliceThickness")
    facts = Facts(
        description=text(first, "SeriesDescription"),
        kernel=kernel,
        sharpness=sharpness_of(kernel),
        thickness_mm=float(thickness) if thickness else None,
        slices=len(headers),
        unfit=_unfit(headers),
    )
    return text(first, "StudyInstanceUID"), facts


def _first_value(header: Header, tag: str) -> str:
    """The first of a tag's values: Siemens' kernels have a second one, the strength of iterative reconstruction."""
    value: Any = header.get(tag) or ""
    return value if isinstance(value, str) else str(value[0])


def _unfit(headers: Sequence[Header]) -> str:
    first = headers[0]
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    # Either sign: slices may be looked at from the feet or from the head.
    if abs(np.cross(row, column)[2]) < _MIN_AXIAL:
        return "not axial"
    if _PROJECTION.search(f"{text(first, 'ImageType')} {text(first, 'SeriesDescription')}"):
        return "a projection of several slices"
    return f"only {len(headers)} slices" if len(headers) < _MIN_SLICES else ""


def _rank(facts: Facts) -> tuple[int, ...]:
    """Smaller is better. An earlier number decides before a later one; _RANKED_BY says what each stands for."""
    # An unknown thickness ranks behind all that are known to be thin, and before the thick ones.
    thickness_mm = THICK_MM if facts.thickness_mm is None else facts.thickness_mm
    return (
        int(bool(facts.unfit)),
        int(thickness_mm > THIN_MM) + int(thickness_mm > THICK_MM),  # thin 0, medium 1, thick 2
        (SOFT, UNKNOWN, SHARP).index(facts.sharpness),
        round(1000 * thickness_mm),  # whole micrometres, so that rounding in a header decides nothing
        -facts.slices,
    )


_RANKED_BY = ("", "thicker slices", "a sharper kernel", "thicker slices", "fewer slices")


def _compare(found: Sequence[tuple[ScanSource, Facts]]) -> list[Candidate]:
    """The best of one study first, then the others, each with the first thing in which it is worse."""
    ordered = sorted(found, key=_order)
    best_source, best = ordered[0]
    rest = [Candidate(source, facts, False, _worse(facts, best)) for source, facts in ordered[1:]]
    reason = f"best of {len(ordered)}" if rest else "the only one"
    return [Candidate(best_source, best, True, reason), *rest]


def _order(item: tuple[ScanSource, Facts]) -> tuple[tuple[int, ...], str]:
    """By rank. Among equals the UID decides, so that the choice does not depend on the files' names."""
    source, facts = item
    return _rank(facts), source.series_uid or ""


def _worse(facts: Facts, best: Facts) -> str:
    pairs = zip(_rank(facts), _rank(best), strict=True)
    place = next((i for i, (mine, its) in enumerate(pairs) if mine != its), None)
    if place is None:
        return "equal to the chosen one"
    return facts.unfit if place == 0 else _RANKED_BY[place]


def write_choice(candidates: Sequence[Candidate], path: Path) -> None:
    """Write ``series.json``: every CT series by its case name, its facts, and why it was chosen or not."""
    rows = [{"case": c.source.case, "chosen": c.chosen, "reason": c.reason, **asdict(c.facts)} for c in candidates]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json({"series": rows}, path)
