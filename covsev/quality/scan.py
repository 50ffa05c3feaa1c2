"""Checks of the scan itself: its values, its slices, its geometry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev.labels import LEFT_LUNG, PADDING_HU, RIGHT_LUNG
from covsev.quality.table import Flag, limits, make_flag
from covsev.scan import CANONICAL_AXES, Scan, canonical_spacing_mm, to_canonical
from covsev.scan.boxes import occupied

_SAMPLES = 128
"""About so many rows and columns of a slice are compared with the next slice: enough to see a jump, and fast."""
_NEIGHBOURS = 5
"""Slices on each side that a change is compared with: the usual change differs along the body."""
_LARGEST_BYTE = 255
_AIR_HU = -20
"""A CT holds air far below this: values that all lie above it are no CT in HU."""
_SOFT_TISSUE_HU = (-20, 500)
"""Without fat and lung below it; what is denser than the upper end is bone, calcium or metal, not contrast medium."""
_MIDDLE_HEIGHT_PCT = (35, 65)
"""Part of the lungs' height, in percentiles of its slices, in which the heart and the large vessels lie."""
_BEFORE_SPINE = np.array([0.25, 0.6])
"""Part of the lungs' depth, from the front, that holds them but not the spine."""


def check_scan(scan: Scan, lungs: NDArray[np.uint8] | None = None) -> tuple[Flag, ...]:
    """Flags of the scan itself: its values, its slices, its geometry.

    Args:
        scan: the scan.
        lungs: (X, Y, Z) lung labels; contrast medium is looked for between them, and not without them.
    """
    hu = to_canonical(scan.hu, scan.affine)
    contrast = () if lungs is None else _contrast(hu, to_canonical(lungs, scan.affine))
    return (*_values(hu), *_slices(hu), *contrast, *check_geometry(scan))


def _values(hu: NDArray[Any]) -> Iterator[Flag]:
    """At most one flag: from the most particular reason to the least."""
    low, high = float(hu.min()), float(hu.max())
    span = f"values run from {low:g} to {high:g}"
    numbers = {"min": low, "max": high}
    window = limits("windowed")
    if hu.dtype.kind == "i" and low >= 0 and high <= _LARGEST_BYTE:
        yield make_flag("eight_bit", f"{span}: an 8-bit picture, not HU; use the original CT", **numbers)
    elif low > _AIR_HU:
        yield make_flag("not_hu", f"{span}: no air, so this is not CT in HU; check modality and rescaling", **numbers)
    elif low > window["low_hu"] or high < window["high_hu"]:
        yield make_flag("windowed", f"{span}: clipped to a window; use the original CT", **numbers)


