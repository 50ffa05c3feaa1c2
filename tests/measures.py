"""What several tests measure with: the overlap of two masks, and every way in which a scan's axes can lie."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
"""The 48 axis codes of a scan, such as ``LPS``: 6 orders of the axes, and 8 choices of their directions in each."""


def dice(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Dice similarity coefficient of two masks that are not both empty.

    >>> dice(np.array([True, True, True, False]), np.array([False, False, True, False]))
    0.5
    """
    both = np.count_nonzero(first & second)
    return float(2 * both / (np.count_nonzero(first) + np.count_nonzero(second)))
