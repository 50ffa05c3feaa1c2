"""Lungs by a threshold alone: aerated lung, closed so that vessels and lesions inside it belong to it.

This is the road where no network is at hand or none is wanted. Dense lung at the chest wall is lost on it.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from covsev.anatomy.images import as_array, as_image, distance_mm, means_by_number
from covsev.anatomy.lungs.box import lung_box
from covsev.anatomy.morphology import holes_in_slices
from covsev.labels import LEFT_LUNG, RIGHT_LUNG

_CLOSING_MM = 12.0  # closes vessels, fissures and dents of the pleura that a ball of this radius does not enter


def close_each(sides: sitk.Image, tree: sitk.Image) -> sitk.Image:
    """Each lung closed by 12 mm and filled, without airways; where both closings meet, the nearer lung wins."""
    present = as_array(sides)
    labels = np.zeros(present.shape, dtype=np.uint8)
    nearest_mm = np.full(present.shape, np.inf, dtype=np.float32)
    for side in (RIGHT_LUNG.id, LEFT_LUNG.id):
        if not (present == side).any():
            continue
        box = lung_box((present == side).astype(np.uint8), 2 * _CLOSING_MM, sides.GetSpacing())
        mask = sitk.Cast(sides[box] == side, sitk.sitkUInt8)
        closed, to_lung = _closing(mask)
        filled, to_lung_mm = as_array(fill_holes(closed)) > 0, as_array(to_lung)
        won = filled & (to_lung_mm < nearest_mm[box])
        labels[box][won] = side
        nearest_mm[box][won] = to_lung_mm[won]
    labels[as_array(tree) > 0] = 0
    return as_image(labels, sides)


def _closing(mask: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """Morphological closing by a ball of 12 mm and the distance to ``mask``.

    By distance maps, so that spacing may differ by axis.
    """
    margin = [int(np.ceil(_CLOSING_MM / side)) + 1 for side in mask.GetSpacing()]
    # Mirrored, not zero: a lung cut by the scan's end stays whole up to the end.
    to_lung = distance_mm(sitk.MirrorPad(mask, margin, margin))
    # Distances to the border voxels of what lies outside, not to those inside, make the erosion undo the dilation.
    far_outside = sitk.Cast(to_lung > _CLOSING_MM, sitk.sitkUInt8)
    closed = sitk.Crop(distance_mm(far_outside) > _CLOSING_MM, margin, margin)
    closed.CopyInformation(mask)
    return sitk.Or(closed, mask), sitk.Crop(to_lung, margin, margin)


def fill_holes(mask: sitk.Image) -> sitk.Image:
    """Fill what the lung surrounds in axial slices: vessels and lesions, but not the dome of the diaphragm.

    A hole of several slices is filled if lung lies below most of it; below the dome there is only abdomen.
    """
    lung = as_array(mask) > 0
    holes = holes_in_slices(lung)
    parts = as_array(sitk.ConnectedComponent(as_image(holes.astype(np.uint8), mask)))
    lung_below = np.maximum.accumulate(lung, axis=2)  # canonical z grows to the head
    fill = means_by_number(parts, lung_below) >= 0.5
    fill[0] = False
    return as_image((lung | fill[parts]).astype(np.uint8), mask)


def fill_each(sides: sitk.Image, tree: sitk.Image) -> sitk.Image:
    """Each lung with its holes filled, without airways; where both fillings overlap, the right label wins."""
    present = as_array(sides)
    labels = np.zeros(present.shape, dtype=np.uint8)
    for side in (LEFT_LUNG.id, RIGHT_LUNG.id):
        mask = (present == side).astype(np.uint8)
        if mask.any():
            labels[as_array(fill_holes(as_image(mask, sides))) > 0] = side
    labels[as_array(tree) > 0] = 0
    return as_image(labels, sides)