def _slices(hu: NDArray[Any]) -> Iterator[Flag]:
    """Slices that hold nothing, that come again, or that seem to lack a neighbour."""
    step_x, step_y = (max(1, side // _SAMPLES) for side in hu.shape[:2])
    grid = hu[::step_x, ::step_y]
    blank = np.array([np.ptp(plane) == 0 for plane in np.moveaxis(grid, 2, 0)])
    # Blank slices at the ends are padding, and common; between others they are a fault.
    inner = np.flatnonzero(~blank)
    if len(inner):
        first, last = inner[0], inner[-1]
        inside = int(blank[first:last].sum())
        if inside:
            yield make_flag("blank_slices", f"{inside} slices inside the scan hold one value only", slices=inside)
    # Only pairs of real slices: the step to a blank one is large, and has its own flag.
    but_last = inner[:-1]
    compared = [int(z) for z in but_last if not blank[z + 1]]
    change = np.array([_change(grid, z) for z in compared])
    repeated = int((change == 0).sum())
    if repeated:
        yield make_flag("repeated_slices", f"{repeated} slices equal the slice below", slices=repeated)
    elif len(change):  # a repeated slice makes its neighbours' steps look large, so jumps are not looked for then
        yield from _jump(compared, change)


def _jump(compared: list[int], change: NDArray[np.float64]) -> Iterator[Flag]:
    """The largest step between two slices, if it is far larger than the steps around it.

    Args:
        compared: numbers of the slices that are compared with the next one.
        change: (N,) mean change of HU from each of them to the next.
    """
    usual = [np.median(_around(change, k)) for k in range(len(change))]
    # At least 1 HU: between slices that hardly differ, noise alone would make a jump.
    ratio = change / np.maximum(usual, 1.0)
    largest = ratio.max()
    if largest > limits("slices_missing")["ratio"]:
        at = compared[int(ratio.argmax())]
        text = f"slices {at} and {at + 1} from below differ {largest:.1f} times as much as their neighbours"
        yield make_flag("slices_missing", f"{text}: slices may be missing", ratio=largest, slice=at)


def _around(change: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The changes near the k-th, itself included."""
    first, end = max(0, k - _NEIGHBOURS), k + _NEIGHBOURS + 1
    return change[first:end]


def _change(grid: NDArray[Any], z: int) -> float:
    """Mean change of HU, clipped to that of lung and soft tissue, from slice z to the next."""
    # Clipped, since a few voxels of metal or padding would outweigh the body.
    lower, upper = (np.clip(grid[:, :, k].astype(np.float32), PADDING_HU, 400) for k in (z, z + 1))
    return float(np.abs(upper - lower).mean())


def _contrast(hu: NDArray[Any], lungs: NDArray[np.uint8]) -> Iterator[Flag]:
    """Share of bright soft tissue between the lungs, in the middle of their height, before the spine."""
    levels = occupied(lungs, axis=2)
    if len(levels) == 0:
        return
    bottom, top = np.percentile(levels, _MIDDLE_HEIGHT_PCT).astype(int)
    middle, density = lungs[:, :, bottom : top + 1], hu[:, :, bottom : top + 1]
    rows = occupied(middle, axis=1)
    columns = [occupied(middle == lung.id, axis=0) for lung in (RIGHT_LUNG, LEFT_LUNG)]
    # Both lungs are needed there: one alone has nothing between.
    smallest = min(len(found) for found in (rows, *columns))
    if smallest == 0:
        return
    depth = rows[0] + _BEFORE_SPINE * np.ptp(rows)
    front, back = depth.astype(int)
    # From the middle of one lung to that of the other. Sorted, since a wrong header may have swapped the sides.
    sides = sorted(int(found.mean()) for found in columns)
    box = slice(*sides), slice(int(front), int(back) + 1)
    lungs_there, values = middle[box], density[box]
    soft_from, soft_to = _SOFT_TISSUE_HU
    soft = (values > soft_from) & (values < soft_to)
    tissue = values[(lungs_there == 0) & soft]
    limit = limits("contrast")
    bright = np.count_nonzero(tissue > limit["hu"])
    share_pct = 100 * bright / max(1, tissue.size)
    if share_pct > limit["share_pct"]:
        text = f"{share_pct:.0f} % of the tissue between the lungs is above {limit['hu']:g} HU: contrast medium"
        yield make_flag("contrast", text, share_pct=share_pct)


def check_geometry(scan: Scan) -> Iterator[Flag]:
    """Flags of the scan's grid alone."""
    x_mm, y_mm, z_mm = canonical_spacing_mm(scan)
    # Slices are counted from foot to head, whichever axis of the array that is.
    axes = nib.io_orientation(scan.affine)[:, 0]
    foot_head = int(np.argmax(axes == CANONICAL_AXES.index("S")))
    slices = scan.hu.shape[foot_head]
    if z_mm > limits("thick_slices")["mm"]:
        yield make_flag("thick_slices", f"slices are {z_mm:.1f} mm apart; small lesions may be missed", mm=z_mm)
    if scan.header is not None and not _says_orientation(scan.header):
        text = "the header does not say how the patient lies: right and left may be swapped"
        yield make_flag("no_orientation", text)
    if slices < limits("too_few_slices")["slices"]:
        yield make_flag("too_few_slices", f"only {slices} slices, too few for volumes", slices=slices)
    elif slices < limits("few_slices")["slices"]:
        yield make_flag("few_slices", f"only {slices} slices", slices=slices)
    # Axial slices have square pixels. Where x and y differ much, one is the distance of coronal or sagittal slices.
    ratio = max(x_mm, y_mm) / min(x_mm, y_mm)
    oblique_deg = _obliquity_deg(scan.affine)
    limit = limits("non_axial")
    if ratio > limit["ratio"] or oblique_deg > limit["deg"]:
        text = (
            f"not axial slices: in-plane spacings differ {ratio:.1f} times, the grid is {oblique_deg:.0f} deg oblique"
        )
        yield make_flag("non_axial", text, ratio=ratio, deg=oblique_deg)
    if scan.tilt_deg > limits("tilted")["deg"]:
        text = f"slices are tilted by {scan.tilt_deg:.0f} deg (gantry): volumes are exact, lobes less certain"
        yield make_flag("tilted", text, deg=scan.tilt_deg)


def _says_orientation(header: Any) -> bool:
    """Whether a NIfTI header says how the patient lies: both codes are 0 where its writer did not know."""
    return bool(header["sform_code"] or header["qform_code"])


def _obliquity_deg(affine: NDArray[np.float64]) -> float:
    """Largest angle in degrees between an array axis and the patient's axis nearest to it."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # The largest component of a direction is the cosine of its angle with the nearest axis.
    cosines = np.abs(directions).max(axis=0)
    smallest = np.clip(cosines.min(), 0, 1)  # rounding can bring it above 1, which is no cosine
    return float(np.degrees(np.arccos(smallest)))
