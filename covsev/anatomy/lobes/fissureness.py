"""Faint thin sheets in aerated lung near where a fissure is expected.

A fissure is a sheet about one millimetre thick. Often it is only 20 to 50 HU brighter than the lung to both sides, less
than the noise of one voxel. So the lung is unfolded about the expected surface: columns along the surface's normals
become one axis. The brightness is then averaged over small patches near parallel to the surface, tilted to several
angles.

The response is the smaller of the contrasts to both sides, which edges do not have. Vessels and what touches them are
left out first. Neighbouring columns whose sheets continue each other are joined, and small sheets are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_filter1d, map_coordinates

from covsev.anatomy.lobes.fissure_fit import Evidence, Surfaces, lung_of
from covsev.anatomy.lobes.fissure_model import LungFrame
from covsev.anatomy.lobes.sheet_joining import MIN_CONTRAST_HU, number_sheets, peaks
from covsev.scan.boxes import bounding_box

STEP_MM = 2.5
"""Distance of the columns along x and y; along a column it is 1 mm."""
TILTS = (-0.8, -0.4, 0.0, 0.4, 0.8)
"""Slopes of the patches against the surface, along x and along y: whole millimetres by column."""
WIDE_STRIDE = 2
"""Every so many columns are taken where sheets are sought far from the expected surface, to save time and memory."""
# Standard deviation of the patch. A larger one averages more noise away, but a curved sheet is not plane in it.
_PATCH_MM = 4.5
# Along x and y, however small the lung: the search takes every few of them and needs a slope between those.
_MIN_COLUMNS = 9
_TAPS = 3  # columns to each side of a patch's middle; the next ones would weigh less than a tenth of the middle
# Where the contrast is taken, above and below: beyond the sheet's own blur.
_SIDE_MM = 3
_ALONG_MM = 0.7  # standard deviation of a blur along the columns, about as wide as a sheet is thick
_VESSEL_HU = 180.0  # above the lung's median: not lung, and neither is what touches it
# What lies below the median by more is cut to it: a bulla or a bronchus would make its surroundings look bright.
_HOLE_HU = -120.0
# Least area of a sheet near a candidate, 60 columns, and of one that a guess may be laid through far from it, 10 cm2.
# Far away there are more false sheets, since all of the lung is seen.
_MIN_SHEET_MM2, _LARGE_SHEET_MM2 = 375.0, 1000.0
_MAX_POINTS = 1000  # of one fissure in a fit, to bound its time
# Contrast that supports a surface, in the mean of a patch so wide. A true sheet goes on over such a patch, a surface
# laid through noise does not. The wide mean has little noise, so that a low contrast is enough.
_SUPPORT_HU, _SUPPORT_PATCH_MM = 5.0, 10.0
# Least share of a patch that must be known. With less, as at the lung's border, its mean would be that of a few places.
_MIN_PATCH_SHARE = 0.4
_FRAME_REACH = 0.6  # of the frame to each side of its middle that columns cover: the lung, but no long spur
# Vessels: blur of their density, wide neighbourhood along the column (mm), and least share of lung to divide by.
_NEAR_BLUR, _WIDE_MM, _MIN_LUNG_SHARE = (0, 2, 2, 2.5), 10.0, 0.2
_Array = NDArray[np.float64]
_Volume = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Unfolded:
    """A lung unfolded about a surface: columns (X, Y) along its normals, places T along each column.

    Attributes:
        points_mm: (X, Y, 3) canonical mm of the columns' middles.
        normals: (X, Y, 3) directions of the columns.
        slopes: (X, Y, 2) slopes of the surface along x and y.
        offsets_mm: (T,) places along a column, 1 mm apart.
        hu: (X, Y, T).
        lung_mask: (X, Y, T) the lung to search, without disease.
    """

    points_mm: _Array
    normals: _Array
    slopes: _Array
    offsets_mm: _Array
    hu: _Volume
    lung_mask: NDArray[np.bool_]


def find_sheets(unfolded: Unfolded) -> Evidence:
    """Points on the sheets of an unfolded lung, with the sheets' normals."""
    sheets = _sheets(unfolded, sheet_contrast(unfolded), 1, _MIN_SHEET_MM2)
    return Evidence.joined(sheets).thinned(_MAX_POINTS)


