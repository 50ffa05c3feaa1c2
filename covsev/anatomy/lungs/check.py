"""Whether the lung network is believed: it is not where it and the threshold disagree wildly."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from covsev.anatomy.images import as_array, voxel_ml
from covsev.anatomy.morphology import Mask
from covsev.labels import LUNG_TISSUE_HU

_MIN_AERATED_SHARE = 0.6
"""Of the aerated lung that a threshold finds, the network finds more than 0.95 in all scans that it was tried on.
With less than this it has not seen lungs at all: an odd field, an animal, weights of something else."""
_MAX_OUTSIDE_SHARE = 0.1
"""Of what the network calls lung, so much may be air around the patient. A blank network calls everything lung."""
_MAX_ML = 12_000.0
"""Both lungs of the largest people hold less."""


def why_not_believed(mask: Mask, aerated: Mask, air: Mask, coarse: sitk.Image) -> str:
    """Why the network's mask is not used, in words; empty if it is.

    Args:
        mask: (X, Y, Z) what the network calls lung.
        aerated: (X, Y, Z) lung as a threshold finds it.
        air: (X, Y, Z) all air inside the body.
        coarse: HU on that grid.
    """
    found = _share(aerated & mask, aerated)
    if found < _MIN_AERATED_SHARE:
        return f"the network finds {100 * found:.0f} % of the aerated lung"
    outside = (as_array(coarse) < LUNG_TISSUE_HU) & ~air
    share = _share(outside & mask, mask)
    if share > _MAX_OUTSIDE_SHARE:
        return f"{100 * share:.0f} % of what the network finds lies around the patient"
    volume_ml = int(np.count_nonzero(mask)) * voxel_ml(coarse)
    if volume_ml > _MAX_ML:
        return f"the network finds {volume_ml / 1000:.0f} litres of lung"
    return ""


def _share(part: Mask, whole: Mask) -> float:
    """Voxels of ``part`` by those of ``whole``; 0 where there are none."""
    return float(np.count_nonzero(part) / max(1, int(np.count_nonzero(whole))))
