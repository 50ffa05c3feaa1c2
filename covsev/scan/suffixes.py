"""Which file names and first bytes say that a file may be a scan."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + NRRD_SUFFIXES + METAIMAGE_SUFFIXES
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def suffix_of(path: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES) -> str:
    """The longest of ``suffixes`` that ``path`` ends with, ``""`` if none."""
    name = path.name.lower()
    return max((suffix for suffix in suffixes if name.endswith(suffix)), key=len, default="")


def may_be_dicom(path: Path) -> bool:
    """Whether a file bears the mark of DICOM, or is at least called so; pipes and devices are not opened."""
    if not path.is_file():
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