def large_sheets(unfolded: Unfolded, contrast_hu: _Volume) -> list[Evidence]:
    """Points on each large sheet, the largest first.

    Only the brighter half of all points is looked at, since far from the expected surface there are many.

    Args:
        unfolded: the lung.
        contrast_hu: its :func:`sheet_contrast` of every ``WIDE_STRIDE``-th column.
    """
    return _sheets(unfolded, contrast_hu, WIDE_STRIDE, _LARGE_SHEET_MM2, brighter_share=0.5)


def _sheets(
    unfolded: Unfolded, contrast_hu: _Volume, stride: int, least_mm2: float, brighter_share: float = 1.0
) -> list[Evidence]:
    """Points on each sheet of at least some area, of every ``stride``-th column, the largest sheet first."""
    # Of all tilts at a place only the brightest counts: a sheet has one.
    flat = contrast_hu.reshape(-1, *contrast_hu.shape[2:])
    best = flat.argmax(axis=0)
    strongest = np.take_along_axis(flat, best[None], axis=0)[0]
    voxels = np.argwhere(peaks(strongest))
    strength = strongest[tuple(voxels.T)].astype(np.float64)
    if len(voxels):
        bright = strength >= np.quantile(strength, 1 - brighter_share)
        voxels, strength = voxels[bright], strength[bright]
    of_x_and_y = np.divmod(best[tuple(voxels.T)], len(TILTS))
    tilts = np.array(TILTS)[np.stack(of_x_and_y, axis=1)]
    step_mm = stride * STEP_MM
    sheet = number_sheets(voxels, tilts, strongest.shape, step_mm, max(TILTS))
    sizes = np.bincount(sheet, minlength=1)
    order = np.argsort(-sizes, kind="stable")
    kept = order[sizes[order] * step_mm**2 >= least_mm2]
    voxels = voxels * (stride, stride, 1)
    of_sheets = (sheet == number for number in kept)
    return [_evidence(unfolded, voxels[own], tilts[own], strength[own]) for own in of_sheets]


