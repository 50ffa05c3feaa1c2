"""Right and left lung in a chest CT, dense disease included, airways excluded.

A network says what is lung (:mod:`covsev.anatomy.lungs.model`); the rest is done at about 2 mm with SimpleITK: airways
out, parts too small to be lungs out, right and left told apart. On the scan's own grid its own voxels decide where
aerated lung ends (:mod:`covsev.anatomy.lungs.border`). Without a network a threshold and closing take its place, and
dense lung at the chest wall is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.anatomy.images import as_array, as_image, volume_ml, voxel_ml, without
from covsev.anatomy.lungs.airways import air_inside, airways, gas_beside_lungs
from covsev.anatomy.lungs.border import refine
from covsev.anatomy.lungs.box import lung_box
from covsev.anatomy.lungs.check import why_not_believed
from covsev.anatomy.lungs.dense import far_from_air, fluid_layers, thick_parts
from covsev.anatomy.lungs.possible import PossibleLung
from covsev.anatomy.lungs.sides import are_joined, likely_lungs, lung_parts, right_and_left
from covsev.anatomy.lungs.threshold import close_each, fill_each
from covsev.anatomy.morphology import Mask, dilated
from covsev.labels import LUNG_TISSUE_HU, PADDING_HU
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, to_canonical
from covsev.scan.boxes import bounding_box

if TYPE_CHECKING:  # it needs torch, which the road by a threshold does not
    from covsev.anatomy.lungs.model import LungModel, LungProbability

WORKING_SPACING_MM = 2.0
"""Side of a coarse voxel. Finer grids change the masks little and take long; airways vanish on coarser ones."""
_MARGIN_MM = 70.0
"""Around the aerated lungs, on the road by a threshold: closing needs room."""
_AROUND_MM = (10.0, 60.0, 10.0)
"""Around what the network calls lung, to the sides, to front and back, to head and foot: fluid lies at the back."""
_BORDER_HU = -300.0
"""Radiologists draw the lungs with their half-mixed border voxels. On held-out scans the overlap with their masks is
largest here; the midpoint between lung and tissue, -400, loses 0.01 of Dice on planning CTs."""
_BRIGHTEST_HU = 3000
"""Metal is brighter and would brighten its neighbours in the coarse voxels' means."""


@dataclass(frozen=True, eq=False)
class LungSegmentation:
    """Result of :func:`segment_lungs`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 right lung, 2 left lung.
        recovered_mask: (X, Y, Z) bool on the scan's grid: lung that a threshold alone would have dropped.
        recovered_ml: volume of ``recovered_mask``: vessels and dense disease, without airways.
        airways_ml: volume of trachea and main bronchi, which are not lung.
        leak_suspected_ml: part of the dense lung that lies far from all aerated lung.
        possible_effusion_ml: volume of layers with the density of fluid at the back of the lungs, not in the labels.
        flags: codes of what is unusual: ``fused`` (both lungs were one part and were split), ``one_lung``,
            ``lungs_by_threshold`` (the network was not believed).
        method: how the labels were made, in words.
        networks: name and weights' SHA-256 of the network; empty without one.
        possible: what may be lung besides; ``None`` without a network.
    """

    labels: NDArray[np.uint8]
    recovered_mask: NDArray[np.bool_]
    recovered_ml: float
    airways_ml: float
    leak_suspected_ml: float
    possible_effusion_ml: float
    flags: tuple[str, ...]
    method: str = "threshold"
    networks: Mapping[str, str] = field(default_factory=dict)
    possible: PossibleLung | None = None

    def with_disease(self, labels: NDArray[np.uint8], voxel_ml: float) -> LungSegmentation:
        """The same with the disease at its border, which ``labels`` holds; a threshold would have dropped it."""
        added = (labels > 0) & (self.labels == 0)
        added_ml = int(np.count_nonzero(added)) * voxel_ml
        if not added_ml:
            return replace(self, possible=None)
        return replace(
            self,
            labels=labels,
            recovered_mask=self.recovered_mask | added,
            recovered_ml=self.recovered_ml + added_ml,
            method=f"{self.method}; and disease that goes on beyond it",
            possible=None,
        )


