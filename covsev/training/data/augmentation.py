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
"""Value of the grey cutout, in the middle of the image's range. Black would be air, and white bone."""


def geometric_augmentation(keys: Sequence[str], modes: Sequence[str]) -> list[Any]:
    """All eight orientations, then small rotation, shear, scale and shift."""
    return [
        # Three of four slices are turned, by one to three quarters: all four turns are equally likely.
        RandRotate90d(keys=keys, prob=0.75, max_k=3),
        # One axis is enough: flips along the other are turns of this one.
        RandFlipd(keys=keys, prob=0.5, spatial_axis=0),
        RandAffined(
            keys=keys,
            prob=0.9,
            rotate_range=0.35,  # radians, to either side
            shear_range=(0.15, 0.15),
            scale_range=(0.25, 0.25),  # 0.75 to 1.25: the range of sizes in the paper
            translate_range=(24, 24),  # pixels of the network's grid
            mode=modes,
            padding_mode="zeros",
        ),
    ]


def intensity_augmentation(key: str, cutout_probability: float = 0.4) -> list[Any]:
    """Window level and width, gamma, noise and blur, as scanners and viewers differ, and grey cutout."""
    # Values beyond black and white are lost in a picture, so they are cut off here, too, after each group of changes.
    clip = ScaleIntensityRanged(keys=key, a_min=0, a_max=1, b_min=0, b_max=1, clip=True)
    return [
        # Scale and shift of grey values are what another width and level of the window do.
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
