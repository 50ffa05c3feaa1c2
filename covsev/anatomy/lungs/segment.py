"""Right and left lung in a chest CT, dense disease included, airways excluded.

The work is done at about 2 mm: air inside the body (:mod:`covsev.anatomy.lungs.airways`), each lung closed, then dense
lung at the chest wall (``dense_lung``). The result is brought back to the scan's own grid, where the
scan's own voxels decide the boundary of aerated lung.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.anatomy.images import as_array, as_image, distance_mm, means_by_number, volume_ml, without
from covsev.anatomy.lungs.airways import air_inside, airways
from covsev.anatomy.lungs.dense_lung import find_dense_lung
from covsev.anatomy.lungs.sides import lung_parts, right_and_left
from covsev.anatomy.morphology import Mask, dilated, eroded, holes_in_slices
from covsev.errors import LungsNotFoundError
from covsev.labels import LEFT_LUNG, LUNG_TISSUE_HU, PADDING_HU, RIGHT_LUNG
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, to_canonical
from covsev.scan.boxes import Box, bounding_box, margin_voxels

WORKING_SPACING_MM = 2.0
_CHEST_WALL_MM = 70.0  # around the aerated lungs, so that the ribs beside dense lung are in the box
_CLOSING_MM = 12.0  # closes vessels, fissures and dents of the pleura that a ball of this radius does not enter
_SIDE, _CERTAIN, _MISSED = 3, 4, 8  # bits of a coarse voxel: its lung, lung throughout, missed by the threshold


@dataclass(frozen=True, eq=False)
class LungSegmentation:
    """Result of :func:`segment_lungs`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 right lung, 2 left lung.
        recovered_mask: (X, Y, Z) bool on the scan's grid: lung that the threshold missed and that was recovered.
        recovered_ml: volume of ``recovered_mask``: vessels and dense disease, without airways.
        airways_ml: volume of trachea and main bronchi, which are not lung.
        leak_suspected_ml: part of the recovered volume on rays from the middle of the chest that meet no aerated lung,
            which do not show where mediastinum and diaphragm end.
        possible_effusion_ml: volume between lung and chest wall with the density of fluid, not in the labels.
        flags: codes of what is unusual: ``fused`` (both lungs were one part and were split), ``one_lung``.
    """

    labels: NDArray[np.uint8]
    recovered_mask: NDArray[np.bool_]
    recovered_ml: float
    airways_ml: float
    leak_suspected_ml: float
    possible_effusion_ml: float
    flags: tuple[str, ...]


def segment_lungs(scan: Scan) -> LungSegmentation:
    """Segment the right and the left lung, dense disease included, airways excluded.

    Raises:
        LungsNotFoundError: if no part of the scan looks like lung.
    """
    hu = to_canonical(scan.hu, scan.affine)
    spacing_mm = canonical_spacing_mm(scan)
    factors = [min(n, max(1, round(WORKING_SPACING_MM / side))) for n, side in zip(hu.shape, spacing_mm, strict=True)]
    whole = _shrink(hu, spacing_mm, factors)
    air = air_inside(whole, scan)
    tree = airways(whole, air)
    parts = lung_parts(whole, without(air, tree), scan)
    box = lung_box(as_array(parts), _CHEST_WALL_MM, whole.GetSpacing())
    sides, flags = right_and_left(parts[box], (whole.GetWidth() - 1) / 2 - box[0].start)
    closed = _close_each(sides, tree[box])
    dense = find_dense_lung(as_array(whole[box]), as_array(closed), whole.GetSpacing())
    full = as_image(np.where(as_array(tree[box]) > 0, 0, np.maximum(as_array(closed), dense.labels)), closed)
    labels, recovered = _refine(hu, full, sides, tree[box], factors, box)
    return LungSegmentation(
        labels=from_canonical(labels, scan.affine),
        recovered_mask=from_canonical(recovered, scan.affine),
        recovered_ml=int(np.count_nonzero(recovered)) * scan.voxel_ml,
        airways_ml=volume_ml(tree),
        leak_suspected_ml=dense.leak_suspected_ml,
        possible_effusion_ml=dense.possible_effusion_ml,
        flags=flags,
    )


def _shrink(hu: NDArray[Any], spacing_mm: tuple[float, ...], factors: list[int]) -> sitk.Image:
    """HU at the working spacing: block means, values below air lifted to air."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose()))
    image.SetSpacing(spacing_mm)
    image = sitk.Clamp(image, sitk.sitkInt16, PADDING_HU, 3000)
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


