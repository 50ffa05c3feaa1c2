"""Right and left lung in a chest CT, by thresholds, connectivity and mathematical morphology (SimpleITK).

The work is done at about 2 mm and brought back to the scan's own grid, where the scan's own voxels decide the
boundary of aerated lung. Dense disease at the pleura is closed back in and reported as ``recovered_ml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.errors import LungsNotFoundError
from covsev.labels import LEFT_LUNG, LUNG_TISSUE_HU, PADDING_HU, RIGHT_LUNG
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, to_canonical

WORKING_SPACING_MM = 2.0
_BODY_HU = -300
_OUTSIDE_AIR_HU = -930  # air around the patient touches the scan's sides with a mean below this
_GAS_HU = -940  # stomach and bowel gas is purer than lung
_MIN_LUNG_ML = 60.0  # parts smaller than this beside the largest are not lungs
_MIN_LUNG_SHARE = 0.08  # of the largest part
_MAX_AIRWAY_ML = 150.0  # a larger airway tree has leaked into the lung
_AIRWAY_HU = range(-980, -850, 10)
_MAX_AIRWAY_GROWTH = 1.6  # a step that grows the tree by more has leaked
_CLOSING_MM = 12.0  # closes vessels, fissures and dents of the pleura that a ball of this radius does not enter
_FUSED_SHARE = 0.12  # the smaller lung holds at least this share of both, else they are fused
_MAX_SPLIT_MM = 14


@dataclass(frozen=True, eq=False)
class LungSegmentation:
    """Result of :func:`segment_lungs`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 right lung, 2 left lung.
        recovered_ml: volume that the threshold missed and the closing brought back, without airways.
        airways_ml: volume of trachea and main bronchi, which are not lung.
        flags: codes of what is unusual: ``fused`` (both lungs were one part and were split), ``one_lung``.
    """

    labels: NDArray[np.uint8]
    recovered_ml: float
    airways_ml: float
    flags: tuple[str, ...]


def segment_lungs(scan: Scan) -> LungSegmentation:
    """Segment the right and the left lung, dense disease included, airways excluded.

    Raises:
        LungsNotFoundError: if no part of the scan looks like lung.
    """
    hu = to_canonical(scan.hu, scan.affine)
    spacing_mm = canonical_spacing_mm(scan)
    factors = [min(n, max(1, round(WORKING_SPACING_MM / side))) for n, side in zip(hu.shape, spacing_mm, strict=True)]
    coarse = _shrink(hu, spacing_mm, factors)
    air = _air_inside(coarse, scan)
    airways = _airways(coarse, air)
    parts = _lung_parts(coarse, _without(air, airways), scan)
    sides, flags = _right_and_left(parts)
    closed = _close_each(sides, airways)
    labels, recovered_ml = _refine(hu, closed, sides, airways, factors, scan.voxel_ml)
    return LungSegmentation(
        labels=from_canonical(labels, scan.affine),
        recovered_ml=recovered_ml,
        airways_ml=_volume_ml(airways),
        flags=flags,
    )


# ---- between numpy (X, Y, Z) and SimpleITK -----------------------------------------------------------------------


def _image(array: NDArray[Any], like: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array.transpose())
    image.CopyInformation(like)
    return image


def _array(image: sitk.Image) -> NDArray[Any]:
    return sitk.GetArrayFromImage(image).transpose()


def _shrink(hu: NDArray[Any], spacing_mm: tuple[float, ...], factors: list[int]) -> sitk.Image:
    """HU at the working spacing: block means, values below air lifted to air."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose()))
    image.SetSpacing(spacing_mm)
    image = sitk.Clamp(image, sitk.sitkInt16, PADDING_HU, 3000)
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _volume_ml(mask: sitk.Image) -> float:
    return float(np.count_nonzero(_array(mask)) * np.prod(mask.GetSpacing()) / 1000)


def _without(mask: sitk.Image, removed: sitk.Image) -> sitk.Image:
    return sitk.And(mask, sitk.Not(removed))


