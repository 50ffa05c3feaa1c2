"""Random changes of training slices: MONAI's transforms with the numbers that covsev trains with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import (
    RandAdjustContrastd,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
)

GREY = 0.5
"""Value of the grey cutout, in the middle of the image's range."""


def geometric_augmentation(keys: Sequence[str], modes: Sequence[str]) -> list[Any]:
    """All eight orientations, then small rotation, shear, scale and shift."""
    return [
        RandRotate90d(keys=keys, prob=0.75, max_k=3),
        RandFlipd(keys=keys, prob=0.5, spatial_axis=0),
        RandAffined(
            keys=keys,
            prob=0.9,
            rotate_range=0.35,
            shear_range=(0.15, 0.15),
            scale_range=(0.25, 0.25),
            translate_range=(24, 24),
            mode=modes,
            padding_mode="zeros",
        ),
    ]


def intensity_augmentation(key: str, cutout_probability: float = 0.4) -> list[Any]:
    """Window level and width, gamma, noise and blur, as scanners and viewers differ, and grey cutout."""
    clip = ScaleIntensityRanged(keys=key, a_min=0, a_max=1, b_min=0, b_max=1, clip=True)
    return [
        RandScaleIntensityd(keys=key, prob=0.7, factors=0.25),
        RandShiftIntensityd(keys=key, prob=0.7, offsets=0.1),
        clip,
        RandAdjustContrastd(keys=key, prob=0.4, gamma=(0.7, 1.4)),
        RandGaussianSmoothd(keys=key, prob=0.2, sigma_x=(0.4, 1.2), sigma_y=(0.4, 1.2)),
        RandGaussianNoised(keys=key, prob=0.3, std=0.05),
        clip,
        RandCoarseDropoutd(
            keys=key,
            prob=cutout_probability,
            holes=1,
            max_holes=3,
            spatial_size=24,
            max_spatial_size=72,
            fill_value=GREY,
        ),
    ]
