"""Findings on the scan itself: its values, its slices, its geometry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev.labels import LEFT_LUNG, PADDING_HU, RIGHT_LUNG
from covsev.quality.table import Flag, limits, make_flag
from covsev.scan import CANONICAL_AXES, Scan, canonical_spacing_mm, to_canonical

_SAMPLES = 128  # about so many rows and columns of a slice are compared with the next slice's
_NEIGHBOURS = 5  # slices on each side that a slice's change is compared with
_AIR_HU = -20  # a CT holds air far below this


def check_scan(scan: Scan, lungs: NDArray[np.uint8] | None = None) -> tuple[Flag, ...]:
    """Findings on the scan itself: its values, its slices, its geometry.

    Args:
        scan: the scan.
        lungs: (X, Y, Z) lung labels, between which contrast medium is looked for.
    """
    hu = to_canonical(scan.hu, scan.affine)
    contrast = () if lungs is None else _contrast(hu, to_canonical(lungs, scan.affine))
    return (*_values(hu), *_slices(hu), *contrast, *check_geometry(scan))


def _values(hu: NDArray[Any]) -> Iterator[Flag]:
    low, high = float(hu.min()), float(hu.max())
    span = f"values run from {low:g} to {high:g}"
    numbers = {"min": low, "max": high}
    if hu.dtype.kind == "i" and low >= 0 and high <= 255:
        yield make_flag("eight_bit", f"{span}: an 8-bit picture, not HU; use the original CT", **numbers)
    elif low > _AIR_HU:
        yield make_flag("not_hu", f"{span}: no air, so this is not CT in HU; check modality and rescaling", **numbers)
    elif low > limits("windowed")["low_hu"] or high < limits("windowed")["high_hu"]:
        yield make_flag("windowed", f"{span}: clipped to a window; use the original CT", **numbers)


def _slices(hu: NDArray[Any]) -> Iterator[Flag]:
    step_x, step_y = (max(1, side // _SAMPLES) for side in hu.shape[:2])
    grid = hu[::step_x, ::step_y]
    blank = np.array([np.ptp(grid[:, :, z]) == 0 for z in range(grid.shape[2])])
    inner = np.flatnonzero(~blank)
    inside = int(blank[inner[0] : inner[-1]].sum()) if len(inner) else 0
    if inside:
        yield make_flag("blank_slices", f"{inside} slices inside the scan hold one value only", slices=inside)
    compared = [int(z) for z in inner[:-1] if not blank[z + 1]]
    change = np.array([_change(grid, z) for z in compared])
    repeated = int((change == 0).sum())
    if repeated:
        yield make_flag("repeated_slices", f"{repeated} slices equal the slice below", slices=repeated)
    usual = [np.median(change[max(0, k - _NEIGHBOURS) : k + _NEIGHBOURS + 1]) for k in range(len(change))]
    ratio = change / np.maximum(usual, 1.0) if len(change) else np.zeros(1)
    if not repeated and ratio.max() > limits("slices_missing")["ratio"]:
        at = compared[int(ratio.argmax())]
        text = f"slices {at} and {at + 1} from below differ {ratio.max():.1f} times as much as their neighbours"
        yield make_flag("slices_missing", f"{text}: slices may be missing", ratio=ratio.max(), slice=at)


def _change(grid: NDArray[Any], z: int) -> float:
    """Mean change of HU, clipped to that of lung and soft tissue, from slice z to the next."""
    lower, upper = (np.clip(grid[:, :, k].astype(np.float32), PADDING_HU, 400) for k in (z, z + 1))
    return float(np.abs(upper - lower).mean())


def _contrast(hu: NDArray[Any], lungs: NDArray[np.uint8]) -> Iterator[Flag]:
    """Share of bright soft tissue between the lungs, in the middle of their height, before the spine."""
    occupied = np.flatnonzero((lungs > 0).any(axis=(0, 1)))
    if len(occupied) == 0:
        return
    bottom, top = np.percentile(occupied, [35, 65]).astype(int)
    middle, density = lungs[:, :, bottom : top + 1], hu[:, :, bottom : top + 1]
    rows = np.flatnonzero((middle > 0).any(axis=(0, 2)))
    columns = [np.flatnonzero((middle == lung.id).any(axis=(1, 2))) for lung in (RIGHT_LUNG, LEFT_LUNG)]
    if len(rows) == 0 or min(map(len, columns)) == 0:
        return
    front, back = (rows[0] + np.array([0.25, 0.6]) * np.ptp(rows)).astype(int)
    box = slice(*sorted(int(c.mean()) for c in columns)), slice(int(front), int(back) + 1)
    tissue = density[box][(middle[box] == 0) & (density[box] > _AIR_HU) & (density[box] < 500)]
    limit = limits("contrast")
    share_pct = 100 * np.count_nonzero(tissue > limit["hu"]) / max(1, tissue.size)
    if share_pct > limit["share_pct"]:
        text = f"{share_pct:.0f} % of the tissue between the lungs is above {limit['hu']:g} HU: contrast medium"
        yield make_flag("contrast", text, share_pct=share_pct)


def check_geometry(scan: Scan) -> Iterator[Flag]:
    """Findings on the scan's grid alone."""
    x_mm, y_mm, z_mm = canonical_spacing_mm(scan)
    slices = scan.hu.shape[int(np.argmax(nib.io_orientation(scan.affine)[:, 0] == CANONICAL_AXES.index("S")))]
    if z_mm > limits("thick_slices")["mm"]:
        yield make_flag("thick_slices", f"slices are {z_mm:.1f} mm apart; small lesions may be missed", mm=z_mm)
    if scan.header is not None and not (scan.header["sform_code"] or scan.header["qform_code"]):
        text = "the header does not say how the patient lies: right and left may be swapped"
        yield make_flag("no_orientation", text)
    if slices < limits("too_few_slices")["slices"]:
        yield make_flag("too_few_slices", f"only {slices} slices, too few for volumes", slices=slices)
    elif slices < limits("few_slices")["slices"]:
        yield make_flag("few_slices", f"only {slices} slices", slices=slices)
    ratio = max(x_mm, y_mm) / min(x_mm, y_mm)
    oblique_deg = _obliquity_deg(scan.affine)
    if ratio > limits("non_axial")["ratio"] or oblique_deg > limits("non_axial")["deg"]:
        text = (
            f"not axial slices: in-plane spacings differ {ratio:.1f} times, the grid is {oblique_deg:.0f} deg oblique"
        )
        yield make_flag("non_axial", text, ratio=ratio, deg=oblique_deg)
    if scan.tilt_deg > limits("tilted")["deg"]:
        text = f"slices are tilted by {scan.tilt_deg:.0f} deg (gantry): volumes are exact, lobes less certain"
        yield make_flag("tilted", text, deg=scan.tilt_deg)


def _obliquity_deg(affine: NDArray[np.float64]) -> float:
    """Largest angle between an array axis and the patient's axis that it is nearest to."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0).min(), 0, 1))))