# ---- air in the body -----------------------------------------------------------------------------------------------


def _air_inside(coarse: sitk.Image, scan: Scan) -> sitk.Image:
    """Voxels of lung density in the body, neither around the patient nor in the table."""
    hu = _array(coarse)
    parts = sitk.ConnectedComponent(coarse < LUNG_TISSUE_HU)
    numbers = _array(parts)
    share_inside = _means_by_number(numbers, _surrounded(coarse))
    sides = np.zeros(hu.shape, dtype=bool)
    sides[[0, -1]] = sides[:, [0, -1]] = True
    side_hu = _means_by_number(numbers[sides], hu[sides], length=len(share_inside))
    outside = (share_inside < 0.5) | (side_hu < _OUTSIDE_AIR_HU)
    outside[0] = True
    if outside.all():
        raise LungsNotFoundError(f"scan {scan.case}: no air inside the body; is this a chest CT in HU?")
    return _image((~outside[numbers]).astype(np.uint8), coarse)


def _means_by_number(numbers: NDArray[Any], values: NDArray[Any], length: int = 0) -> NDArray[np.float64]:
    """Mean of ``values`` over the voxels of each number; 0 for a number without voxels."""
    counts = np.bincount(numbers.ravel(), minlength=length)
    return np.bincount(numbers.ravel(), weights=values.ravel(), minlength=length) / np.maximum(counts, 1)


def _surrounded(coarse: sitk.Image) -> NDArray[np.bool_]:
    """Voxels that see the body in at least three of the directions right, left, front and back."""
    tissue = sitk.BinaryMorphologicalOpening(coarse > _BODY_HU, (1, 1, 1))
    body = _array(sitk.RelabelComponent(sitk.ConnectedComponent(tissue), sortByObjectSize=True)) == 1
    seen = np.zeros(body.shape, dtype=np.uint8)
    for axis in (0, 1):
        seen += np.maximum.accumulate(body, axis=axis)
        seen += np.flip(np.maximum.accumulate(np.flip(body, axis), axis=axis), axis)
    return seen >= 3


def _airways(coarse: sitk.Image, air: sitk.Image) -> sitk.Image:
    """Trachea and main bronchi: region growing from the trachea, stopped before it leaks into the lung."""
    empty = coarse * 0 > 0
    seed = _trachea_seed(coarse, air)
    if seed is None:
        return empty
    tree, volume_ml = empty, 0.0
    for upper in _AIRWAY_HU:
        grown = sitk.ConnectedThreshold(coarse, [seed], lower=PADDING_HU, upper=upper)
        grown_ml = _volume_ml(grown)
        if grown_ml > _MAX_AIRWAY_ML or (volume_ml > 20 and grown_ml > _MAX_AIRWAY_GROWTH * volume_ml):
            break
        tree, volume_ml = grown, grown_ml
    wall = sitk.BinaryDilate(sitk.Cast(tree, sitk.sitkUInt8), (1, 1, 1))
    closed = sitk.BinaryMorphologicalClosing(wall, (2, 2, 1))
    return closed if _volume_ml(closed) <= 2 * _MAX_AIRWAY_ML else empty


def _trachea_seed(coarse: sitk.Image, air: sitk.Image) -> tuple[int, int, int] | None:
    """Voxel of the trachea: in the upper half, a round pool of air near the midline; ``None`` if there is none."""
    hu, inside = _array(coarse), _array(air) > 0
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


def _lung_parts(coarse: sitk.Image, air: sitk.Image, scan: Scan) -> sitk.Image:
    """Connected parts of ``air`` that are lung by size and density, largest first, as labels 1, 2, ..."""
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


