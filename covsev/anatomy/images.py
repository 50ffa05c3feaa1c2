"""Between numpy (X, Y, Z) and SimpleITK (z, y, x), and small measures of SimpleITK masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


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
