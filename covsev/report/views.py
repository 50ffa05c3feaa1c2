"""What all pictures of a scan share: the grey of a density, and the rule that the worst slice is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.labels import LUNG_WINDOW_HU


def lung_grey(hu: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Densities in the lung window as grey: black (0) at its lower end and below, white (255) at its upper end."""
    low, high = LUNG_WINDOW_HU
    # float32 first: the difference of two int16 may not fit into int16.
    share = (hu.astype(np.float32) - low) / (high - low)
    return np.clip(share, 0, 1) * 255


def move_to_worst(levels: NDArray[np.int_], lesions: NDArray[np.uint8], axis: int) -> None:
    """Replace the level that is nearest to the slice with most lesion by that slice, in place.

    A picture that shows a few slices only must not miss the one that matters. Without lesion nothing moves.

    Args:
        levels: indices along ``axis`` of the slices to show.
        lesions: (X, Y, Z) labels.
        axis: 0, 1 or 2.
    """
    others = tuple(other for other in range(3) if other != axis)
    burden = np.count_nonzero(lesions, axis=others)
    if burden.any():
        worst = int(burden.argmax())
        nearest = np.abs(levels - worst).argmin()
        levels[nearest] = worst
