"""Which parts of the air in the body are lung, and which lung is right and which left.

Everything here works on SimpleITK images at about 2 mm with axes left, back, head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.anatomy.images import as_array, as_image, distance_mm, means_by_number, voxel_ml
from covsev.anatomy.morphology import mean_x, opened
from covsev.errors import LungsNotFoundError
from covsev.labels import LEFT_LUNG, LUNG_TISSUE_HU, RIGHT_LUNG
from covsev.scan import Scan
from covsev.scan.boxes import occupied

_GAS_HU = -940  # stomach and bowel gas is purer than lung
_MIN_LUNG_ML = 60.0  # parts smaller than this beside the largest are not lungs
_MIN_LUNG_SHARE = 0.08  # of the largest part
_MIN_TIP_ML = 2.0  # aerated parts beside the lungs that are smaller are noise
_FUSED_SHARE = 0.12  # the smaller lung holds at least this share of both, else they are fused
_MAX_SPLIT_MM = 14  # an erosion that needs more has eaten a healthy lung's apex
_MIN_CORES = 0.2  # share of the lungs that is left in both cores together


def lung_parts(coarse: sitk.Image, air: sitk.Image, scan: Scan) -> sitk.Image:
    """Connected parts of ``air`` that are lung by size and density, largest first, as labels 1, 2, ...

    Raises:
        LungsNotFoundError: if no part is large enough.
    """
    parts = sitk.ConnectedComponent(as_image(opened(as_array(air) > 0).astype(np.uint8), air))
    numbers = as_array(parts)
    sizes_ml = np.bincount(numbers.ravel()) * voxel_ml(coarse)
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


def likely_lungs(coarse: sitk.Image, mask: sitk.Image, scan: Scan) -> sitk.Image:
    """Connected parts of what the network calls lung that can be lung, largest first, as labels 1, 2, ...

    A part as large as a lung counts whatever its density. A smaller one counts if most of it is aerated, such as the
    tip of a lung that disease cuts off; a piece of spleen or stomach does not.

    Raises:
        LungsNotFoundError: if no part is large enough.
    """
    parts = sitk.ConnectedComponent(mask)
    numbers = as_array(parts)
    sizes_ml = np.bincount(numbers.ravel()) * voxel_ml(coarse)
    aerated_share = means_by_number(numbers, as_array(coarse) < LUNG_TISSUE_HU)
    largest_ml = float(sizes_ml[1:].max(initial=0))
    if largest_ml < _MIN_LUNG_ML:
        raise LungsNotFoundError(f"scan {scan.case}: the lung network finds no part larger than {_MIN_LUNG_ML:.0f} ml")
    as_lung = (sizes_ml >= _MIN_LUNG_ML) & (sizes_ml >= _MIN_LUNG_SHARE * largest_ml)
    as_tip = (sizes_ml >= _MIN_TIP_ML) & (aerated_share >= 0.5)
    counted = np.flatnonzero(as_lung | as_tip)
    counted = counted[counted > 0]
    counted = counted[np.argsort(-sizes_ml[counted], kind="stable")]
    rank = np.zeros(len(sizes_ml), dtype=np.uint8)
    rank[counted] = np.arange(1, len(counted) + 1)
    return as_image(rank[numbers], parts)


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


def are_joined(parts: sitk.Image) -> bool:
    """Whether :func:`right_and_left` would have to split the lungs, or finds one only."""
    numbers = as_array(parts)
    return _smaller_share(numbers, mean_x(numbers > 0)) < _FUSED_SHARE


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
        if len(sizes) < 2:
            continue
        both = sizes.sum()
        # Two crumbs that a strong erosion leaves are no lungs, nor is one lung and a crumb.
        if sizes[1] >= _FUSED_SHARE * both and both > _MIN_CORES * total:
            markers = _sides_of_cores(numbers)
            return as_image(np.where(mask, _flooded(inward_mm, markers, erosion_mm), 0), lungs)
    return None


def _sides_of_cores(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """Side of the two largest cores, numbered 1 and 2, by where they lie; all others are 0."""
    sides = np.zeros(int(numbers.max()) + 1, dtype=np.uint8)
    first_is_right = mean_x(numbers == 1) < mean_x(numbers == 2)
    sides[1:3] = (RIGHT_LUNG.id, LEFT_LUNG.id) if first_is_right else (LEFT_LUNG.id, RIGHT_LUNG.id)
    return sides[numbers]  # type: ignore[no-any-return]


def _flooded(inward_mm: sitk.Image, markers: NDArray[np.uint8], erosion_mm: float) -> NDArray[np.uint8]:
    """Every voxel's side, flooded from the two cores where they lie side by side; elsewhere only one is near."""
    # Erosion took so much from each side of the gap between the cores; two voxels more are on the safe side.
    margin = int(np.ceil(2 * erosion_mm / inward_mm.GetSpacing()[0])) + 2
    left_begins = occupied(markers == LEFT_LUNG.id, 0)[0]
    right_ends = occupied(markers == RIGHT_LUNG.id, 0)[-1] + 1
    start = max(0, int(left_begins) - margin)
    stop = int(right_ends) + margin
    sides = np.empty_like(markers)
    sides[:start], sides[start:] = RIGHT_LUNG.id, LEFT_LUNG.id
    if start < stop:
        between = inward_mm[start:stop]
        flooded = sitk.MorphologicalWatershedFromMarkers(
            between, as_image(markers[start:stop], between), markWatershedLine=False
        )
        sides[start:stop] = as_array(flooded)
    return sides
