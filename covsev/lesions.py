"""COVID-19 lesions: runs the network of a MONAI bundle over the axial slices of a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from covsev.anatomy.lungs import lung_box
from covsev.labels import CONSOLIDATION, CONSOLIDATION_HU, GROUND_GLASS
from covsev.lesion_model import LesionModel
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, require_same_grid, to_canonical


@dataclass(frozen=True, eq=False)
class LesionSegmentation:
    """Result of :func:`segment_lesions`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 ground-glass opacity, 2 consolidation.
        probability: (X, Y, Z) float32 infection probability, 0 where the network did not look.
        method: how the labels were made, in words.
    """

    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    method: str


def segment_lesions(
    scan: Scan, lungs: NDArray[np.uint8], model: LesionModel, *, restrict_to_lungs: bool = True
) -> LesionSegmentation:
    """Find infected voxels and divide them into ground-glass opacity and consolidation.

    The network sees the axial slices that hold lung, cropped to the lungs.

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
    with_lung = np.flatnonzero(sides.any(axis=(0, 1)))
    probability = np.zeros(hu.shape, dtype=np.float32)
    denser = np.zeros(hu.shape, dtype=bool)
    size = (box[0].stop - box[0].start, box[1].stop - box[1].start)
    for start in range(0, len(with_lung), model.batch_size):
        levels = with_lung[start : start + model.batch_size]
        batch = model.preprocessing(hu[box[0], box[1]][:, :, levels])
        predicted = model.predict(batch, size)
        probability[box[0], box[1], levels] = np.moveaxis(predicted[:, 0], 0, -1)
        if model.prior is not None:
            denser[box[0], box[1], levels] = np.moveaxis(predicted[:, 2] > predicted[:, 1], 0, -1)
    span = slice(int(with_lung[0]), int(with_lung[-1]) + 1)
    sd_mm = model.postprocessing.axial_smoothing_mm
    _smooth_across_slices(probability[box[0], box[1], span], sd_mm / canonical_spacing_mm(scan)[2])
    infected = probability >= model.postprocessing.threshold
    if restrict_to_lungs:
        infected &= sides > 0
    if model.prior is None:
        denser = hu > CONSOLIDATION_HU
    return LesionSegmentation(
        labels=from_canonical(lesion_labels(infected, denser), scan.affine),
        probability=from_canonical(probability, scan.affine),
        method=_method(model, restrict_to_lungs),
    )


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
    rule = f"above {CONSOLIDATION_HU} HU" if model.prior is None else f"that {model.name} calls so"
    return (
        f"infection: {single.name} at probability {single.postprocessing.threshold:g}, "
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
