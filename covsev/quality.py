"""Checks of input and result: each finding has a level, a code for tables and a sentence for readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from covsev.anatomy.lobes import LobeSegmentation
from covsev.anatomy.lungs import LungSegmentation
from covsev.labels import LEFT_LUNG, LUNGS, RIGHT_LUNG
from covsev.scan import Scan, canonical_spacing_mm, to_canonical
from covsev.severity import RegionMeasures

PASS, WARN, FAIL = "pass", "warn", "fail"

_LUNG_ML = (500.0, 5000.0)
_LEFT_RIGHT_RATIO = (0.5, 1.5)
_THICK_SLICE_MM = 5.0
_FEW_SLICES = 20
_LUNG_MEAN_HU = (-950.0, -300.0)
_MUCH_RECOVERED_PCT = 10.0


@dataclass(frozen=True)
class Flag:
    """One finding.

    Attributes:
        level: ``warn`` (look at it) or ``fail`` (do not use the numbers).
        code: short stable name.
        text: what was found, with its numbers.
    """

    level: str
    code: str
    text: str


def worst_level(flags: tuple[Flag, ...]) -> str:
    """``pass`` without flags, else the worst level among them."""
    levels = {flag.level for flag in flags}
    return FAIL if FAIL in levels else WARN if WARN in levels else PASS


def check(
    scan: Scan, lungs: LungSegmentation, lobes: LobeSegmentation, regions: Mapping[str, RegionMeasures]
) -> tuple[Flag, ...]:
    """All findings on one scan and its masks."""
    return (
        *_check_scan(scan),
        *_check_borders(scan, lungs),
        *_check_lungs(lungs, regions),
        *_check_lobes(lobes),
    )


def _check_scan(scan: Scan) -> list[Flag]:
    spacing_z = canonical_spacing_mm(scan)[2]
    slices = to_canonical(scan.hu, scan.affine).shape[2]
    flags = []
    if spacing_z > _THICK_SLICE_MM:
        flags.append(Flag(WARN, "thick_slices", f"slices are {spacing_z:.1f} mm apart; small lesions may be missed"))
    if scan.header is not None and not (scan.header["sform_code"] or scan.header["qform_code"]):
        text = "the header does not say how the patient lies: right and left may be swapped"
        flags.append(Flag(WARN, "no_orientation", text))
    if slices < _FEW_SLICES:
        flags.append(Flag(WARN, "few_slices", f"only {slices} slices"))
    return flags


def _check_borders(scan: Scan, lungs: LungSegmentation) -> list[Flag]:
    labels = to_canonical(lungs.labels, scan.affine) > 0
    borders = {
        "cut_at_top": labels[:, :, -1],
        "cut_at_bottom": labels[:, :, 0],
        "cut_at_side": np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]),
    }
    return [
        Flag(WARN, code, f"lung touches the scan's border ({code.replace('_', ' ')}): volumes are too small")
        for code, border in borders.items()
        if border.any()
    ]


def _check_lungs(lungs: LungSegmentation, regions: Mapping[str, RegionMeasures]) -> list[Flag]:
    texts = {
        "fused": "right and left lung touched and were split",
        "one_lung": "only one lung was found; the other side has no values",
    }
    flags = [Flag(WARN, code, texts[code]) for code in lungs.flags]
    volumes = {lung.name: regions[lung.name].volume_ml for lung in LUNGS}
    for name, volume_ml in volumes.items():
        if volume_ml is not None and not _LUNG_ML[0] <= volume_ml <= _LUNG_ML[1]:
            flags.append(Flag(WARN, "lung_volume", f"{name.replace('_', ' ')} has {volume_ml:.0f} ml"))
    right_ml, left_ml = volumes[RIGHT_LUNG.name], volumes[LEFT_LUNG.name]
    if right_ml and left_ml and not _LEFT_RIGHT_RATIO[0] <= left_ml / right_ml <= _LEFT_RIGHT_RATIO[1]:
        flags.append(Flag(WARN, "left_right_ratio", f"left lung / right lung is {left_ml / right_ml:.2f}"))
    both = regions["both_lungs"]
    if both.mean_hu is not None and not _LUNG_MEAN_HU[0] <= both.mean_hu <= _LUNG_MEAN_HU[1]:
        flags.append(Flag(FAIL, "not_hu", f"the lungs' mean is {both.mean_hu:.0f}; voxels may not be HU"))
    if both.volume_ml and 100 * lungs.recovered_ml / both.volume_ml > _MUCH_RECOVERED_PCT:
        flags.append(Flag(WARN, "much_recovered", f"{lungs.recovered_ml:.0f} ml of dense lung were closed back in"))
    return flags


def _check_lobes(lobes: LobeSegmentation) -> list[Flag]:
    if lobes.method == "none":
        text = "the lungs are cut by the scan's end: lobes cannot be placed, so they have no values"
        return [Flag(WARN, "lobes_cut", text)]
    if lobes.method != "prior":
        return []
    text = "lobes are placed at the mean fissures of 100 people, not at this patient's"
    return [Flag(WARN, "lobes_prior_only", text)]
