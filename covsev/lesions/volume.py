"""Lesions of a volume: runs the lesion model over the axial slices of a scan."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lungs.box import lung_box
from covsev.anatomy.lungs.possible import PossibleLung
from covsev.errors import CovsevError
from covsev.inference.slabs import Slabs, as_stack, as_volume, batches, smooth_across
from covsev.inference.slices import Slices, probabilities_at
from covsev.inference.threads import thread_share
from covsev.labels import CONSOLIDATION_HU
from covsev.lesions import lung_border
from covsev.lesions.kinds import lesion_labels
from covsev.lesions.model import LesionModel
from covsev.scan import Scan, canonical_spacing_mm, require_same_grid, to_canonical
from covsev.scan.boxes import Box, occupied


@dataclass(frozen=True, eq=False)
class LesionSegmentation:
    """Result of :func:`segment_lesions`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 ground-glass opacity, 2 consolidation.
        method: how the labels were made, in words.
        networks: name and weights' SHA-256 of each network that took part.
        box: where the network looked, one slice a canonical axis.
        probability_in_box: (x, y, z) float32 infection probability in ``box``, canonical axes; ``None`` if not kept.
        affine: (4, 4) of the scan.
        lungs: (X, Y, Z) uint8 the lung labels, with the disease beyond them that touches disease inside them.
    """

    labels: NDArray[np.uint8]
    method: str
    networks: Mapping[str, str]
    box: Box
    probability_in_box: NDArray[np.float32] | None
    affine: NDArray[np.float64]
    lungs: NDArray[np.uint8]

    @property
    def probability(self) -> NDArray[np.float32]:
        """(X, Y, Z) float32 infection probability on the scan's grid, 0 where the network did not look; made anew.

        Raises:
            CovsevError: if it was not kept.
        """
        if self.probability_in_box is None:
            raise CovsevError("the infection probability was not kept; ask for it by Options(save_probability=True)")
        whole = np.zeros_like(self.labels, dtype=np.float32)
        to_canonical(whole, self.affine)[self.box] = self.probability_in_box
        return whole


def segment_lesions(
    scan: Scan,
    lungs: NDArray[np.uint8],
    model: LesionModel,
    *,
    restrict_to_lungs: bool = True,
    keep_probability: bool = True,
    possible: PossibleLung | None = None,
) -> LesionSegmentation:
    """Find infected voxels and divide them into ground-glass opacity and consolidation.

    The network sees the axial slices that hold lung, cropped to the lungs. Where two or more slices fit into
    ``slab_mm``, it sees their mean. Its probability is then interpolated between the middles of such slabs.

    A voxel below ``min_consolidation_hu`` is never called consolidation. The multi network alone would sometimes do so,
    because it learned from slices of unknown windows.

    Args:
        scan: the scan.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment.segment_lungs`.
        model: see :func:`load_model`.
        restrict_to_lungs: drop what lies outside the lung labels.
        keep_probability: keep the infection probability, 4 bytes a voxel of the lungs' box.
        possible: what may be lung beyond the labels; where disease goes on into it, it is lung, see
            :mod:`covsev.lesions.lung_border`. Without it the lungs stay as they are.

    Raises:
        GridMismatchError: if ``lungs`` has another shape than the scan.
        LungsNotFoundError: if ``lungs`` is empty.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung label map")
    spacing_mm = canonical_spacing_mm(scan)
    x, y, z = lung_box(to_canonical(lungs, scan.affine), model.preprocessing.crop_margin_mm or 0.0, spacing_mm)
    sides = as_stack(to_canonical(lungs, scan.affine)[x, y, z])
    levels = occupied(sides, axis=0)
    first, last = int(levels[0]), int(levels[-1])
    span = slice(first, last + 1)  # the box has a margin in z, too, but slices without lung are not looked at
    box = x, y, slice(z.start + span.start, z.start + span.stop)
    # From here on all is a stack of slices within the box: whole volumes of numbers would be the peak of memory.
    hu, sides, levels = as_stack(to_canonical(scan.hu, scan.affine)[box]), sides[span], levels - span.start
    slabs = Slabs(len(hu), model.preprocessing.slices_per_slab(spacing_mm[2]))
    probability, priors = _find_infection(hu, slabs, levels, model)
    # Lesions go on in the next slice; vessels that are cut across do not, and are smoothed away.
    smooth_across(probability, model.postprocessing.axial_smoothing_mm / (slabs.size * spacing_mm[2]))
    if possible is not None:
        sides = _with_border_lesions(sides, slabs, probability, possible, box)
    infected = np.stack([values >= model.postprocessing.threshold for values in slabs.between(probability)])
    if restrict_to_lungs:
        infected &= sides > 0
    with_infection = levels[infected[levels].any(axis=(1, 2))]  # the other slices have nothing to divide
    denser = _denser(hu, slabs, with_infection, model, priors)
    labels = np.zeros_like(lungs)  # in the scan's memory order, see docs/design.md
    to_canonical(labels, scan.affine)[box] = as_volume(lesion_labels(infected, denser))
    kept = as_volume(slabs.at_slices(probability)) if keep_probability else None
    if possible is not None:
        lungs = lungs.copy(order="K")  # in the scan's memory order
        to_canonical(lungs, scan.affine)[box] = as_volume(sides)
    method = _method(model, slabs, restrict_to_lungs)
    return LesionSegmentation(labels, method, model.networks, box, kept, scan.affine, lungs)


def _with_border_lesions(
    sides: NDArray[np.uint8], slabs: Slabs, probability: NDArray[np.float32], possible: PossibleLung, box: Box
) -> NDArray[np.uint8]:
    """Lung labels (Z, X, Y) of the box with the disease at their border."""
    x, y, z = box
    infected = np.stack([values >= lung_border.PROBABILITY for values in slabs.between(probability)])
    beyond = infected & (sides == 0)
    may_be = np.zeros_like(infected)
    levels = np.flatnonzero(beyond.any(axis=(1, 2))).tolist()  # the others need no drawing
    with ThreadPoolExecutor(thread_share()) as threads:
        planes = threads.map(lambda level: possible.plane(z.start + level)[x, y], levels)
        for level, plane in zip(levels, planes, strict=True):
            may_be[level] = plane
    return lung_border.lung_behind_lesions(sides, may_be, infected)


def _find_infection(
    hu: NDArray[Any], slabs: Slabs, levels: NDArray[np.intp], model: LesionModel
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float16]]]:
    """Infection probability of the slabs with ``levels`` of a stack (Z, X, Y), and the same on the network's grid."""
    probability = np.zeros((slabs.number, *hu.shape[1:]), dtype=np.float32)
    on_grid: dict[int, NDArray[np.float16]] = {}

    def look_at(batch: NDArray[np.intp]) -> tuple[NDArray[np.intp], Slices]:
        infection = model.infection(_network_input(hu, slabs, batch, model))
        probability[batch] = probabilities_at(hu.shape[1:], infection)[:, 0]
        return batch, infection

    seen = batches(slabs.of(levels), model.batch_size)
    for batch, infection in model.slice_network.over(look_at, seen):
        if model.prior is not None:
            # Before the smoothing, as in training, and in half precision until the multi network needs it.
            on_grid |= dict(zip(batch.tolist(), infection.astype(np.float16), strict=True))
    return probability, on_grid


def _denser(
    hu: NDArray[Any],
    slabs: Slabs,
    levels: NDArray[np.intp],
    model: LesionModel,
    priors: Mapping[int, NDArray[np.float16]],
) -> NDArray[np.bool_]:
    """Where infection is consolidation rather than ground glass in the slabs with ``levels`` of a stack."""
    if model.prior is None:  # a single network knows no kinds, so density decides
        return hu > CONSOLIDATION_HU  # type: ignore[no-any-return]
    denser = np.zeros(hu.shape, dtype=bool)

    def look_at(batch: NDArray[np.intp]) -> None:
        prior = np.stack([priors[slab] for slab in batch.tolist()]).astype(np.float32)
        kinds = model.predict_kinds(_network_input(hu, slabs, batch, model), prior, hu.shape[1:])
        for slab, (ground_glass, consolidation) in zip(batch.tolist(), kinds, strict=True):
            denser[slabs.levels_of(slab)] = consolidation > ground_glass

    seen = batches(slabs.of(levels), model.batch_size)
    for _ in model.slice_network.over(look_at, seen):
        pass
    return denser & (hu > model.postprocessing.min_consolidation_hu)  # type: ignore[no-any-return]


def _network_input(hu: NDArray[Any], slabs: Slabs, batch: NDArray[np.intp], model: LesionModel) -> Slices:
    return model.preprocessing(as_volume(slabs.mean(hu, batch, model.preprocessing.hu_window)))


def _method(model: LesionModel, slabs: Slabs, restrict_to_lungs: bool) -> str:
    single = model.prior or model
    by_network = f"above {model.postprocessing.min_consolidation_hu:g} HU that {model.name} calls so"
    smoothing_mm = model.postprocessing.axial_smoothing_mm
    thin = f"the mean of {slabs.size} slices each, " if slabs.size > 1 else ""
    rule = f"above {CONSOLIDATION_HU} HU" if model.prior is None else by_network
    return (
        f"infection: {single.name} at probability {model.postprocessing.threshold:g}, "
        f"{thin}smoothed across slices by {smoothing_mm:g} mm"
        f"{', within the lungs' if restrict_to_lungs else ''}; "
        f"consolidation: infected voxels {rule}, the rest ground-glass opacity"
    )
