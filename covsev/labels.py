"""The vocabulary: ids, names, colours, HU windows and file suffixes. Imports nothing of covsev."""

from __future__ import annotations

from typing import NamedTuple


class Label(NamedTuple):
    """One value of a label map.

    Attributes:
        id: the voxel value.
        name: identifier, used in columns and keys.
        text: what a reader sees.
        rgb: colour, 0..255.
    """

    id: int
    name: str
    text: str
    rgb: tuple[int, int, int]


# Ids of lungs and lobes are those of lungmask (R231 and LTRCLobes), so its masks drop in.
RIGHT_LUNG = Label(1, "right_lung", "right lung", (80, 160, 220))
LEFT_LUNG = Label(2, "left_lung", "left lung", (90, 200, 140))
LUNGS = (RIGHT_LUNG, LEFT_LUNG)

LEFT_UPPER = Label(1, "left_upper", "left upper lobe", (102, 194, 165))
LEFT_LOWER = Label(2, "left_lower", "left lower lobe", (252, 141, 98))
RIGHT_UPPER = Label(3, "right_upper", "right upper lobe", (141, 160, 203))
RIGHT_MIDDLE = Label(4, "right_middle", "right middle lobe", (231, 138, 195))
RIGHT_LOWER = Label(5, "right_lower", "right lower lobe", (166, 216, 84))
LOBES = (LEFT_UPPER, LEFT_LOWER, RIGHT_UPPER, RIGHT_MIDDLE, RIGHT_LOWER)
LEFT_LOBES = (LEFT_UPPER, LEFT_LOWER)
RIGHT_LOBES = (RIGHT_UPPER, RIGHT_MIDDLE, RIGHT_LOWER)

GROUND_GLASS = Label(1, "ground_glass", "ground-glass opacity", (255, 196, 0))
CONSOLIDATION = Label(2, "consolidation", "consolidation", (220, 40, 40))
LESIONS = (GROUND_GLASS, CONSOLIDATION)

PADDING_HU = -1024
LUNG_TISSUE_HU = -400
"""Midpoint between aerated lung and soft tissue: the boundary of the lung."""
HIGH_OPACITY_HU = -200
"""Voxels above this count as high opacity (Chaganti et al. 2020, PMC7392373)."""
CONSOLIDATION_HU = -200
"""Lesion voxels above this are called consolidation where no network tells the two apart."""
LUNG_WINDOW_HU = (-1350, 150)
"""Level -600, width 1500: the window in which lung is looked at."""

LUNGS_SUFFIX = "_lungs.nii.gz"
LOBES_SUFFIX = "_lobes.nii.gz"
LESIONS_SUFFIX = "_lesions.nii.gz"
PROBABILITY_SUFFIX = "_infection_prob.nii.gz"
INFECTION_SUFFIX = "_infection.nii.gz"
SEVERITY_SUFFIX = "_severity.json"
OVERLAY_SUFFIX = "_overlay.png"
OUTPUT_SUFFIXES = (
    LUNGS_SUFFIX,
    LOBES_SUFFIX,
    LESIONS_SUFFIX,
    PROBABILITY_SUFFIX,
    INFECTION_SUFFIX,
    SEVERITY_SUFFIX,
    OVERLAY_SUFFIX,
)

DISCLAIMER = "research use only, not a medical device"