# ---- closing -----------------------------------------------------------------------------------------------------


def _close_each(sides: sitk.Image, tree: sitk.Image) -> sitk.Image:
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
        filled, to_lung_mm = as_array(_fill_holes(closed)) > 0, as_array(to_lung)
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


def _fill_holes(mask: sitk.Image) -> sitk.Image:
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


# ---- the way back to the scan's grid -------------------------------------------------------------------------------


def _refine(
    hu: NDArray[Any],
    closed: sitk.Image,
    sides: sitk.Image,
    tree: sitk.Image,
    factors: list[int],
    box: Box,
) -> tuple[NDArray[np.uint8], Mask]:
    """Labels and recovered lung at full resolution; the coarse images cover ``box`` of the coarse grid.

    Deep inside the coarse lung all voxels are lung. In the border of the coarse lung, one coarse voxel to each
    side, voxels are lung if they are aerated, or if they were recovered.
    """
    labels, airway_mask = as_array(closed).astype(np.uint8), as_array(tree) > 0
    missed = (labels > 0) & (as_array(sides) == 0)
    certain = eroded(labels > 0, outside=False) | missed
    codes = np.where(labels > 0, labels, _grown(labels))  # where the lungs touch, neither grows
    codes[airway_mask] = 0
    codes |= certain.astype(np.uint8) * _CERTAIN | missed.astype(np.uint8) * _MISSED
    fine = tuple(_fine(part, f, n, m) for part, f, n, m in zip(box, factors, hu.shape, codes.shape, strict=True))
    found, recovered = np.zeros_like(hu, dtype=np.uint8), np.zeros_like(hu, dtype=bool)
    window = fine[0][0], fine[1][0]
    for z, coarse_z in zip(range(fine[2][0].start, fine[2][0].stop), fine[2][1], strict=True):
        code = codes[:, :, coarse_z][fine[0][1]][:, fine[1][1]]
        aerated = hu[(*window, z)] < LUNG_TISSUE_HU
        lung = np.where(aerated | (code >= _CERTAIN), code & _SIDE, 0)
        found[(*window, z)] = lung
        recovered[(*window, z)] = (lung > 0) & ~aerated & (code >= _MISSED)
    return found, recovered


def _grown(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of both lungs grown by a ball of one voxel; the left lung's where both reach."""
    return np.where(dilated(labels == LEFT_LUNG.id), LEFT_LUNG.id, dilated(labels == RIGHT_LUNG.id)).astype(np.uint8)


def _fine(part: slice, factor: int, length: int, coarse_length: int) -> tuple[slice, NDArray[np.int64]]:
    """The stretch of an axis of the scan that a stretch of the coarse grid covers, and its indices into the latter.

    The last coarse voxel of the grid also covers what was left over when the axis was shrunk.
    """
    last = part.stop == length // factor
    stretch = slice(part.start * factor, length if last else part.stop * factor)
    index = np.arange(stretch.start, stretch.stop) // factor - part.start
    return stretch, np.minimum(index, coarse_length - 1)


def lung_box(labels: NDArray[np.uint8], margin_mm: float, spacing_mm: tuple[float, ...]) -> Box:
    """Bounding box of all lung voxels with a margin, clipped to the volume, one slice an axis.

    Raises:
        LungsNotFoundError: if there is no lung voxel.
    """
    if not labels.any():
        raise LungsNotFoundError("the label map holds no lung")
    return bounding_box(labels, margin_voxels(margin_mm, spacing_mm))
