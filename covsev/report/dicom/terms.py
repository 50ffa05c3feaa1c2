"""What DICOM calls the labels and measures: coded terms (value, scheme, meaning).

Terms of SCT and DCM are those of the context groups of DICOM PS3.16: lungs and lobes of CID 6170, sides of CID 244,
ground-glass opacity of CID 6102, categories of CID 7150. PS3.16 has no consolidation: the term is RadLex's. What has
no verified code is of covsev's own private scheme.
"""

from __future__ import annotations

from typing import NamedTuple

from covsev.labels import (
    CONSOLIDATION,
    GROUND_GLASS,
    LEFT_LOWER,
    LEFT_LUNG,
    LEFT_UPPER,
    RIGHT_LOWER,
    RIGHT_LUNG,
    RIGHT_MIDDLE,
    RIGHT_UPPER,
)

PRIVATE_SCHEME = "99COVSEV"
"""Schemes that begin with 99 are private (PS3.3 table 8.1-1)."""
_MAX_MEANING = 64  # characters of a code's meaning, VR LO


class Term(NamedTuple):
    """A coded concept; the order is pydicom's."""

    value: str
    scheme: str
    meaning: str


class Site(NamedTuple):
    """What a label is, and on which side where the term does not say."""

    term: Term
    side: Term | None


RIGHT, LEFT = Term("24028007", "SCT", "Right"), Term("7771000", "SCT", "Left")
BOTH = Term("51440002", "SCT", "Bilateral")
LUNG = Term("39607008", "SCT", "Lung")
# The upper and lower lobe have one code for both sides; only the middle lobe's code names its side.
_UPPER = Term("45653009", "SCT", "Upper lobe of lung")
_LOWER = Term("90572001", "SCT", "Lower lobe of lung")
_MIDDLE = Term("72481006", "SCT", "Middle lobe of right lung")
ANATOMY = Term("91723000", "SCT", "Anatomical Structure")
ABNORMAL = Term("49755003", "SCT", "Morphologically Abnormal Structure")

SITES = {
    RIGHT_LUNG.name: Site(LUNG, RIGHT),
    LEFT_LUNG.name: Site(LUNG, LEFT),
    LEFT_UPPER.name: Site(_UPPER, LEFT),
    LEFT_LOWER.name: Site(_LOWER, LEFT),
    RIGHT_UPPER.name: Site(_UPPER, RIGHT),
    RIGHT_MIDDLE.name: Site(_MIDDLE, None),
    RIGHT_LOWER.name: Site(_LOWER, RIGHT),
}
"""By the names of :data:`covsev.labels.LUNGS` and :data:`covsev.labels.LOBES`."""

FINDINGS = {
    GROUND_GLASS.name: Term("112120", "DCM", "Ground glass opacity"),
    CONSOLIDATION.name: Term("RID43255", "RADLEX", "consolidation"),
}
"""By the names of :data:`covsev.labels.LESIONS`."""

MILLILITRE = Term("cm3", "UCUM", "cubic centimeter")
"""A millilitre is a cubic centimetre, and CID 7462, units of volume, has only this one."""
PERCENT = Term("%", "UCUM", "Percent")
HOUNSFIELD, NO_UNIT = Term("[hnsf'U]", "UCUM", "Hounsfield unit"), Term("1", "UCUM", "no units")
VOLUME = Term("118565006", "SCT", "Volume")
DENSITY = Term("112031", "DCM", "Attenuation Coefficient")
MEAN, SD = Term("373098007", "SCT", "Mean"), Term("386136009", "SCT", "Standard Deviation")


FAMILIES = {
    "lungs": Term("123104", "DCM", "Morphological Operations"),
    "lobes": Term("123111", "DCM", "Deformable Models"),
    "lesions": Term("123110", "DCM", "Artificial Intelligence"),
}
"""Kind of algorithm (CID 7162) behind each label map."""


def private(value: str, meaning: str) -> Term:
    """A term of covsev's own; the meaning is cut to what DICOM allows."""
    return Term(value, PRIVATE_SCHEME, meaning[:_MAX_MEANING].strip())