def _right_and_left(parts: sitk.Image) -> tuple[sitk.Image, tuple[str, ...]]:
    """Labels 1 right, 2 left. Canonical x grows to the left, so the part with the smaller x is the right lung."""
    numbers = _array(parts)
    sides = np.zeros(numbers.shape, dtype=np.uint8)
    middle = float(np.nonzero(numbers)[0].mean())
    if _smaller_share(numbers, middle) >= _FUSED_SHARE:
        for number in range(1, int(numbers.max()) + 1):
            mask = numbers == number
            sides[mask] = RIGHT_LUNG.id if np.nonzero(mask)[0].mean() < middle else LEFT_LUNG.id
        return _image(sides, parts), ()
    split = _split_fused(sitk.Cast(parts == 1, sitk.sitkUInt8))
    if split is not None:
        return split, ("fused",)
    centre = (numbers.shape[0] - 1) / 2
    sides[numbers > 0] = RIGHT_LUNG.id if middle < centre else LEFT_LUNG.id
    return _image(sides, parts), ("one_lung",)


def _smaller_share(numbers: NDArray[Any], middle: float) -> float:
    """Share of all voxels in the smaller of the two groups of parts left and right of ``middle``."""
    x = np.nonzero(numbers)[0]
    sizes = np.bincount(numbers[numbers > 0])
    centres = np.bincount(numbers[numbers > 0], weights=x) / np.maximum(sizes, 1)
    right = sizes[centres < middle].sum() if len(sizes) else 0
    return float(min(right, sizes.sum() - right) / sizes.sum())


def _split_fused(lungs: sitk.Image) -> sitk.Image | None:
    """Split one part into right and left: erode until it falls in two, then flood back from the two cores."""
    distance_mm = _distance_mm(lungs)
    total = np.count_nonzero(_array(lungs))
    for erosion_mm in range(1, _MAX_SPLIT_MM + 1):
        cores = sitk.RelabelComponent(sitk.ConnectedComponent(distance_mm < -erosion_mm), sortByObjectSize=True)
        sizes = np.bincount(_array(cores).ravel())[1:3]
        if len(sizes) == 2 and sizes[1] >= _FUSED_SHARE * sizes.sum() and sizes.sum() > 0.2 * total:
            markers = sitk.ChangeLabel(cores, dict.fromkeys(range(3, int(_array(cores).max()) + 1), 0))
            flooded = sitk.MorphologicalWatershedFromMarkers(distance_mm, markers, markWatershedLine=False)
            halves = np.where(_array(lungs) > 0, _array(flooded), 0)
            first, second = (np.nonzero(halves == n)[0].mean() for n in (1, 2))
            ids = (RIGHT_LUNG.id, LEFT_LUNG.id) if first < second else (LEFT_LUNG.id, RIGHT_LUNG.id)
            return _image(np.array([0, *ids], dtype=np.uint8)[halves], lungs)
    return None


# ---- dense disease, and the way back ----------------------------------------------------------------------------


def _close_each(sides: sitk.Image, airways: sitk.Image) -> sitk.Image:
    """Each lung closed by 12 mm and filled, without airways; where both closings meet, the nearer lung wins."""
    present = _array(sides)
    labels = np.zeros(present.shape, dtype=np.uint8)
    nearest_mm = np.full(present.shape, np.inf, dtype=np.float32)
    for side in (RIGHT_LUNG.id, LEFT_LUNG.id):
        if not (present == side).any():
            continue
        box = lung_box((present == side).astype(np.uint8), 2 * _CLOSING_MM, sides.GetSpacing())
        mask = sitk.Cast(sides[box] == side, sitk.sitkUInt8)
        closed = _array(_fill_holes(_closing(mask))) > 0
        distance_mm = _array(_distance_mm(mask))
        won = closed & (distance_mm < nearest_mm[box])
        labels[box][won] = side
        nearest_mm[box][won] = distance_mm[won]
    labels[_array(airways) > 0] = 0
    return _image(labels, sides)


def _distance_mm(mask: sitk.Image) -> sitk.Image:
    """Signed distance to the border of ``mask`` in mm, negative inside."""
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)


