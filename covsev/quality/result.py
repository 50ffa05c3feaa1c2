"""Checks of input and result: each flag has a level, a code for tables, a sentence for readers, and its numbers.

A ``fail`` stops the scores, never the masks. What is checked, and with which limits, is data in
:mod:`covsev.quality.table`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.morphology import mean_x
from covsev.labels import LEFT_LUNG, LUNGS, RIGHT_LUNG
from covsev.quality.scan import check_geometry, check_scan
from covsev.quality.table import FAIL, PASS, WARN, Flag, limits, make_flag
from covsev.scan import Scan, to_canonical
from covsev.severity import RegionMeasures, SeverityReport, withhold

if TYPE_CHECKING:  # SimpleITK takes a moment to import, and masks made elsewhere do not need it
    from covsev.anatomy.lobes.segment import LobeSegmentation
    from covsev.anatomy.lungs.segment import LungSegmentation

__all__ = [
    "FAIL",
    "PASS",
    "WARN",
    "Flag",
    "check",
    "check_geometry",
    "check_masks",
    "check_scan",
    "failure",
    "stopped_by",
    "worst_level",
]


def worst_level(flags: tuple[Flag, ...]) -> str:
    """``pass`` without flags, else the worst level among them."""
    levels = {flag.level for flag in flags}
    return FAIL if FAIL in levels else WARN if WARN in levels else PASS


def failure(flags: tuple[Flag, ...]) -> str | None:
    """Why there is no score: the failed checks in words; ``None`` if none failed."""
    # Warnings are left out: they are no reason for a missing score.
    failed = [f"{flag.code} ({flag.text})" for flag in flags if flag.level == FAIL]
    return f"quality check failed: {'; '.join(failed)}" if failed else None


def stopped_by(report: SeverityReport, flags: tuple[Flag, ...]) -> SeverityReport:
    """The report; its scores are withheld where a quality check failed."""
    reason = failure(flags)
    return withhold(report, reason) if reason else report


def check(
    scan: Scan,
    lungs: LungSegmentation,
    lobes: LobeSegmentation,
    lesions: NDArray[np.uint8],
    regions: Mapping[str, RegionMeasures],
) -> tuple[Flag, ...]:
    """All flags of one scan and its masks.

    Args:
        scan: the scan.
        lungs, lobes: as segmented.
        lesions: (X, Y, Z) labels.
        regions: measures by region name.
    """
    return (
        *check_scan(scan, lungs.labels),
        *check_masks(scan, lungs.labels, lobes.labels, lesions, regions),
        *_check_lungs(lungs, regions),
        *_check_lobes(lobes),
    )


# ---- the masks ---------------------------------------------------------------------------------------------------


def check_masks(
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    regions: Mapping[str, RegionMeasures],
) -> tuple[Flag, ...]:
    """Flags of masks, however they were made.

    Args:
        scan: the scan, or only its grid.
        lungs, lobes, lesions: (X, Y, Z) labels.
        regions: measures by region name.
    """
    sides = to_canonical(lungs, scan.affine)  # top, bottom, right and left are the patient's, not the array's
    return (
        *_borders(sides),
        *_sides(sides),
        *_volumes(regions),
        *_densities(regions),
        *_overlaps(lungs, lobes, lesions, scan.voxel_ml),
    )


def _borders(sides: NDArray[np.uint8]) -> Iterator[Flag]:
    """Lung at a border of the scan: how much lies beyond it cannot be known."""
    right_left = sides[0], sides[-1]
    front_back = sides[:, 0], sides[:, -1]
    borders = {
        "cut_at_top": (sides[:, :, -1],),
        "cut_at_bottom": (sides[:, :, 0],),
        "cut_at_side": (*right_left, *front_back),
    }
    for code, faces in borders.items():
        # A single voxel is enough: the flag is a warning, and a lobe's values have a limit of their own.
        if any(bool(face.any()) for face in faces):
            text = f"lung touches the scan's border ({code.replace('_', ' ')}): volumes are too small"
            yield make_flag(code, text, voxels=sum(int(np.count_nonzero(face)) for face in faces))


def _sides(sides: NDArray[np.uint8]) -> Iterator[Flag]:
    """A right lung on the patient's left, which is where x grows."""
    right, left = (mean_x(sides == lung.id) for lung in (RIGHT_LUNG, LEFT_LUNG))
    if right > left:  # never where a lung is absent: its place is nan
        text = "the right lung lies to the left of the left lung: the header or the labels are wrong"
        yield make_flag("sides_swapped", text)


def _volumes(regions: Mapping[str, RegionMeasures]) -> Iterator[Flag]:
    """Too little lung, a lung of an odd volume, or two lungs that do not match."""
    volumes = {lung.name: regions[lung.name].volume_ml for lung in LUNGS}
    both_ml = regions["both_lungs"].volume_ml or 0  # absent is no lung, too
    if both_ml < limits("no_chest")["both_ml"]:
        yield make_flag("no_chest", f"{both_ml:.0f} ml of lung: not a chest, or a failed mask", ml=both_ml)
    limit = limits("lung_volume")
    least, most = limit["min_ml"], limit["max_ml"]
    for name, volume_ml in volumes.items():
        # An absent lung raises nothing here: ``one_lung`` already says so.
        if volume_ml is not None and not least <= volume_ml <= most:
            yield make_flag("lung_volume", f"{name.replace('_', ' ')} has {volume_ml:.0f} ml", ml=volume_ml)
    right_ml, left_ml = volumes[RIGHT_LUNG.name], volumes[LEFT_LUNG.name]
    limit = limits("left_right_ratio")
    if right_ml and left_ml:
        ratio = left_ml / right_ml
        if not limit["min"] <= ratio <= limit["max"]:
            yield make_flag("left_right_ratio", f"left lung / right lung is {ratio:.2f}", ratio=ratio)