@dataclass(frozen=True, eq=False)
class _Coarse:
    """What is known on the coarse grid before a road is chosen."""

    whole: sitk.Image
    air: sitk.Image
    tree: sitk.Image
    parts: sitk.Image
    factors: tuple[int, int, int]


def segment_lungs(scan: Scan, model: LungModel | None = None) -> LungSegmentation:
    """Segment the right and the left lung, dense disease included, airways excluded.

    Args:
        scan: the scan.
        model: see :func:`covsev.anatomy.lungs.model.load_lung_model`; a threshold alone if not given.

    Raises:
        LungsNotFoundError: if no part of the scan looks like lung.
    """
    hu = to_canonical(scan.hu, scan.affine)
    coarse = _coarse(hu, scan)
    if model is None:
        return _by_threshold(hu, scan, coarse, "threshold and closing at about 2 mm (SimpleITK)")
    probability = model.probability(hu, canonical_spacing_mm(scan))
    size = coarse.whole.GetSize()
    levels = probability.levels((size[0], size[1]), coarse.factors[2])
    # In memory as SimpleITK's arrays are: masks of two orders are several times slower to join.
    prob = np.stack([level.T for level in levels]).transpose()
    aerated, air = as_array(coarse.parts) > 0, as_array(coarse.air) > 0
    doubt = why_not_believed(prob >= model.threshold, aerated, air, coarse.whole)
    if doubt:
        return _by_threshold(hu, scan, coarse, f"threshold, since {doubt}", flags=("lungs_by_threshold",))
    return _by_network(hu, scan, coarse, prob, probability, model)


def _coarse(hu: NDArray[Any], scan: Scan) -> _Coarse:
    """The scan at about 2 mm, and the air in it."""
    spacing_mm = canonical_spacing_mm(scan)
    wanted = [max(1, round(WORKING_SPACING_MM / side)) for side in spacing_mm]
    x, y, z = (min(count, one) for count, one in zip(hu.shape, wanted, strict=True))
    whole = _shrink(hu, spacing_mm, [x, y, z])
    air = air_inside(whole, scan)
    tree = airways(whole, air)
    return _Coarse(whole, air, tree, lung_parts(whole, without(air, tree), scan), (x, y, z))