def unfold(
    hu: NDArray[np.generic],
    search_mask: NDArray[np.bool_],
    spacing_mm: tuple[float, ...],
    surfaces: Surfaces,
    fissure: str,
    reach_mm: int,
) -> Unfolded:
    """Unfold one lung about one fissure.

    Args:
        hu: (X, Y, Z) canonical.
        search_mask: (X, Y, Z) the lung that the fissure divides, without disease, since its borders look like sheets.
        spacing_mm: of the voxels.
        surfaces: where the fissure is expected.
        fissure: its name.
        reach_mm: how far from the expected surface to look, whole millimetres.
    """
    # Columns may leave the scan: grey values there are those of its edge, and are outside the mask in any case.
    x, y = _columns_of_lung(search_mask, spacing_mm, surfaces.frames[lung_of(fissure)])
    height = surfaces.height_mm(fissure, x, y)
    slopes = np.stack([np.gradient(height, STEP_MM, axis=axis) for axis in (0, 1)], axis=-1)
    normals = np.concatenate([-slopes, np.ones_like(slopes[..., :1])], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    middles = np.stack([*np.meshgrid(x, y, indexing="ij"), height], axis=-1)
    reach = reach_mm + _SIDE_MM  # the last places have sides to be compared with, too
    offsets = np.arange(-reach, reach + 1.0)
    along_columns = offsets[:, None] * normals[:, :, None]
    places = np.moveaxis(middles[:, :, None] + along_columns, -1, 0)
    voxels = places / np.reshape(spacing_mm, (3, 1, 1, 1))
    return Unfolded(
        middles,
        normals,
        slopes,
        offsets,
        map_coordinates(hu, voxels, output=np.float32, order=1, mode="nearest"),
        map_coordinates(search_mask.view(np.uint8), voxels, order=0, mode="constant") > 0,
    )


def _columns_of_lung(
    search_mask: NDArray[np.bool_], spacing_mm: tuple[float, ...], frame: LungFrame
) -> tuple[_Array, _Array]:
    """Places (X,) and (Y,) mm of the columns over the lung, and of a patch beyond it."""
    places = []
    for axis, limit in enumerate(bounding_box(search_mask)[:2]):
        middle_mm, reach_mm = frame.centre_mm[axis], _FRAME_REACH * frame.size_mm[axis]
        low_mm = max(middle_mm - reach_mm, limit.start * spacing_mm[axis] - _PATCH_MM)
        high_mm = min(middle_mm + reach_mm, limit.stop * spacing_mm[axis] + _PATCH_MM)
        steps = round((high_mm - low_mm) / STEP_MM)
        count = max(_MIN_COLUMNS, steps + 1)
        places.append(low_mm + STEP_MM * np.arange(count))
    return places[0], places[1]


def sheet_contrast(unfolded: Unfolded, stride: int = 1) -> _Volume:
    """Contrast (5, 5, X, Y, T) HU of patches of each tilt along x and y to both their sides; 0 where unknown.

    Args:
        unfolded: the lung.
        stride: of the columns for which it is wanted.
    """
    return _contrasts(unfolded, TILTS, stride)


def _contrasts(unfolded: Unfolded, slopes: tuple[float, ...], stride: int = 1) -> _Volume:
    """As :func:`sheet_contrast`, for ``slopes`` along each axis."""
    # The level and what is known of it are averaged alike, then divided: a mean over known places only.
    stack = _known_level(unfolded)
    known = stack[1, ::stride, ::stride] > 0
    stack = gaussian_filter1d(stack, _ALONG_MM, axis=3)
    contrast = np.zeros((len(slopes), len(slopes), *known.shape), np.float32)
    for i, slope_x in enumerate(slopes):
        # A patch is the product of two lines; that along x serves all tilts along y.
        along_x = _tilted_mean(stack, 1, slope_x, stride)
        for j, slope_y in enumerate(slopes):
            total, share = _tilted_mean(along_x, 2, slope_y, stride)
            two_sided = _two_sided(total / np.maximum(share, _MIN_PATCH_SHARE))
            np.copyto(contrast[i, j], two_sided, where=known & (share >= _MIN_PATCH_SHARE))
    return contrast


def _known_level(unfolded: Unfolded) -> _Volume:
    """HU above the lung's median, and where it is known: in the lung, off vessels (2, X, Y, T)."""
    if not unfolded.lung_mask.any():  # nothing has no median
        return np.zeros((2, *unfolded.hu.shape), np.float32)
    level = unfolded.hu - np.median(unfolded.hu[unfolded.lung_mask])
    # A voxel at a vessel is partly vessel: its brightness would look like that of a sheet.
    known = unfolded.lung_mask & ~binary_dilation(level > _VESSEL_HU)
    return np.stack([np.where(known, np.maximum(level, _HOLE_HU), 0), known]).astype(np.float32)


def vessel_density(unfolded: Unfolded) -> _Volume:
    """Share (X, Y, T) of vessels near each place, less that of a wide neighbourhood along the column.

    Fissures lie where it is low: vessels seldom cross them.
    """
    # Less the neighbourhood, since all vessels get denser toward the hilum.
    level = unfolded.hu - np.median(unfolded.hu[unfolded.lung_mask])
    stack = np.stack([(level > _VESSEL_HU) & unfolded.lung_mask, unfolded.lung_mask]).astype(np.float32)
    near = gaussian_filter(stack, _NEAR_BLUR, truncate=3.0)
    wide = gaussian_filter1d(near, _WIDE_MM, axis=3, truncate=3.0)
    share_near = near[0] / np.maximum(near[1], _MIN_LUNG_SHARE)
    share_wide = wide[0] / np.maximum(wide[1], _MIN_LUNG_SHARE)
    difference = share_near - share_wide
    return np.where(unfolded.lung_mask, difference, 0)


def _tilted_mean(stack: _Volume, axis: int, slope: float, stride: int) -> _Volume:
    """Gaussian mean of every ``stride``-th place along ``axis`` of (2, X, Y, T) while climbing ``slope`` along T."""
    taps = np.arange(-_TAPS, _TAPS + 1)
    # Whole millimetres a tap, as STEP_MM and TILTS are chosen: tilted lines are slices, and nothing is interpolated.
    climbs = np.rint(slope * taps * STEP_MM).astype(int)
    in_sds = taps * STEP_MM / _PATCH_MM
    bell = np.exp(-(in_sds**2) / 2)
    weights = (bell / bell.sum()).astype(np.float32)
    reach, places = int(np.abs(climbs).max()), stack.shape[3]
    pads = [(0, 0)] * 4
    pads[axis], pads[3] = (_TAPS, _TAPS), (reach, reach)
    lines = np.moveaxis(np.pad(stack, pads), axis, 0)
    last = stack.shape[axis] + _TAPS
    out, weighted = (np.zeros(lines[_TAPS:last:stride, ..., :places].shape, np.float32) for _ in range(2))
    for tap, climb, weight in zip(taps, climbs, weights, strict=True):
        first, lowest = _TAPS + tap, reach + climb
        part = lines[first : last + tap : stride, ..., lowest : lowest + places]
        out += np.multiply(part, weight, out=weighted)
    return np.moveaxis(out, 0, axis)


def _two_sided(level: _Volume) -> _Volume:
    """How much brighter each place is than the brighter of the two at ``_SIDE_MM`` above and below."""
    out = np.zeros_like(level)
    middle = level[..., _SIDE_MM:-_SIDE_MM]
    below, above = level[..., : -2 * _SIDE_MM], level[..., 2 * _SIDE_MM :]
    sides = np.maximum(below, above)
    out[..., _SIDE_MM:-_SIDE_MM] = middle - sides
    return out


def _evidence(unfolded: Unfolded, voxels: NDArray[np.intp], tilts: _Array, strength_hu: _Array) -> Evidence:
    """The peaks in canonical mm; a stronger contrast weighs more."""
    column = tuple(voxels[:, :2].T)
    across = unfolded.normals[column]
    points_mm = unfolded.points_mm[column] + across * unfolded.offsets_mm[voxels[:, 2], None]
    # The sheet climbs as the surface does, and along the column by its tilt: two tangents, whose product is the normal.
    tangents = [np.zeros_like(across), np.zeros_like(across)]
    for axis, tangent in enumerate(tangents):
        tangent[:, axis] = 1
        tangent[:, 2] = unfolded.slopes[column][:, axis]
        tangent += tilts[:, axis, None] * across
    normals = np.cross(*tangents)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # From a third at the least contrast toward 1, so that no bright vessel counts for many faint places of a fissure.
    weights = strength_hu / (strength_hu + 2 * MIN_CONTRAST_HU)
    return Evidence(points_mm, normals, weights)


def support(unfolded: Unfolded) -> NDArray[np.bool_]:
    """Columns (X, Y) that show a sheet on the very surface, in the mean of a wide patch around them.

    Args:
        unfolded: about the fitted surface, with a reach of at least 1 mm.
    """
    contrast, share = _level_contrast(unfolded)
    middle = unfolded.hu.shape[2] // 2
    mean = contrast / np.maximum(share, _MIN_PATCH_SHARE)
    # The fit is true to about a millimetre, so a sheet one place beside the surface supports it, too.
    near = mean[..., middle - 1 : middle + 2].max(axis=-1)
    return np.asarray((near > _SUPPORT_HU) & unfolded.lung_mask[..., middle])


def _level_contrast(unfolded: Unfolded) -> tuple[_Volume, _Volume]:
    """Contrast of untilted patches, summed over a wider patch, and the share of it that is known."""
    single = _contrasts(unfolded, (0.0,))[0, 0]
    known = (single != 0).astype(np.float32)
    sigma = _SUPPORT_PATCH_MM / STEP_MM
    patch = (sigma, sigma, 0)
    return gaussian_filter(single, patch), gaussian_filter(known, patch)