def _densities(regions: Mapping[str, RegionMeasures]) -> Iterator[Flag]:
    """Lungs whose mean is not that of lung: the values may be shifted, or no HU at all."""
    mean_hu = regions["both_lungs"].mean_hu
    limit = limits("not_hu")
    least, most = limit["min_mean"], limit["max_mean"]
    if mean_hu is not None and not least <= mean_hu <= most:
        yield make_flag("not_hu", f"the lungs' mean is {mean_hu:.0f}; voxels may not be HU", mean_hu=mean_hu)


def _overlaps(
    lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8], voxel_ml: float
) -> Iterator[Flag]:
    """Lobes that are not the lungs, and lesion outside of them."""
    lung_voxels, differing, lesion_voxels, outside = _overlap_voxels(lungs, lobes, lesions)
    differ_pct = 100 * differing / max(1, lung_voxels)
    differ_limit_pct = limits("lobes_not_lungs")["pct"]
    # Lobes that could not be placed are empty, which has a flag of its own.
    if lung_voxels and lobes.any() and differ_pct > differ_limit_pct:
        text = f"lobes and lungs differ by {differ_pct:.0f} % of the lungs' volume"
        yield make_flag("lobes_not_lungs", text, pct=differ_pct)
    total_ml, outside_ml = lesion_voxels * voxel_ml, outside * voxel_ml
    limit = limits("lesion_outside_lung")
    # Masks of two programs seldom end at the same voxel: a part of a large lesion is tolerated, a little of any.
    tolerated_ml = max(limit["ml"], limit["pct"] / 100 * total_ml)
    if outside_ml > tolerated_ml:
        text = f"{outside_ml:.0f} of {total_ml:.0f} ml of lesion lie outside the lungs and do not count"
        yield make_flag("lesion_outside_lung", text, outside_ml=outside_ml, lesion_ml=total_ml)


def _overlap_voxels(
    lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> tuple[int, int, int, int]:
    """Voxels of lung, of lung without lobe or lobe without lung, of lesion, and of lesion outside the lungs."""
    found = np.zeros(4, dtype=np.int64)
    # Slice by slice, as the arrays lie in memory: masks of the whole volume would be large and slow.
    for lung, lobe, lesion in zip(lungs.T, lobes.T, lesions.T, strict=True):
        lung, lobe, lesion = lung > 0, lobe > 0, lesion > 0
        masks = lung, lung != lobe, lesion, lesion & ~lung
        found += [np.count_nonzero(mask) for mask in masks]
    of_lung, differing, of_lesion, outside = (int(number) for number in found)
    return of_lung, differing, of_lesion, outside


# ---- how the masks were made -------------------------------------------------------------------------------------


def _check_lungs(lungs: LungSegmentation, regions: Mapping[str, RegionMeasures]) -> Iterator[Flag]:
    """What the segmentation of the lungs met: touching lungs, dense lung, leaks, fluid."""
    # Codes that the segmentation itself raises; the rest is decided here, by volumes.
    texts = {
        "fused": "right and left lung touched and were split",
        "one_lung": "only one lung was found; the other side has no values",
        "lungs_by_threshold": f"dense lung may be missing: {lungs.method}",
    }
    for code in lungs.flags:
        yield make_flag(code, texts[code])
    volume_ml = regions["both_lungs"].volume_ml
    if volume_ml:
        recovered_pct = 100 * lungs.recovered_ml / volume_ml
        if recovered_pct > limits("much_recovered")["pct"]:
            text = f"{lungs.recovered_ml:.0f} ml of the lungs are dense: a threshold alone would have dropped them"
            yield make_flag("much_recovered", text, ml=lungs.recovered_ml)
    leak_ml, effusion_ml = lungs.leak_suspected_ml, lungs.possible_effusion_ml
    if leak_ml > limits("leak_suspected")["ml"]:
        text = f"{leak_ml:.0f} ml of dense lung lie far from all aerated lung: look whether they are lung"
        yield make_flag("leak_suspected", text, ml=leak_ml)
    if effusion_ml > limits("possible_effusion")["ml"]:
        text = f"{effusion_ml:.0f} ml at the back of the lungs have the density of fluid and are not counted as lung"
        yield make_flag("possible_effusion", text, ml=effusion_ml)


def _check_lobes(lobes: LobeSegmentation) -> Iterator[Flag]:
    """How surely the lobes were placed: not at all, from the prior alone, or with little of a fissure seen."""
    if lobes.method == "none":
        yield make_flag("lobes_cut", f"lobes cannot be placed, so they have no values: {lobes.reason}")
    elif lobes.method == "prior":
        yield make_flag("lobes_prior_only", f"lobes are placed by the shape prior: {lobes.reason}")
    else:
        limit = limits("low_fissure_support")["share"]
        low = {name: share for name, share in lobes.fissure_support.items() if share < limit}
        if low:
            shares = (f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, share in low.items())
            text = f"share of the fissure that is seen: {', '.join(shares)}"
            yield make_flag("low_fissure_support", text, **low)
