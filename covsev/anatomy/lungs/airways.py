"""Air inside the body by thresholds and connectivity, and the trachea and main bronchi in it.

Everything here works on SimpleITK images at about 2 mm with axes left, back, head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from covsev.anatomy.images import as_array, as_image, means_by_number, volume_ml
from covsev.anatomy.morphology import Mask, counts_along_x, dilated, median_of_counts, opened
from covsev.errors import LungsNotFoundError
from covsev.labels import LUNG_TISSUE_HU, PADDING_HU
from covsev.scan import Scan
from covsev.scan.boxes import bounding_box

_PURE_HU = -820  # of gas in the bowel with its mixed border voxels at 2 mm; cut-off tips of lung are denser
_BODY_HU = -300
_OUTSIDE_AIR_HU = -930  # air around the patient touches the scan's sides with a mean below this
_TRACHEA_HU = -900  # the trachea holds pure air; lung is denser
_TRACHEA_MM2 = (60, 700)  # area across: a child's, and a wide one that breathes in
_TRACHEA_ELONGATION = 1.8  # of an ellipse; gullet and bowel are longer
_OFF_MIDLINE = 0.12  # of the lungs' width: disease and rotation pull it aside
_MAX_AIRWAY_ML = 150.0  # a larger airway tree has leaked into the lung
_AIRWAY_HU = range(-980, -850, 10)
_MAX_AIRWAY_GROWTH = 1.6  # a step that grows the tree by more has leaked


# ---- air in the body -----------------------------------------------------------------------------------------------


def air_inside(coarse: sitk.Image, scan: Scan) -> sitk.Image:
    """Mask of lung density in the body, neither around the patient nor in the table.

    Raises:
        LungsNotFoundError: if there is no such air.
    """
    hu = as_array(coarse)
    parts = sitk.ConnectedComponent(coarse < LUNG_TISSUE_HU)
    numbers = as_array(parts)
    share_inside = means_by_number(numbers, _surrounded(coarse))
    sides = np.zeros(hu.shape, dtype=bool)
    sides[[0, -1]] = sides[:, [0, -1]] = True
    side_hu = means_by_number(numbers[sides], hu[sides], length=len(share_inside))
    outside = (share_inside < 0.5) | (side_hu < _OUTSIDE_AIR_HU)
    outside[0] = True
    if outside.all():
        raise LungsNotFoundError(f"scan {scan.case}: no air inside the body; is this a chest CT in HU?")
    return as_image((~outside[numbers]).astype(np.uint8), coarse)


def _surrounded(coarse: sitk.Image) -> NDArray[np.bool_]:
    """Voxels that see the body in at least three of the directions right, left, front and back."""
    tissue = as_image(opened(as_array(coarse) > _BODY_HU).astype(np.uint8), coarse)
    numbers = as_array(sitk.ConnectedComponent(tissue))
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    body = numbers == max(1, int(sizes.argmax()))
    seen = np.zeros(body.shape, dtype=np.uint8)
    for axis in (0, 1):
        seen += np.maximum.accumulate(body, axis=axis)
        seen += np.flip(np.maximum.accumulate(np.flip(body, axis), axis=axis), axis)
    return seen >= 3


def airways(coarse: sitk.Image, air: sitk.Image) -> sitk.Image:
    """Mask of trachea and main bronchi: region growing from the trachea, stopped before it leaks into the lung."""
    empty = coarse * 0 > 0
    seed = _trachea_seed(coarse, air)
    if seed is None:
        return empty
    tree, tree_ml = empty, 0.0
    for upper in _AIRWAY_HU:
        grown = sitk.ConnectedThreshold(coarse, [seed], lower=PADDING_HU, upper=upper)
        grown_ml = volume_ml(grown)
        if grown_ml > _MAX_AIRWAY_ML or (tree_ml > 20 and grown_ml > _MAX_AIRWAY_GROWTH * tree_ml):
            break
        tree, tree_ml = grown, grown_ml
    closed = _with_wall(tree)
    return closed if volume_ml(closed) <= 2 * _MAX_AIRWAY_ML else empty


def gas_beside_lungs(air: Mask, lungs: Mask, tree: Mask, hu: NDArray[Any]) -> Mask:
    """Parts of the air in the body that are gas of stomach or bowel: pure, and not joined to the lungs.

    Args:
        air, lungs, tree: (X, Y, Z) all air in the body, the lungs by the threshold, and the airways.
        hu: (X, Y, Z).
    """
    joined = lungs | tree
    parts, _ = ndimage.label(air | joined)
    joined_share = means_by_number(parts, joined)
    mean_hu = means_by_number(parts, hu)
    is_gas = (joined_share == 0) & (mean_hu < _PURE_HU)
    is_gas[0] = False
    return is_gas[parts]  # type: ignore[no-any-return]


def _with_wall(tree: sitk.Image) -> sitk.Image:
    """``tree`` grown by a voxel and closed, so that the walls belong to it."""
    inside = as_array(tree) > 0
    closed = np.zeros(inside.shape, dtype=np.uint8)
    if inside.any():
        box = bounding_box(inside, margin=4)
        wall = sitk.GetImageFromArray(dilated(inside[box]).astype(np.uint8).transpose())
        closed[box] = as_array(sitk.BinaryMorphologicalClosing(wall, (2, 2, 1)))
    return as_image(closed, tree)


def _trachea_seed(coarse: sitk.Image, air: sitk.Image) -> tuple[int, int, int] | None:
    """Voxel of the trachea: in the upper half, a round pool of air near the midline; ``None`` if there is none."""
    hu, inside = as_array(coarse), as_array(air) > 0
    along_z = np.count_nonzero(inside, axis=(0, 1))
    body_x = counts_along_x(hu > _BODY_HU)  # not the lungs' x: one of them may be missing
    midline, width = median_of_counts(body_x), float(np.ptp(np.flatnonzero(counts_along_x(inside))))
    top, bottom = int(np.flatnonzero(along_z)[-1]), int(median_of_counts(along_z))
    area_mm2 = coarse.GetSpacing()[0] * coarse.GetSpacing()[1]
    for level in range(top, bottom, -1):
        pure = inside[:, :, level] & (hu[:, :, level] < _TRACHEA_HU)
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(sitk.ConnectedComponent(sitk.GetImageFromArray(pure.T.astype(np.uint8))))
        for number in shapes.GetLabels():
            least_mm2, most_mm2 = _TRACHEA_MM2
            as_large = least_mm2 <= shapes.GetNumberOfPixels(number) * area_mm2 <= most_mm2
            x, y = shapes.GetCentroid(number)
            central = abs(x - midline) < _OFF_MIDLINE * width
            if as_large and central and shapes.GetElongation(number) < _TRACHEA_ELONGATION:
                index = (round(x), round(y), level)
                if hu[index] < _TRACHEA_HU:  # the middle of a crescent lies outside of it
                    return index
    return None
