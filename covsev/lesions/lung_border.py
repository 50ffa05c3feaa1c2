"""Disease that begins in the lung and goes on beyond the lung mask: there it is lung that the mask has lost.

Consolidated lung beside the spine or the heart has their density. The lung network is unsure there, and what it loses
is disease, so the sickest patients would be measured too low. The infection network knows disease by its texture. Where
both networks hold it possible, and the disease is one with that inside the lung, it is lung.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covsev.scan.boxes import bounding_box

Mask = NDArray[np.bool_]

PROBABILITY = 0.3
"""From which infection beyond the mask counts. With 0.5 the scan with most disease beside the spine kept 93 % of it on
held-out scans, with this 95 %; lungs without disease grow by less than 1 %."""

MOST_INSIDE = 0.75
"""Share of a part of the disease that lies inside the mask. Fat and bowel beside a speck of infection light up by much
more than the speck; what the mask has lost of real disease is a rim of it."""
_STEPS = np.array([(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)])


def lung_behind_lesions(sides: NDArray[np.uint8], possible: Mask, infected: Mask) -> NDArray[np.uint8]:
    """Lung labels (Z, X, Y) with the disease beyond them, where it is one with disease that lies mostly inside.

    Args:
        sides: (Z, X, Y) 1 right lung, 2 left lung.
        possible: (Z, X, Y) where lung is possible.
        infected: (Z, X, Y) where infection is at least :data:`PROBABILITY`.

    >>> sides = np.array([[[1, 1, 1, 1, 0, 0, 0]]], dtype=np.uint8)
    >>> infected = np.array([[[0, 1, 1, 1, 1, 0, 1]]], dtype=bool)
    >>> lung_behind_lesions(sides, np.ones_like(infected), infected).ravel().tolist()
    [1, 1, 1, 1, 1, 0, 0]
    """
    box = bounding_box(infected)  # there is little disease, and numbers of its parts take much memory
    result = sides.copy()
    result[box] = _with_disease(sides[box], possible[box], infected[box])
    return result


def _with_disease(sides: NDArray[np.uint8], possible: Mask, infected: Mask) -> NDArray[np.uint8]:
    beyond = _mostly_inside(infected & (possible | (sides > 0)), sides > 0) & (sides == 0)
    parts, number = ndimage.label(beyond)
    if number == 0:
        return sides
    diseased = np.pad(np.where(infected, sides, 0), 1)  # so that every voxel has six neighbours
    places = np.argwhere(beyond) + 1
    part_of = parts[beyond]
    touching = np.zeros((number + 1, 3), dtype=np.int64)
    for step in _STEPS:
        neighbours = diseased[tuple((places + step).T)]
        np.add.at(touching, (part_of, neighbours), 1)
    touching[:, 0] = 0  # neighbours that are no diseased lung
    # The lung that a part touches more.
    side = touching.argmax(axis=1).astype(np.uint8)
    found = sides.copy()
    found[beyond] = side[part_of]
    return found


def _mostly_inside(diseased: Mask, inside: Mask) -> Mask:
    """Connected parts of the disease of which most lies inside the lung."""
    parts, number = ndimage.label(diseased)
    part_of, is_inside = parts[diseased], inside[diseased]
    in_all = np.bincount(part_of, minlength=number + 1)
    in_lung = np.bincount(part_of[is_inside], minlength=number + 1)
    found = np.zeros_like(diseased)
    found[diseased] = (in_lung >= MOST_INSIDE * in_all)[part_of]
    return found
