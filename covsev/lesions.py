"""COVID-19 lesions: runs the network of a MONAI bundle over the axial slices of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from covsev.anatomy.lungs import lung_box
from covsev.errors import CovsevError
from covsev.labels import CONSOLIDATION, CONSOLIDATION_HU, GROUND_GLASS
from covsev.lesion_model import LesionModel
from covsev.scan import Scan, canonical_spacing_mm, require_same_grid, to_canonical

_T = TypeVar("_T", bound=np.generic)


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
    """

    labels: NDArray[np.uint8]
    method: str
    networks: Mapping[str, str]
    box: tuple[slice, slice, slice]
    probability_in_box: NDArray[np.float32] | None
    affine: NDArray[np.float64]

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
) -> LesionSegmentation:
    """Find infected voxels and divide them into ground-glass opacity and consolidation.

    The network sees the axial slices that hold lung, cropped to the lungs; where two or more fit into ``slab_mm`` it
    sees their mean, and its probability is interpolated between the middles of such slabs. A voxel below
    ``min_consolidation_hu`` is never called consolidation: the multi network, which learned from slices of unknown
    windows, would.

    Args:
        scan: the scan.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment_lungs`.
        model: see :func:`load_model`.
        restrict_to_lungs: drop what lies outside the lung labels.
        keep_probability: keep the infection probability, 4 bytes a voxel of the lungs' box.

    Raises:
        GridMismatchError: if ``lungs`` has another shape than the scan.
        LungsNotFoundError: if ``lungs`` is empty.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung label map")
    spacing_mm = canonical_spacing_mm(scan)
    x, y, z = lung_box(to_canonical(lungs, scan.affine), model.preprocessing.lung_margin_mm, spacing_mm)
    sides = _as_stack(to_canonical(lungs, scan.affine)[x, y, z])
    levels = np.flatnonzero(sides.any(axis=(1, 2)))
    span = slice(int(levels[0]), int(levels[-1]) + 1)
    box = x, y, slice(z.start + span.start, z.start + span.stop)
    hu, sides, levels = _as_stack(to_canonical(scan.hu, scan.affine)[box]), sides[span], levels - span.start
    slabs = Slabs(len(hu), model.preprocessing.slices_per_slab(spacing_mm[2]))
    probability, priors = _find_infection(hu, slabs, levels, model)
    _smooth_across(probability, model.postprocessing.axial_smoothing_mm / (slabs.size * spacing_mm[2]))
    infected = np.stack([values >= model.postprocessing.threshold for values in slabs.between(probability)])
    if restrict_to_lungs:
        infected &= sides > 0
    if model.prior is None:
        denser = hu > CONSOLIDATION_HU
    else:
        denser = _find_consolidation(hu, slabs, levels[infected[levels].any(axis=(1, 2))], model, priors)
        denser &= hu > model.postprocessing.min_consolidation_hu
    labels = np.zeros_like(lungs)
    to_canonical(labels, scan.affine)[box] = _as_volume(lesion_labels(infected, denser))
    kept = _as_volume(slabs.at_slices(probability)) if keep_probability else None
    return LesionSegmentation(labels, _method(model, slabs, restrict_to_lungs), model.networks, box, kept, scan.affine)


def _as_stack(volume: NDArray[_T]) -> NDArray[_T]:
    """View (Z, X, Y) of a volume (X, Y, Z)."""
    return np.moveaxis(volume, 2, 0)


def _as_volume(stack: NDArray[_T]) -> NDArray[_T]:
    """View (X, Y, Z) of slices (Z, X, Y)."""
    return np.moveaxis(stack, 0, 2)


@dataclass(frozen=True)
class Slabs:
    """Neighbouring slices that the network sees as one, their mean.

    Attributes:
        slices: how many slices there are.
        size: slices a slab; the last slab may have fewer.
    """

    slices: int
    size: int

    def of(self, levels: NDArray[np.intp]) -> NDArray[np.intp]:
        """The slabs that hold the slices ``levels``, each once, ascending."""
        return np.unique(levels // self.size)

    def mean(self, hu: NDArray[Any], slabs: NDArray[np.intp], hu_window: tuple[float, float]) -> NDArray[Any]:
        """(N, X, Y) mean within the window of each of ``slabs`` of a stack (Z, X, Y); single slices are left alone."""
        if self.size == 1:
            return hu[slabs]  # type: ignore[no-any-return]
        low, high = hu_window  # padding of -3024 HU in one slice is no reason for black in its neighbour
        starts = (slabs * self.size).tolist()
        parts = [np.clip(hu[start : start + self.size], low, high) for start in starts]
        return np.stack([part.mean(axis=0, dtype=np.float32) for part in parts])

    def at_slices(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(Z, X, Y) of ``values`` (N, X, Y) of slabs, see :meth:`between`; the same array where a slab is one slice."""
        return values if self.size == 1 else np.stack(list(self.between(values)))

    def between(self, values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """(X, Y) for each slice, interpolated between the middles of slabs with ``values`` (N, X, Y)."""
        starts = np.arange(0, self.slices, self.size)
        middles = (starts + np.minimum(starts + self.size, self.slices) - 1) / 2
        for position in np.interp(np.arange(self.slices), middles, np.arange(len(middles))):
            lower, share = int(position), np.float32(position % 1)
            yield values[lower] if share == 0 else values[lower] + share * (values[lower + 1] - values[lower])


def _find_infection(
    hu: NDArray[Any], slabs: Slabs, levels: NDArray[np.intp], model: LesionModel
) -> tuple[NDArray[np.float32], dict[int, Tensor]]:
    """Infection probability of the slabs with ``levels`` of a stack (Z, X, Y), and the same on the network's grid."""
    probability = np.zeros((-(-slabs.slices // slabs.size), *hu.shape[1:]), dtype=np.float32)
    on_grid: dict[int, Tensor] = {}
    for batch in _batches(slabs.of(levels), model.batch_size):
        infection = model.infection(_network_input(hu, slabs, batch, model))
        probability[batch] = model.postprocessing(infection, hu.shape[1:])[:, 0]
        if model.prior is not None:
            on_grid |= dict(zip(batch.tolist(), infection.half().cpu(), strict=True))
    return probability, on_grid


def _find_consolidation(
    hu: NDArray[Any], slabs: Slabs, levels: NDArray[np.intp], model: LesionModel, priors: Mapping[int, Tensor]
) -> NDArray[np.bool_]:
    """Where the multi network sees consolidation rather than ground glass in the slabs with ``levels`` of a stack."""
    denser = np.zeros(hu.shape, dtype=bool)
    for batch in _batches(slabs.of(levels), model.batch_size):
        prior = torch.stack([priors[slab] for slab in batch.tolist()]).float()
        kinds = model.predict_kinds(_network_input(hu, slabs, batch, model), prior, hu.shape[1:])
        for slab, (ground_glass, consolidation) in zip(batch.tolist(), kinds, strict=True):
            denser[slab * slabs.size : (slab + 1) * slabs.size] = consolidation > ground_glass
    return denser


def _network_input(hu: NDArray[Any], slabs: Slabs, batch: NDArray[np.intp], model: LesionModel) -> Tensor:
    return model.preprocessing(_as_volume(slabs.mean(hu, batch, model.preprocessing.hu_window)))


def _batches(numbers: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _smooth_across(probability: NDArray[np.float32], sd: float) -> None:
    """Smooth (N, X, Y) in place along its first axis; beyond the ends it goes on as it is there."""
    if sd > 0:
        gaussian_filter1d(probability, sd, axis=0, mode="nearest", output=probability)


def lesion_labels(infected: NDArray[np.bool_], denser: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lesion labels from an infection mask: consolidation where ``denser``, else ground-glass opacity."""
    labels = infected.astype(np.uint8) * np.uint8(GROUND_GLASS.id)
    labels[infected & denser] = CONSOLIDATION.id
    return labels


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


def slice_probability(
    grey: NDArray[np.uint8], model: LesionModel, *, prior: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Probabilities of one 8-bit slice (H, W) that is already cropped to the chest.

    Args:
        grey: (H, W) uint8.
        model: see :func:`load_model`.
        prior: (H, W) infection mask to use in place of the single network's, for a multi network.

    Returns:
        (1, H, W) infection, or (3, H, W) infection, ground-glass opacity and consolidation.

    Raises:
        ValueError: if ``grey`` is not a 2-D uint8 array.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise ValueError(f"grey must be a 2-D uint8 array; got {grey.dtype} of shape {grey.shape}")
    image = torch.from_numpy(grey.astype(np.float32) / 255)[None, None]
    given = None
    if prior is not None:
        given = model.preprocessing.resize(torch.from_numpy(prior.astype(np.float32))[None, None])
    return model.predict(model.preprocessing.resize(image), (grey.shape[0], grey.shape[1]), prior=given)[0]


def segment_slice(
    grey: NDArray[np.uint8], model: LesionModel, *, prior: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Labels (H, W) of one slice, see :func:`slice_probability` and :func:`label_slice`."""
    return label_slice(grey, slice_probability(grey, model, prior=prior), model)


def label_slice(grey: NDArray[np.uint8], probability: NDArray[np.float32], model: LesionModel) -> NDArray[np.uint8]:
    """Labels (H, W) of one slice: 1 infection, or 1 ground glass and 2 consolidation.

    Consolidation is bounded as :class:`covsev.lesion_model.SlicePostprocessing` says, and ground glass where it is not.

    Args:
        grey: (H, W) uint8.
        probability: (1, H, W) or (3, H, W), see :func:`slice_probability`.
        model: whose postprocessing counts.
    """
    infected = probability[0] >= model.postprocessing.threshold
    if len(probability) == 1:
        return lesion_labels(infected, np.zeros_like(infected))
    denser = (probability[2] > probability[1]) & (
        grey > model.preprocessing.grey_of(model.postprocessing.min_consolidation_hu)
    )
    enough = (infected & denser).mean() >= model.postprocessing.min_consolidation_share
    return lesion_labels(infected, denser & enough)
