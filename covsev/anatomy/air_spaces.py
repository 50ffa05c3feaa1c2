"""Air inside the body by thresholds and connectivity: trachea and main bronchi, the right and the left lung.

Everything here works on SimpleITK images at about 2 mm with axes left, back, head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from covsev.anatomy.morphology import counts_along_x, dilated, mean_x, median_of_counts, opened
from covsev.errors import LungsNotFoundError
from covsev.labels import LEFT_LUNG, LUNG_TISSUE_HU, PADDING_HU, RIGHT_LUNG
from covsev.scan import Scan

_BODY_HU = -300
_OUTSIDE_AIR_HU = -930  # air around the patient touches the scan's sides with a mean below this
_GAS_HU = -940  # stomach and bowel gas is purer than lung
_MIN_LUNG_ML = 60.0  # parts smaller than this beside the largest are not lungs
_MIN_LUNG_SHARE = 0.08  # of the largest part
_MAX_AIRWAY_ML = 150.0  # a larger airway tree has leaked into the lung
_AIRWAY_HU = range(-980, -850, 10)
_MAX_AIRWAY_GROWTH = 1.6  # a step that grows the tree by more has leaked
_FUSED_SHARE = 0.12  # the smaller lung holds at least this share of both, else they are fused
_MAX_SPLIT_MM = 14


# ---- between numpy (X, Y, Z) and SimpleITK -----------------------------------------------------------------------


def as_image(array: NDArray[Any], like: sitk.Image) -> sitk.Image:
    """SimpleITK image of an (X, Y, Z) array on the grid of ``like``."""
    image = sitk.GetImageFromArray(array.transpose())
    image.CopyInformation(like)
    return image


def as_array(image: sitk.Image) -> NDArray[Any]:
    """(X, Y, Z) array of an image."""
    return sitk.GetArrayFromImage(image).transpose()


def volume_ml(mask: sitk.Image) -> float:
    """Volume of a mask."""
    return float(np.count_nonzero(sitk.GetArrayViewFromImage(mask)) * np.prod(mask.GetSpacing()) / 1000)


def without(mask: sitk.Image, removed: sitk.Image) -> sitk.Image:
    """``mask`` where ``removed`` is not."""
    return sitk.And(mask, sitk.Not(removed))


def distance_mm(mask: sitk.Image) -> sitk.Image:
    """Signed distance to the border of ``mask`` in mm, negative inside."""
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)


def means_by_number(numbers: NDArray[Any], values: NDArray[Any], length: int = 0) -> NDArray[np.float64]:
    """Mean of ``values`` over the voxels of each number; 0 for a number without voxels."""
    counts = np.bincount(numbers.ravel(), minlength=length)
    return np.bincount(numbers.ravel(), weights=values.ravel(), minlength=length) / np.maximum(counts, 1)


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


def _with_wall(tree: sitk.Image) -> sitk.Image:
    """``tree`` grown by a voxel and closed, so that the walls belong to it."""
    inside = as_array(tree) > 0
    closed = np.zeros(inside.shape, dtype=np.uint8)
    found = ndimage.find_objects(inside.view(np.uint8))
    if found:
        box = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in found[0])
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
        pure = sitk.GetImageFromArray((inside[:, :, level] & (hu[:, :, level] < -900)).T.astype(np.uint8))
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(sitk.ConnectedComponent(pure))
        for number in shapes.GetLabels():
            pixels = shapes.GetNumberOfPixels(number)
            centre = shapes.GetCentroid(number)
            round_enough = shapes.GetElongation(number) < 1.8
            if 60 <= pixels * area_mm2 <= 700 and round_enough and abs(centre[0] - midline) < 0.12 * width:
                index = (round(centre[0]), round(centre[1]), level)
                if hu[index] < -900:
                    return index
    return None


# ---- the two lungs -------------------------------------------------------------------------------------------------


def lung_parts(coarse: sitk.Image, air: sitk.Image, scan: Scan) -> sitk.Image:
    """Connected parts of ``air`` that are lung by size and density, largest first, as labels 1, 2, ...

    Raises:
        LungsNotFoundError: if no part is large enough.
    """
    parts = sitk.ConnectedComponent(as_image(opened(as_array(air) > 0).astype(np.uint8), air))
    numbers = as_array(parts)
    sizes_ml = np.bincount(numbers.ravel()) * float(np.prod(coarse.GetSpacing())) / 1000
    mean_hu = means_by_number(numbers, as_array(coarse))
    lungs = np.flatnonzero((sizes_ml >= _MIN_LUNG_ML) & (mean_hu > _GAS_HU))
    lungs = lungs[lungs > 0]
    if not lungs.size:
        raise LungsNotFoundError(f"scan {scan.case}: no part of lung density is larger than {_MIN_LUNG_ML:.0f} ml")
    lungs = lungs[np.argsort(-sizes_ml[lungs], kind="stable")]
    lungs = lungs[sizes_ml[lungs] >= _MIN_LUNG_SHARE * sizes_ml[lungs[0]]]
    kept = np.zeros(len(sizes_ml), dtype=np.uint8)
    kept[lungs] = np.arange(1, len(lungs) + 1)
    return as_image(kept[numbers], parts)


def right_and_left(parts: sitk.Image, centre_x: float) -> tuple[sitk.Image, tuple[str, ...]]:
    """Labels 1 right, 2 left, and flags. Canonical x grows to the left: the part with the smaller x is the right lung.

    Args:
        parts: labels of :func:`lung_parts`; each part goes to one side, so that a lung in two parts stays one lung.
        centre_x: middle of the scan in voxels of ``parts``, which tells the side where only one lung is found.
    """
    numbers = as_array(parts)
    sides = np.zeros(numbers.shape, dtype=np.uint8)
    middle = mean_x(numbers > 0)
    if _smaller_share(numbers, middle) >= _FUSED_SHARE:
        for number in range(1, int(numbers.max()) + 1):
            mask = numbers == number
            sides[mask] = RIGHT_LUNG.id if mean_x(mask) < middle else LEFT_LUNG.id
        return as_image(sides, parts), ()
    split = _split_fused(sitk.Cast(parts == 1, sitk.sitkUInt8))
    if split is not None:
        return split, ("fused",)
    sides[numbers > 0] = RIGHT_LUNG.id if middle < centre_x else LEFT_LUNG.id
    return as_image(sides, parts), ("one_lung",)


def _smaller_share(numbers: NDArray[Any], middle: float) -> float:
    """Share of all voxels in the smaller of the two groups of parts left and right of ``middle``."""
    masks = [numbers == number for number in range(1, int(numbers.max()) + 1)]
    sizes = np.array([np.count_nonzero(mask) for mask in masks])
    right = sizes[[mean_x(mask) < middle for mask in masks]].sum()
    return float(min(right, sizes.sum() - right) / sizes.sum())


def _split_fused(lungs: sitk.Image) -> sitk.Image | None:
    """Split one part into right and left: erode until it falls in two, then flood back from the two cores."""
    inward_mm = distance_mm(lungs)
    mask = as_array(lungs) > 0
    total = np.count_nonzero(mask)
    for erosion_mm in range(1, _MAX_SPLIT_MM + 1):
        cores = sitk.RelabelComponent(sitk.ConnectedComponent(inward_mm < -erosion_mm), sortByObjectSize=True)
        numbers = as_array(cores)
        sizes = np.bincount(numbers.ravel())[1:3]
        if len(sizes) == 2 and sizes[1] >= _FUSED_SHARE * sizes.sum() and sizes.sum() > 0.2 * total:
            first = 1 if mean_x(numbers == 1) < mean_x(numbers == 2) else 2
            sides = np.array([0, RIGHT_LUNG.id, LEFT_LUNG.id], dtype=np.uint8)[[0, first, 3 - first]]
            markers = np.append(sides, np.zeros(max(0, int(numbers.max()) - 2), np.uint8))[numbers]
            return as_image(np.where(mask, _flooded(inward_mm, markers, erosion_mm), 0), lungs)
    return None


def _flooded(inward_mm: sitk.Image, markers: NDArray[np.uint8], erosion_mm: float) -> NDArray[np.uint8]:
    """Every voxel's side, flooded from the two cores where they lie side by side; elsewhere only one is near."""
    margin = int(np.ceil(2 * erosion_mm / inward_mm.GetSpacing()[0])) + 2
    start = max(0, int(np.flatnonzero(counts_along_x(markers == LEFT_LUNG.id))[0]) - margin)
    stop = int(np.flatnonzero(counts_along_x(markers == RIGHT_LUNG.id))[-1]) + 1 + margin
    sides = np.empty_like(markers)
    sides[:start], sides[start:] = RIGHT_LUNG.id, LEFT_LUNG.id
    if start < stop:
        between = inward_mm[start:stop]
        flooded = sitk.MorphologicalWatershedFromMarkers(
            between, as_image(markers[start:stop], between), markWatershedLine=False
        )
        sides[start:stop] = as_array(flooded)
    return sides
