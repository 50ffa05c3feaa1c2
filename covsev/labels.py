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


class Segment(NamedTuple):
    """One of the 20 regions of a segment map, as a :class:`Label` that knows its lobe.

    Attributes:
        id: the voxel value.
        name: identifier, used in columns and keys.
        text: what a reader sees.
        rgb: colour, 0..255.
        lobe: the lobe that it is a part of.
    """

    id: int
    name: str
    text: str
    rgb: tuple[int, int, int]
    lobe: Label


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

# The 18 bronchopulmonary segments as the 20 regions of Yang et al. 2020 (10.1148/ryct.2020200047): the left
# apicoposterior segment counts as two, and so does the left anteromedial basal segment.
SEGMENTS = (
    Segment(1, "right_apical", "right apical segment", (141, 160, 203), RIGHT_UPPER),
    Segment(2, "right_posterior", "right posterior segment", (106, 120, 152), RIGHT_UPPER),
    Segment(3, "right_anterior", "right anterior segment", (169, 192, 244), RIGHT_UPPER),
    Segment(4, "right_lateral", "right lateral segment", (231, 138, 195), RIGHT_MIDDLE),
    Segment(5, "right_medial", "right medial segment", (173, 104, 146), RIGHT_MIDDLE),
    Segment(6, "right_lower_superior", "superior segment of the right lower lobe", (166, 216, 84), RIGHT_LOWER),
    Segment(7, "right_medial_basal", "right medial basal segment", (124, 162, 63), RIGHT_LOWER),
    Segment(8, "right_anterior_basal", "right anterior basal segment", (199, 255, 101), RIGHT_LOWER),
    Segment(9, "right_lateral_basal", "right lateral basal segment", (100, 130, 50), RIGHT_LOWER),
    Segment(10, "right_posterior_basal", "right posterior basal segment", (149, 194, 76), RIGHT_LOWER),
    Segment(11, "left_apical", "left apical segment", (102, 194, 165), LEFT_UPPER),
    Segment(12, "left_posterior", "left posterior segment", (76, 146, 124), LEFT_UPPER),
    Segment(13, "left_anterior", "left anterior segment", (122, 233, 198), LEFT_UPPER),
    Segment(14, "left_superior_lingular", "left superior lingular segment", (61, 116, 99), LEFT_UPPER),
    Segment(15, "left_inferior_lingular", "left inferior lingular segment", (92, 175, 148), LEFT_UPPER),
    Segment(16, "left_lower_superior", "superior segment of the left lower lobe", (252, 141, 98), LEFT_LOWER),
    Segment(17, "left_medial_basal", "left medial basal segment", (189, 106, 74), LEFT_LOWER),
    Segment(18, "left_anterior_basal", "left anterior basal segment", (255, 169, 118), LEFT_LOWER),
    Segment(19, "left_lateral_basal", "left lateral basal segment", (151, 85, 59), LEFT_LOWER),
    Segment(20, "left_posterior_basal", "left posterior basal segment", (227, 127, 88), LEFT_LOWER),
)

GROUND_GLASS = Label(1, "ground_glass", "ground-glass opacity", (255, 196, 0))
CONSOLIDATION = Label(2, "consolidation", "consolidation", (220, 40, 40))
LESIONS = (GROUND_GLASS, CONSOLIDATION)

PADDING_HU = -1024
"""HU of voxels that hold no measurement, and the lowest HU that filters of the lungs see."""
LUNG_TISSUE_HU = -400
"""Midpoint between aerated lung and soft tissue: the boundary of the lung."""
HIGH_OPACITY_HU = -200
"""Voxels above this count as high opacity (Chaganti et al. 2020, PMC7392373)."""
CONSOLIDATION_HU = -200
"""Lesion voxels above this are called consolidation where no network tells the two apart."""
LUNG_WINDOW_HU = (-1350, 150)
"""Level -600, width 1500: the window in which lung is looked at."""

SLICE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Endings of the 2-D 8-bit pictures that are read as single slices."""
SLICE_INFECTION_SUFFIX = "_infection.png"
SLICE_LESIONS_SUFFIX = "_lesions.png"
SLICE_MASK_SUFFIXES = (SLICE_INFECTION_SUFFIX, SLICE_LESIONS_SUFFIX)
LUNGS_SUFFIX = "_lungs.nii.gz"
LOBES_SUFFIX = "_lobes.nii.gz"
LESIONS_SUFFIX = "_lesions.nii.gz"
PROBABILITY_SUFFIX = "_infection_prob.nii.gz"
INFECTION_SUFFIX = "_infection.nii.gz"
SEVERITY_SUFFIX = "_severity.json"
OVERLAY_SUFFIX = "_overlay.png"
REPORT_SUFFIX = "_report.html"
SUMMARY_SUFFIXES = ("_summary.png", "_summary.pdf")
VIEWER_SUFFIX = ".seg.nrrd"
SEGMENTATION_SUFFIX = "_seg.dcm"
STRUCTURED_REPORT_SUFFIX = "_sr.dcm"
CAPTURE_SUFFIX = "_sc.dcm"
OUTPUT_SUFFIXES = (
    LUNGS_SUFFIX,
    LOBES_SUFFIX,
    LESIONS_SUFFIX,
    PROBABILITY_SUFFIX,
    INFECTION_SUFFIX,
    SEVERITY_SUFFIX,
    OVERLAY_SUFFIX,
    REPORT_SUFFIX,
    *SUMMARY_SUFFIXES,
    VIEWER_SUFFIX,
    SEGMENTATION_SUFFIX,
    STRUCTURED_REPORT_SUFFIX,
    CAPTURE_SUFFIX,
)

DISCLAIMER = "research use only, not a medical device"
