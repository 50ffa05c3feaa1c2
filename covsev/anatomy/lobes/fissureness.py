"""Faint thin sheets in aerated lung near where a fissure is expected.

A fissure is a sheet about one millimetre thick and often only 20 to 50 HU brighter than the lung to both sides, less
than the noise of one voxel. So the lung is unfolded about the expected surface: columns along the surface's normals
become one axis, and the brightness is averaged over small patches parallel to the surface, tilted to several angles.
The response is the smaller of the contrasts to both sides, which edges do not have; vessels are cut to a small height
first. Neighbouring columns whose sheets continue each other are joined, and small sheets are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covsev.anatomy.lobes.division import bounding_box
from covsev.anatomy.lobes.fissure_fit import Evidence, Surfaces, lung_of
from covsev.anatomy.lobes.fissure_model import LungFrame

STEP_MM = 2.5
"""Distance of the columns along x and y; along a column it is 1 mm."""
TILTS = (-0.8, -0.4, 0.0, 0.4, 0.8)
"""Slopes of the patches against the surface, along x and along y: whole millimetres by column."""
WIDE_STRIDE = 2
"""Of the columns, where sheets are sought far from the expected surface."""
_PATCH_MM = 4.5  # standard deviation of the patch
_MIN_COLUMNS = 9  # along x and y, however small the lung: the search takes every few of them
_TAPS = 3  # columns to each side
_SIDE_MM = 3  # where the contrast is taken
_VESSEL_HU = 180.0  # above the lung's median: not lung, and neither is what touches it
_HOLE_HU = -120.0  # what is below the median by more is cut to it
_MIN_CONTRAST_HU = 9.0
_MIN_SHEET_MM2 = 375.0
_LARGE_SHEET_MM2 = 1000.0
_JOIN_MM = 1.5  # height difference to the neighbour's continuation
_JOIN_TILT = 0.5
_MAX_POINTS = 1000
_SUPPORT_HU = 5.0
_SUPPORT_PATCH_MM = 10.0  # a true sheet goes on; one laid through noise does not
_MIN_PATCH_SHARE = 0.4  # of the patch in the lung
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
    return Evidence.joined(_sheets(unfolded, sheet_contrast(unfolded), 1, _MIN_SHEET_MM2)).thinned(_MAX_POINTS)


def large_sheets(unfolded: Unfolded, contrast_hu: _Volume) -> list[Evidence]:
    """Points on each large sheet among the brighter half of all, the largest first; to be sought far and wide.

    Args:
        unfolded: the lung.
        contrast_hu: its :func:`sheet_contrast` of every ``WIDE_STRIDE``-th column.
    """
    return _sheets(unfolded, contrast_hu, WIDE_STRIDE, _LARGE_SHEET_MM2, brighter_share=0.5)


def _sheets(
    unfolded: Unfolded, contrast_hu: _Volume, stride: int, least_mm2: float, brighter_share: float = 1.0
) -> list[Evidence]:
    """Points on each sheet of at least some area, of every ``stride``-th column, the largest sheet first."""
    flat = contrast_hu.reshape(-1, *contrast_hu.shape[2:])
    best = flat.argmax(axis=0)
    strongest = np.take_along_axis(flat, best[None], axis=0)[0]
    voxels = np.argwhere(_peaks(strongest))
    strength = strongest[tuple(voxels.T)].astype(np.float64)
    if len(voxels):
        bright = strength >= np.quantile(strength, 1 - brighter_share)
        voxels, strength = voxels[bright], strength[bright]
    tilts = np.array(TILTS)[np.stack(np.divmod(best[tuple(voxels.T)], len(TILTS)), axis=1)]
    sheet = _joined(voxels, tilts, strongest.shape, stride * STEP_MM)
    sizes = np.bincount(sheet, minlength=1)
    order = np.argsort(-sizes, kind="stable")
    kept = order[sizes[order] * (stride * STEP_MM) ** 2 >= least_mm2]
    voxels = voxels * (stride, stride, 1)
    return [_evidence(unfolded, voxels[own], tilts[own], strength[own]) for own in (sheet == n for n in kept)]


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
        search_mask: (X, Y, Z) the lung that the fissure divides, without disease, whose borders look like sheets.
        spacing_mm: of the voxels.
        surfaces: where the fissure is expected.
        fissure: its name.
        reach_mm: how far from the expected surface to look.
    """
    x, y = _columns_of_lung(search_mask, spacing_mm, surfaces.frames[lung_of(fissure)])
    height = surfaces.height_mm(fissure, x, y)
    slopes = np.stack([np.gradient(height, STEP_MM, axis=axis) for axis in (0, 1)], axis=-1)
    normals = np.concatenate([-slopes, np.ones_like(slopes[..., :1])], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    middles = np.stack([*np.meshgrid(x, y, indexing="ij"), height], axis=-1)
    offsets = np.arange(-reach_mm - _SIDE_MM, reach_mm + _SIDE_MM + 1.0)
    places = np.moveaxis(middles[:, :, None] + offsets[:, None] * normals[:, :, None], -1, 0)
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
        middle_mm, reach_mm = frame.centre_mm[axis], 0.6 * frame.size_mm[axis]
        low_mm = max(middle_mm - reach_mm, limit.start * spacing_mm[axis] - _PATCH_MM)
        high_mm = min(middle_mm + reach_mm, limit.stop * spacing_mm[axis] + _PATCH_MM)
        places.append(low_mm + STEP_MM * np.arange(max(_MIN_COLUMNS, round((high_mm - low_mm) / STEP_MM) + 1)))
    return places[0], places[1]


def sheet_contrast(unfolded: Unfolded, stride: int = 1) -> _Volume:
    """Contrast (5, 5, X, Y, T) HU of patches of each tilt along x and y to both their sides; 0 where unknown.

    Args:
        unfolded: the lung.
        stride: of the columns for which it is wanted.
    """
    return _contrasts(unfolded, TILTS, stride)


def _contrasts(unfolded: Unfolded, slopes: tuple[float, ...], stride: int = 1) -> _Volume:
    stack = _known_level(unfolded)
    known = stack[1, ::stride, ::stride] > 0
    stack = gaussian_filter1d(stack, 0.7, axis=3)
    contrast = np.zeros((len(slopes), len(slopes), *known.shape), np.float32)
    for i, slope_x in enumerate(slopes):
        along_x = _tilted_mean(stack, 1, slope_x, stride)
        for j, slope_y in enumerate(slopes):
            total, share = _tilted_mean(along_x, 2, slope_y, stride)
            two_sided = _two_sided(total / np.maximum(share, _MIN_PATCH_SHARE))
            np.copyto(contrast[i, j], two_sided, where=known & (share >= _MIN_PATCH_SHARE))
    return contrast


def _known_level(unfolded: Unfolded) -> _Volume:
    """HU above the lung's median, and where it is known: in the lung, off vessels (2, X, Y, T)."""
    if not unfolded.lung_mask.any():
        return np.zeros((2, *unfolded.hu.shape), np.float32)
    level = unfolded.hu - np.median(unfolded.hu[unfolded.lung_mask])
    known = unfolded.lung_mask & ~binary_dilation(level > _VESSEL_HU)
    return np.stack([np.where(known, np.maximum(level, _HOLE_HU), 0), known]).astype(np.float32)


def vessel_density(unfolded: Unfolded) -> _Volume:
    """Share (X, Y, T) of vessels near each place, less that of a wide neighbourhood along the column."""
    level = unfolded.hu - np.median(unfolded.hu[unfolded.lung_mask])
    stack = np.stack([(level > _VESSEL_HU) & unfolded.lung_mask, unfolded.lung_mask]).astype(np.float32)
    near = gaussian_filter(stack, (0, 2, 2, 2.5), truncate=3.0)
    wide = gaussian_filter1d(near, 10.0, axis=3, truncate=3.0)
    difference = near[0] / np.maximum(near[1], 0.2) - wide[0] / np.maximum(wide[1], 0.2)
    return np.where(unfolded.lung_mask, difference, 0)


def _tilted_mean(stack: _Volume, axis: int, slope: float, stride: int) -> _Volume:
    """Gaussian mean of every ``stride``-th place along ``axis`` of (2, X, Y, T) while climbing ``slope`` along T."""
    taps = np.arange(-_TAPS, _TAPS + 1)
    climbs = np.rint(slope * taps * STEP_MM).astype(int)
    weights = np.exp(-((taps * STEP_MM / _PATCH_MM) ** 2) / 2)
    reach, places = int(np.abs(climbs).max()), stack.shape[3]
    pads = [(0, 0)] * 4
    pads[axis], pads[3] = (_TAPS, _TAPS), (reach, reach)
    lines = np.moveaxis(np.pad(stack, pads), axis, 0)
    last = stack.shape[axis] + _TAPS
    out, weighted = (np.zeros(lines[_TAPS:last:stride, ..., :places].shape, np.float32) for _ in range(2))
    for tap, climb, weight in zip(taps, climbs, (weights / weights.sum()).astype(np.float32), strict=True):
        part = lines[_TAPS + tap : last + tap : stride, ..., reach + climb : reach + climb + places]
        out += np.multiply(part, weight, out=weighted)
    return np.moveaxis(out, 0, axis)


def _two_sided(level: _Volume) -> _Volume:
    """How much brighter each place is than the brighter of the two at ``_SIDE_MM`` above and below."""
    out = np.zeros_like(level)
    middle = level[..., _SIDE_MM:-_SIDE_MM]
    sides = np.maximum(level[..., : -2 * _SIDE_MM], level[..., 2 * _SIDE_MM :])
    out[..., _SIDE_MM:-_SIDE_MM] = middle - sides
    return out


def _peaks(contrast_hu: _Volume) -> NDArray[np.bool_]:
    """Places of enough contrast that no neighbour along the column exceeds."""
    padded = np.pad(contrast_hu, ((0, 0), (0, 0), (1, 1)))
    peak = (contrast_hu >= padded[..., :-2]) & (contrast_hu >= padded[..., 2:])
    return np.asarray(peak & (contrast_hu > _MIN_CONTRAST_HU))


def _joined(voxels: NDArray[np.intp], tilts: _Array, shape: tuple[int, ...], step_mm: float) -> NDArray[np.intp]:
    """Number (N,) of each peak's sheet, in which each continues its neighbour in height and tilt."""
    number = np.full(shape, -1, dtype=np.int64)
    number[tuple(voxels.T)] = np.arange(len(voxels))
    edges: list[NDArray[np.intp]] = []
    climbs = range(-round(max(TILTS) * step_mm), round(max(TILTS) * step_mm) + 1)
    for step in product((0, 1), (-1, 0, 1), climbs):
        other = voxels + step
        inside = ((other >= 0) & (other < shape)).all(axis=1) & (step[:2] > (0, 0))
        first = np.flatnonzero(inside)
        second = number[tuple(other[inside].T)]
        first, second = first[second >= 0], second[second >= 0]
        mean_tilt = (tilts[first] + tilts[second]) / 2
        climb = mean_tilt @ np.array(step[:2]) * step_mm
        joined = (np.abs(climb - step[2]) < _JOIN_MM) & (np.abs(tilts[first] - tilts[second]) < _JOIN_TILT).all(axis=1)
        edges.append(np.stack([first[joined], second[joined]]))
    pairs = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(pairs.shape[1], dtype=bool), tuple(pairs)), shape=(len(voxels), len(voxels)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _evidence(unfolded: Unfolded, voxels: NDArray[np.intp], tilts: _Array, strength_hu: _Array) -> Evidence:
    """The peaks in canonical mm; a stronger contrast weighs more."""
    column = tuple(voxels[:, :2].T)
    across = unfolded.normals[column]
    points_mm = unfolded.points_mm[column] + across * unfolded.offsets_mm[voxels[:, 2], None]
    tangents = [np.zeros_like(across), np.zeros_like(across)]
    for axis, tangent in enumerate(tangents):
        tangent[:, axis] = 1
        tangent[:, 2] = unfolded.slopes[column][:, axis]
        tangent += tilts[:, axis, None] * across
    normals = np.cross(*tangents)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Evidence(points_mm, normals, strength_hu / (strength_hu + 2 * _MIN_CONTRAST_HU))


def support(unfolded: Unfolded) -> NDArray[np.bool_]:
    """Columns (X, Y) that show a sheet on the very surface, in the mean of a wide patch around them.

    Args:
        unfolded: about the fitted surface, with a reach of at least 1 mm.
    """
    contrast, share = _level_contrast(unfolded)
    middle = unfolded.hu.shape[2] // 2
    mean = contrast / np.maximum(share, _MIN_PATCH_SHARE)
    near = mean[..., middle - 1 : middle + 2].max(axis=-1)
    return np.asarray((near > _SUPPORT_HU) & unfolded.lung_mask[..., middle])


def _level_contrast(unfolded: Unfolded) -> tuple[_Volume, _Volume]:
    """Contrast of untilted patches, summed over a wider patch, and the share of it that is known."""
    single = _contrasts(unfolded, (0.0,))[0, 0]
    sigma = _SUPPORT_PATCH_MM / STEP_MM
    return gaussian_filter(single, (sigma, sigma, 0)), gaussian_filter(
        (single != 0).astype(np.float32), (sigma, sigma, 0)
    )