def _shrink(hu: NDArray[Any], spacing_mm: tuple[float, ...], factors: list[int]) -> sitk.Image:
    """HU at the working spacing: block means, values below air lifted to air."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose()))
    image.SetSpacing(spacing_mm)
    image = sitk.Clamp(image, sitk.sitkInt16, PADDING_HU, _BRIGHTEST_HU)
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _by_threshold(
    hu: NDArray[Any], scan: Scan, coarse: _Coarse, method: str, flags: tuple[str, ...] = ()
) -> LungSegmentation:
    """Aerated lung, closed."""
    box = lung_box(as_array(coarse.parts), _MARGIN_MM, coarse.whole.GetSpacing())
    middle_x = (coarse.whole.GetWidth() - 1) / 2 - box[0].start
    sides, unusual = right_and_left(coarse.parts[box], middle_x)
    tree = coarse.tree[box]
    lungs, aerated = as_array(close_each(sides, tree)), as_array(sides) > 0
    closed_in = (lungs > 0) & ~aerated
    labels, recovered = refine(
        hu,
        lungs,
        aerated=aerated,
        certain=closed_in,
        airways=as_array(tree) > 0,
        factors=coarse.factors,
        box=box,
    )
    return _result(scan, coarse, labels, recovered, flags=(*flags, *unusual), method=method)


def _by_network(
    hu: NDArray[Any],
    scan: Scan,
    coarse: _Coarse,
    prob: NDArray[np.float32],
    probability: LungProbability,
    model: LungModel,
) -> LungSegmentation:
    """What the network calls lung, without airways, bowel gas, fluid and parts that are no lungs."""
    anywhere = (prob >= model.threshold) | (as_array(coarse.parts) > 0)
    box = bounding_box(anywhere, _margins(coarse.whole.GetSpacing()))
    whole, tree, air_parts = coarse.whole[box], coarse.tree[box], coarse.parts[box]
    tissue, airway_mask, aerated = as_array(whole), as_array(tree) > 0, as_array(air_parts) > 0
    certain_mask = prob[box] >= model.threshold
    gas = gas_beside_lungs(as_array(coarse.air[box]) > 0, aerated, airway_mask, tissue)
    mask = certain_mask & ~airway_mask & ~dilated(gas)
    parts = likely_lungs(whole, as_image(mask.astype(np.uint8), whole), scan)
    middle_x = (coarse.whole.GetWidth() - 1) / 2 - box[0].start
    sides, unusual = right_and_left(parts, middle_x)
    # At 2 mm the network often joins healthy lungs at their thinnest: worth a word only if the air joins, too.
    if not are_joined(air_parts):
        unusual = tuple(code for code in unusual if code != "fused")
    lungs = as_array(fill_each(sides, tree))
    fluid = fluid_layers(lungs > 0, tissue, whole.GetSpacing())
    lungs[fluid] = 0
    dense = thick_parts((lungs > 0) & (tissue >= LUNG_TISSUE_HU))
    far = far_from_air(dense, (lungs > 0) & (tissue < LUNG_TISSUE_HU), whole)
    labels, recovered = refine(
        hu,
        lungs,
        aerated=aerated,
        dense=dense,
        excluded=fluid,
        airways=airway_mask,
        factors=coarse.factors,
        box=box,
        border_hu=_BORDER_HU,
        says_lung=lambda level: probability.plane(level, (hu.shape[0], hu.shape[1])) >= model.threshold,
    )
    never = as_array(coarse.tree) > 0
    never[box] |= fluid
    name = model.slice_network.name
    return _result(
        scan,
        coarse,
        labels,
        recovered,
        flags=unusual,
        method=f"{name} at probability {model.threshold:g}; airways, sides and borders at about 2 mm (SimpleITK)",
        leak_suspected_ml=np.count_nonzero(far) * voxel_ml(whole),
        possible_effusion_ml=np.count_nonzero(fluid) * voxel_ml(whole),
        networks=model.networks,
        possible=PossibleLung(probability, never, coarse.factors, (hu.shape[0], hu.shape[1])),
    )


def _margins(spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    """Coarse voxels around the lungs: few, since they are what takes time, but room for fluid at the back."""
    sides = zip(_AROUND_MM, spacing_mm, strict=True)
    return tuple(math.ceil(margin_mm / side_mm) for margin_mm, side_mm in sides)


def _result(
    scan: Scan,
    coarse: _Coarse,
    labels: NDArray[np.uint8],
    recovered: Mask,
    *,
    flags: tuple[str, ...],
    method: str,
    leak_suspected_ml: float = 0.0,
    possible_effusion_ml: float = 0.0,
    networks: Mapping[str, str] | None = None,
    possible: PossibleLung | None = None,
) -> LungSegmentation:
    """The result on the scan's own axes."""
    return LungSegmentation(
        labels=from_canonical(labels, scan.affine),
        recovered_mask=from_canonical(recovered, scan.affine),
        recovered_ml=int(np.count_nonzero(recovered)) * scan.voxel_ml,
        airways_ml=volume_ml(coarse.tree),
        leak_suspected_ml=leak_suspected_ml,
        possible_effusion_ml=possible_effusion_ml,
        flags=flags,
        method=method,
        networks=networks or {},
        possible=possible,
    )
