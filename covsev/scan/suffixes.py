"""Which file names and first bytes say that a file may be a scan."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + NRRD_SUFFIXES + METAIMAGE_SUFFIXES
"""Formats that are known by their files' names. DICOM files may be called anything."""
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""What is called so counts as DICOM even if its first bytes are damaged: it is reported, not passed over."""


def suffix_of(path: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES) -> str:
    """The longest of ``suffixes`` that ``path`` ends with, ``""`` if none.

    >>> suffix_of(Path("week 1/CHEST.NII.GZ")), suffix_of(Path("scan.nii.md5"))
    ('.nii.gz', '')
    """
    name = path.name.lower()
    return max((suffix for suffix in suffixes if name.endswith(suffix)), key=len, default="")


def may_be_dicom(path: Path) -> bool:
    """Whether a file bears the mark of DICOM, or is at least called so. Pipes and devices are not opened."""
    if not path.is_file():
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            # 128 bytes that mean nothing, then the mark (PS3.10, 7.1).
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM: :func:`may_be_dicom`, without the suffix of another format."""
    return not suffix_of(path) and may_be_dicom(path)
