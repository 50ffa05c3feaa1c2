"""COVID-19 lesions: runs the network of a MONAI bundle over the axial slices of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from covsev.anatomy.lungs import lung_box
from covsev.labels import CONSOLIDATION, CONSOLIDATION_HU, GROUND_GLASS, LUNG_TISSUE_HU
from covsev.lesion_model import LesionModel
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, require_same_grid, to_canonical


@dataclass(frozen=True, eq=False)
class LesionSegmentation:
    """Result of :func:`segment_lesions`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 ground-glass opacity, 2 consolidation.
        probability: (X, Y, Z) float32 infection probability, 0 where the network did not look.
        method: how the labels were made, in words.
        networks: name and weights' SHA-256 of each network that took part.
    """

    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    method: str
    networks: Mapping[str, str]


def segment_lesions(
    scan: Scan, lungs: NDArray[np.uint8], model: LesionModel, *, restrict_to_lungs: bool = True
) -> LesionSegmentation:
    """Find infected voxels and divide them into ground-glass opacity and consolidation.

    The network sees the axial slices that hold lung, cropped to the lungs. A voxel that is half air is never called
    consolidation: the multi network, which learned from slices of unknown windows, would.

    Args:
        scan: the scan.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment_lungs`.
        model: see :func:`load_model`.
        restrict_to_lungs: drop what lies outside the lung labels.

    Raises:
        GridMismatchError: if ``lungs`` has another shape than the scan.
        LungsNotFoundError: if ``lungs`` is empty.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung labels")
    hu = to_canonical(scan.hu, scan.affine)
    sides = to_canonical(lungs, scan.affine)
    box = lung_box(sides, model.preprocessing.lung_margin_mm, canonical_spacing_mm(scan))
    cropped = hu[box[0], box[1]]
    levels = np.flatnonzero(sides.any(axis=(0, 1)))
    probability = np.zeros(hu.shape, dtype=np.float32)
    priors = _find_infection(cropped, levels, model, probability[box[0], box[1]])
    span = slice(int(levels[0]), int(levels[-1]) + 1)
    sd_mm = model.postprocessing.axial_smoothing_mm
    _smooth_across_slices(probability[box[0], box[1], span], sd_mm / canonical_spacing_mm(scan)[2])
    infected = probability >= model.postprocessing.threshold
    if restrict_to_lungs:
        infected &= sides > 0
    denser = np.zeros(hu.shape, dtype=bool)
    if model.prior is None:
        denser = hu > CONSOLIDATION_HU
    else:
        infected_levels = levels[infected[:, :, levels].any(axis=(0, 1))]
        _find_consolidation(cropped, infected_levels, model, priors, denser[box[0], box[1]])
        denser &= hu > LUNG_TISSUE_HU
    return LesionSegmentation(
        labels=from_canonical(lesion_labels(infected, denser), scan.affine),
        probability=from_canonical(probability, scan.affine),
        method=_method(model, restrict_to_lungs),
        networks=model.networks,
    )


def _find_infection(
    cropped: NDArray[Any], levels: NDArray[np.intp], model: LesionModel, probability: NDArray[np.float32]
) -> dict[int, Tensor]:
    """Write the infection probability of ``levels`` of a volume (X, Y, Z); returns it on the network's grid."""
    on_grid: dict[int, Tensor] = {}
    for batch in _batches(levels, model.batch_size):
        infection = model.infection(model.preprocessing(cropped[:, :, batch]))
        probability[:, :, batch] = _as_planes(model.postprocessing(infection, cropped.shape[:2]))[0]
        if model.prior is not None:
            on_grid |= dict(zip(batch.tolist(), infection.half().cpu(), strict=True))
    return on_grid


def _find_consolidation(
    cropped: NDArray[Any],
    levels: NDArray[np.intp],
    model: LesionModel,
    priors: Mapping[int, Tensor],
    denser: NDArray[np.bool_],
) -> None:
    """Mark where the multi network sees consolidation rather than ground glass in ``levels`` of a volume."""
    for batch in _batches(levels, model.batch_size):
        prior = torch.stack([priors[level] for level in batch.tolist()]).float()
        kinds = model.predict_kinds(model.preprocessing(cropped[:, :, batch]), prior, cropped.shape[:2])
        ground_glass, consolidation = _as_planes(kinds)
        denser[:, :, batch] = consolidation > ground_glass


def _batches(levels: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(levels), size):
        yield levels[start : start + size]


def _as_planes(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, X, Y, N) from (N, C, X, Y)."""
    return np.moveaxis(stack, 0, -1)


def _smooth_across_slices(probability: NDArray[np.float32], sd_slices: float) -> None:
    """Smooth (X, Y, Z) in place along z; beyond the first and the last slice the volume goes on as it is there."""
    if sd_slices > 0:
        gaussian_filter1d(probability, sd_slices, axis=2, mode="nearest", output=probability)


def lesion_labels(infected: NDArray[np.bool_], denser: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lesion labels from an infection mask: consolidation where ``denser``, else ground-glass opacity."""
    labels = infected.astype(np.uint8) * np.uint8(GROUND_GLASS.id)
    labels[infected & denser] = CONSOLIDATION.id
    return labels


def _method(model: LesionModel, restrict_to_lungs: bool) -> str:
    single = model.prior or model
    by_network = f"above {LUNG_TISSUE_HU} HU that {model.name} calls so"
    rule = f"above {CONSOLIDATION_HU} HU" if model.prior is None else by_network
    return (
        f"infection: {single.name} at probability {model.postprocessing.threshold:g}, "
        f"smoothed across slices by {model.postprocessing.axial_smoothing_mm:g} mm"
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
    """Labels (H, W) of one slice, see :func:`slice_probability`: 1 infection, or 1 ground glass, 2 consolidation."""
    probability = slice_probability(grey, model, prior=prior)
    infected = probability[0] >= model.postprocessing.threshold
    denser = probability[2] > probability[1] if len(probability) > 1 else np.zeros_like(infected)
    return lesion_labels(infected, denser)