def _closing(mask: sitk.Image) -> sitk.Image:
    """Morphological closing by a ball of 12 mm, by distance maps, so that spacing may differ by axis."""
    margin = [int(np.ceil(_CLOSING_MM / side)) + 1 for side in mask.GetSpacing()]
    # Mirrored, not zero: a lung cut by the scan's end stays whole up to the end.
    padded = sitk.MirrorPad(mask, margin, margin)
    # Distances to the border voxels of what lies outside, not to those inside, make the erosion undo the dilation.
    far_outside = sitk.Cast(_distance_mm(padded) > _CLOSING_MM, sitk.sitkUInt8)
    closed = sitk.Crop(_distance_mm(far_outside) > _CLOSING_MM, margin, margin)
    closed.CopyInformation(mask)
    return sitk.Or(closed, mask)


def _fill_holes(mask: sitk.Image) -> sitk.Image:
    """Fill what the lung surrounds in axial slices: vessels and lesions, but not the dome of the diaphragm.

    A hole of several slices is filled if lung lies below most of it; below the dome there is only abdomen.
    """
    filled = [sitk.BinaryFillhole(mask[:, :, z]) for z in range(mask.GetSize()[2])]
    lung = _array(mask) > 0
    holes = _array(sitk.JoinSeries(filled)).astype(bool) & ~lung
    parts = _array(sitk.ConnectedComponent(_image(holes.astype(np.uint8), mask)))
    lung_below = np.maximum.accumulate(lung, axis=2)  # canonical z grows to the head
    fill = _means_by_number(parts, lung_below) >= 0.5
    fill[0] = False
    return _image((lung | fill[parts]).astype(np.uint8), mask)


def _refine(
    hu: NDArray[Any],
    closed: sitk.Image,
    sides: sitk.Image,
    airways: sitk.Image,
    factors: list[int],
    voxel_ml: float,
) -> tuple[NDArray[np.uint8], float]:
    """Labels at full resolution and the recovered volume.

    Deep inside the coarse lung all voxels are lung. In the border of the coarse lung, one coarse voxel to each
    side, voxels are lung if they are aerated, or if the closing recovered them.
    """
    outer, inner = sitk.Cast(closed, sitk.sitkUInt8), sitk.Cast(closed > 0, sitk.sitkUInt8)
    closed_labels = _array(outer)
    grown = _array(sitk.GrayscaleDilate(outer, (1, 1, 1)))
    labels_out = np.where(closed_labels > 0, closed_labels, grown)  # where the lungs touch, neither grows
    deep = _array(sitk.BinaryErode(inner, (1, 1, 1), sitk.sitkBall, 0, 1, False)) > 0
    recovered = (_array(closed) > 0) & (_array(sides) == 0)
    certainly_lung, airway_mask = deep | recovered, _array(airways) > 0
    index = [np.minimum(np.arange(n) // f, m - 1) for n, f, m in zip(hu.shape, factors, deep.shape, strict=True)]
    labels = np.zeros(hu.shape, dtype=np.uint8)
    recovered_voxels = 0
    plane = np.ix_(index[0], index[1])
    for z, coarse_z in enumerate(index[2]):
        aerated = hu[:, :, z] < LUNG_TISSUE_HU
        certain = certainly_lung[:, :, coarse_z][plane]
        possible = labels_out[:, :, coarse_z][plane]
        airway = airway_mask[:, :, coarse_z][plane]
        lung = (certain | aerated) & ~airway
        labels[:, :, z] = np.where(lung, possible, 0)
        recovered_voxels += int(np.count_nonzero(lung & ~aerated & recovered[:, :, coarse_z][plane]))
    return labels, recovered_voxels * voxel_ml


def lung_box(labels: NDArray[np.uint8], margin_mm: float, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """Bounding box of all lung voxels with a margin, clipped to the volume, one slice an axis.

    Raises:
        LungsNotFoundError: if there is no lung voxel.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(labels.any(axis=others))
        if occupied.size == 0:
            raise LungsNotFoundError("the label map holds no lung")
        margin = int(np.ceil(margin_mm / spacing_mm[axis]))
        box.append(slice(max(0, int(occupied[0]) - margin), min(labels.shape[axis], int(occupied[-1]) + 1 + margin)))
    return tuple(box)
