"""Find peaks of contrast along the columns of a lung, and join those of neighbouring columns to sheets."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MIN_CONTRAST_HU = 9.0
"""Least contrast of a point on a sheet; weaker peaks are taken for noise."""
# Neighbours whose sheets continue each other: difference in height and in tilt. The latter is more than one step of the
# tilts that are tried and less than two.
_JOIN_MM, _JOIN_TILT = 1.5, 0.5
_Array = NDArray[np.float64]


def peaks(contrast_hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Places (X, Y, T) of enough contrast that no neighbour along the column, the last axis, exceeds."""
    padded = np.pad(contrast_hu, ((0, 0), (0, 0), (1, 1)))
    # Of two equal neighbours both are peaks; a sheet twice is better than none.
    before, after = padded[..., :-2], padded[..., 2:]
    peak = (contrast_hu >= before) & (contrast_hu >= after)
    return np.asarray(peak & (contrast_hu > MIN_CONTRAST_HU))


def number_sheets(
    voxels: NDArray[np.intp], tilts: _Array, shape: tuple[int, ...], step_mm: float, max_tilt: float
) -> NDArray[np.intp]:
    """Number (N,) of each peak's sheet. In a sheet each peak continues its neighbour in height and tilt.

    Args:
        voxels: (N, 3) places of the peaks in the volume of columns.
        tilts: (N, 2) slopes of each peak's patch along x and y.
        shape: of the volume.
        step_mm: distance of the columns; along a column it is 1 mm.
        max_tilt: the steepest slope among ``tilts`` that are tried.
    """
    # The peaks' numbers in the volume, so that neighbours are looked up, not searched.
    number = np.full(shape, -1, dtype=np.int64)
    number[tuple(voxels.T)] = np.arange(len(voxels))
    edges: list[NDArray[np.intp]] = []
    steepest = round(max_tilt * step_mm)
    for step in product((0, 1), (-1, 0, 1), range(-steepest, steepest + 1)):
        # Half of the eight columns around, for each pair is met once; the column itself is no neighbour.
        other = voxels + step
        in_volume = ((other >= 0) & (other < shape)).all(axis=1)
        inside = in_volume & (step[:2] > (0, 0))
        first = np.flatnonzero(inside)
        second = number[tuple(other[inside].T)]
        first, second = first[second >= 0], second[second >= 0]
        mean_tilt = (tilts[first] + tilts[second]) / 2
        climb = mean_tilt @ np.array(step[:2]) * step_mm
        continues = np.abs(climb - step[2]) < _JOIN_MM
        bends = np.abs(tilts[first] - tilts[second])
        joined = continues & (bends < _JOIN_TILT).all(axis=1)
        edges.append(np.stack([first[joined], second[joined]]))
    pairs = np.concatenate(edges, axis=1)
    joins = np.ones(pairs.shape[1], dtype=bool)
    graph = coo_array((joins, tuple(pairs)), shape=(len(voxels), len(voxels)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)
