"""Lesions of a picture: one 8-bit slice that is cropped to the chest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.lesions.kinds import lesion_labels
from covsev.lesions.model import LesionModel


def slice_probability(
    grey: NDArray[np.uint8], model: LesionModel, *, prior: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Probabilities of one 8-bit slice (H, W) that is already cropped to the chest.

    Args:
        grey: (H, W) uint8.
        model: see :func:`covsev.lesions.model.load_model`.
        prior: (H, W) infection mask to use in place of the single network's, for a multi network.

    Returns:
        (1, H, W) infection, or (3, H, W) infection, ground-glass opacity and consolidation.

    Raises:
        ValueError: if ``grey`` is not a 2-D uint8 array.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise ValueError(f"grey must be a 2-D uint8 array; got {grey.dtype} of shape {grey.shape}")
    # Not windowed: an 8-bit slice has been through a viewer's window already.
    image = (grey.astype(np.float32) / np.float32(255))[None, None]
    given = None
    if prior is not None:
        mask = prior.astype(np.float32)
        given = model.preprocessing.resize(mask[None, None])
    height, width = grey.shape
    return model.predict(model.preprocessing.resize(image), (height, width), prior=given)[0]


def segment_slice(
    grey: NDArray[np.uint8], model: LesionModel, *, prior: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Labels (H, W) of one slice, see :func:`slice_probability` and :func:`label_slice`."""
    return label_slice(grey, slice_probability(grey, model, prior=prior), model)


def label_slice(grey: NDArray[np.uint8], probability: NDArray[np.float32], model: LesionModel) -> NDArray[np.uint8]:
    """Labels (H, W) of one slice: 1 infection, or 1 ground glass and 2 consolidation.

    Consolidation is bounded as :class:`covsev.lesions.model.LesionPostprocessing` says; the rest is ground glass.

    Args:
        grey: (H, W) uint8.
        probability: (1, H, W) or (3, H, W), see :func:`slice_probability`.
        model: whose postprocessing counts.
    """
    infected = probability[0] >= model.postprocessing.threshold
    if len(probability) == 1:
        return lesion_labels(infected, np.zeros_like(infected))
    # A picture has no HU, so the bound is brought to grey by the window that the labelled pictures look like.
    bound = model.preprocessing.grey_of(model.postprocessing.min_consolidation_hu)
    denser = (probability[2] > probability[1]) & (grey > bound)
    # Specks of consolidation are not drawn by radiologists: below this share of the slice all is ground glass.
    enough = (infected & denser).mean() >= model.postprocessing.min_consolidation_share
    return lesion_labels(infected, denser & enough)
