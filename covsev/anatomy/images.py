"""Between numpy (X, Y, Z) and SimpleITK (z, y, x), and small measures of SimpleITK masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


def as_image(array: NDArray[Any], like: sitk.Image) -> sitk.Image:
    """SimpleITK image of an (X, Y, Z) array on the grid of ``like``."""
    # SimpleITK reads an array's first axis as z, so the axes are turned round; it copies, so the view is safe.
    image = sitk.GetImageFromArray(array.transpose())
    image.CopyInformation(like)
    return image


def as_array(image: sitk.Image) -> NDArray[Any]:
    """(X, Y, Z) array of an image."""
    return sitk.GetArrayFromImage(image).transpose()


def voxel_ml(image: sitk.Image) -> float:
    """Volume of one voxel."""
    return float(np.prod(image.GetSpacing())) / 1000


def volume_ml(mask: sitk.Image) -> float:
    """Volume of a mask in ml."""
    voxels = np.count_nonzero(sitk.GetArrayViewFromImage(mask))  # a view: counting needs no copy
    return float(voxels * np.prod(mask.GetSpacing()) / 1000)


def without(mask: sitk.Image, removed: sitk.Image) -> sitk.Image:
    """``mask`` without the voxels of ``removed``; both hold 0 and 1."""
    # And works bit by bit while Not gives 0 or 1: a mask of 255 would come back as 1.
    return sitk.And(mask, sitk.Not(removed))


def distance_mm(mask: sitk.Image) -> sitk.Image:
    """Signed distance to the border of ``mask`` in mm, negative inside."""
    # Every choice is written out: by default ITK gives squared distances, in voxels.
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)


def means_by_number(numbers: NDArray[Any], values: NDArray[Any], length: int = 0) -> NDArray[np.float64]:
    """Mean of ``values`` over the voxels of each number; 0 for a number without voxels."""
    flat = numbers.ravel()
    counts = np.bincount(flat, minlength=length)
    if values.dtype == np.bool_:  # counting is faster than adding, and a share is asked for most often
        sums = np.bincount(numbers[values], minlength=len(counts))
    else:
        sums = np.bincount(flat, weights=values.ravel(), minlength=length)
    return sums / np.maximum(counts, 1)  # a number without voxels has the sum 0, and its mean stays 0
