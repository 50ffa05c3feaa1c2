"""Air inside the body by thresholds and connectivity: trachea and main bronchi, the right and the left lung.

Everything here works on SimpleITK images at about 2 mm with axes left, back, head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

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
    tissue = sitk.BinaryMorphologicalOpening(coarse > _BODY_HU, (1, 1, 1))
    body = as_array(sitk.RelabelComponent(sitk.ConnectedComponent(tissue), sortByObjectSize=True)) == 1
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
    wall = sitk.BinaryDilate(sitk.Cast(tree, sitk.sitkUInt8), (1, 1, 1))
    closed = sitk.BinaryMorphologicalClosing(wall, (2, 2, 1))
    return closed if volume_ml(closed) <= 2 * _MAX_AIRWAY_ML else empty


def _trachea_seed(coarse: sitk.Image, air: sitk.Image) -> tuple[int, int, int] | None:
    """Voxel of the trachea: in the upper half, a round pool of air near the midline; ``None`` if there is none."""
    hu, inside = as_array(coarse), as_array(air) > 0
    z = np.nonzero(inside)[2]
    body_x = np.nonzero(hu > _BODY_HU)[0]  # not the lungs' x: one of them may be missing
    midline, width = float(np.median(body_x)), float(np.ptp(np.nonzero(inside)[0]))
    top, bottom = int(z.max()), int(np.median(z))
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
    opened = sitk.BinaryMorphologicalOpening(air, (1, 1, 1))
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(opened), sortByObjectSize=True)
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.Execute(coarse, parts)
    voxel_ml = float(np.prod(coarse.GetSpacing())) / 1000
    sizes_ml = {n: statistics.GetCount(n) * voxel_ml for n in statistics.GetLabels() if n > 0}
    lungs = {n: ml for n, ml in sizes_ml.items() if ml >= _MIN_LUNG_ML and statistics.GetMean(n) > _GAS_HU}
    if not lungs:
        raise LungsNotFoundError(f"scan {scan.case}: no part of lung density is larger than {_MIN_LUNG_ML:.0f} ml")
    least = _MIN_LUNG_SHARE * max(lungs.values())
    kept = {n: i + 1 for i, n in enumerate(n for n, ml in lungs.items() if ml >= least)}
    return sitk.ChangeLabel(parts, {n: kept.get(n, 0) for n in sizes_ml})


def right_and_left(parts: sitk.Image, centre_x: float) -> tuple[sitk.Image, tuple[str, ...]]:
    """Labels 1 right, 2 left, and flags. Canonical x grows to the left: the part with the smaller x is the right lung.

    Args:
        parts: labels of :func:`lung_parts`; each part goes to one side, so that a lung in two parts stays one lung.
        centre_x: middle of the scan in voxels of ``parts``, which tells the side where only one lung is found.
    """
    numbers = as_array(parts)
    sides = np.zeros(numbers.shape, dtype=np.uint8)
    middle = float(np.nonzero(numbers)[0].mean())
    if _smaller_share(numbers, middle) >= _FUSED_SHARE:
        for number in range(1, int(numbers.max()) + 1):
            mask = numbers == number
            sides[mask] = RIGHT_LUNG.id if np.nonzero(mask)[0].mean() < middle else LEFT_LUNG.id
        return as_image(sides, parts), ()
    split = _split_fused(sitk.Cast(parts == 1, sitk.sitkUInt8))
    if split is not None:
        return split, ("fused",)
    sides[numbers > 0] = RIGHT_LUNG.id if middle < centre_x else LEFT_LUNG.id
    return as_image(sides, parts), ("one_lung",)


def _smaller_share(numbers: NDArray[Any], middle: float) -> float:
    """Share of all voxels in the smaller of the two groups of parts left and right of ``middle``."""
    x = np.nonzero(numbers)[0]
    sizes = np.bincount(numbers[numbers > 0])
    centres = np.bincount(numbers[numbers > 0], weights=x) / np.maximum(sizes, 1)
    right = sizes[centres < middle].sum() if len(sizes) else 0
    return float(min(right, sizes.sum() - right) / sizes.sum())


def _split_fused(lungs: sitk.Image) -> sitk.Image | None:
    """Split one part into right and left: erode until it falls in two, then flood back from the two cores."""
    inward_mm = distance_mm(lungs)
    total = np.count_nonzero(as_array(lungs))
    for erosion_mm in range(1, _MAX_SPLIT_MM + 1):
        cores = sitk.RelabelComponent(sitk.ConnectedComponent(inward_mm < -erosion_mm), sortByObjectSize=True)
        sizes = np.bincount(as_array(cores).ravel())[1:3]
        if len(sizes) == 2 and sizes[1] >= _FUSED_SHARE * sizes.sum() and sizes.sum() > 0.2 * total:
            markers = sitk.ChangeLabel(cores, dict.fromkeys(range(3, int(as_array(cores).max()) + 1), 0))
            flooded = sitk.MorphologicalWatershedFromMarkers(inward_mm, markers, markWatershedLine=False)
            halves = np.where(as_array(lungs) > 0, as_array(flooded), 0)
            first, second = (np.nonzero(halves == n)[0].mean() for n in (1, 2))
            ids = (RIGHT_LUNG.id, LEFT_LUNG.id) if first < second else (LEFT_LUNG.id, RIGHT_LUNG.id)
            return as_image(np.array([0, *ids], dtype=np.uint8)[halves], lungs)
    return None
