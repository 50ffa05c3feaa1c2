"""Results as DICOM, for a PACS: a segmentation, a structured report, and the overlay picture as a secondary capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import generate_uid

from covsev.errors import ScanError
from covsev.labels import CAPTURE_SUFFIX, SEGMENTATION_SUFFIX, STRUCTURED_REPORT_SUFFIX
from covsev.quality.result import Flag
from covsev.scan import Scan, replacing
from covsev.scan.dicom.series import frames_in_order
from covsev.severity import SeverityReport

_SERIES_NUMBER = 9003
"""High, so that it stands behind the scanner's own series; 9001 is the segmentation, 9002 the report."""
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes that every object of a study repeats from its source. They must be there, but may be empty."""


def require_dicom_source(scan: Scan) -> None:
    """Check that results of ``scan`` can be written as DICOM.

    Raises:
        ScanError: if the scan is no DICOM series, or highdicom is not installed.
    """
    if not scan.series_uid:
        raise ScanError(
            f"{scan.source}: is no DICOM series, and DICOM results must refer to one (patient, study, slices); "
            "give the DICOM folder, or leave out --dicom",
            code="no_dicom_source",
        )
    # Before the scan is assessed: minutes of work would end in a missing package.
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ScanError("DICOM output needs highdicom: pip install 'covsev[dicom]'", code="missing_package") from error


def write_dicom(
    scan: Scan,
    maps: Mapping[str, NDArray[np.uint8]],
    report: SeverityReport,
    flags: Sequence[Flag],
    folder: Path,
    *,
    versions: Mapping[str, str],
    overlay: Path,
) -> list[Path]:
    """Write ``<case>_seg.dcm``, ``<case>_sr.dcm`` and ``<case>_sc.dcm``, which belong to the source's study.

    They carry the patient's name and number as the source does: without them no PACS could file them.

    Args:
        scan: read from a DICOM series.
        maps: (X, Y, Z) labels on its grid: ``lungs``, ``lobes`` and ``lesions``.
        report: what was measured.
        flags: quality findings.
        folder: where to.
        versions: of what made each map.
        overlay: PNG of :func:`covsev.report.overlay.write_overlay`.

    Returns:
        the three paths.

    Raises:
        ScanError: see :func:`require_dicom_source`; or if the source's headers lack what DICOM results need.
    """
    require_dicom_source(scan)
    # Only now: these modules import highdicom, which need not be installed.
    from covsev.report.dicom.segmentation import make_segmentation
    from covsev.report.dicom.structured_report import make_report

    source, order = source_headers(scan)
    try:
        segmentation = make_segmentation(source, order, maps, versions)
        objects = {
            SEGMENTATION_SUFFIX: segmentation,
            STRUCTURED_REPORT_SUFFIX: make_report(segmentation, source, report, flags),
            CAPTURE_SUFFIX: _capture(source[0], overlay),
        }
    except AttributeError as error:  # of pydicom and highdicom, where a header lacks an attribute
        raise ScanError(
            f"{scan.source}: DICOM results need more of its headers ({error})", code="bad_header"
        ) from error
    return [_save(dataset, folder / (scan.case + suffix)) for suffix, dataset in objects.items()]


def source_headers(scan: Scan) -> tuple[list[pydicom.Dataset], list[int]]:
    """Headers of the source images, and where in them each slice lies.

    Returns:
        the headers, and for each slice along z its position: that of its image, or its frame in the only image.

    Raises:
        ScanError: if the slices lie in several files of several frames each: a segmentation can refer to one only.
    """
    frames = frames_in_order(scan.source, scan.series_uid or "")
    paths = list(dict.fromkeys(path for path, _ in frames))  # each file once, in the order of the slices
    if 1 < len(paths) < len(frames):
        raise ScanError(
            f"{scan.source}: its slices lie in {len(paths)} multi-frame files, and a DICOM segmentation can refer to "
            "one only; leave out --dicom",
            code="no_dicom_source",
        )
    headers: list[pydicom.Dataset] = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    for header in headers:
        _complete(header, scan)
    if len(paths) > 1:
        return headers, list(range(len(paths)))
    return headers, [number for _, number in frames]


def _complete(header: pydicom.Dataset, scan: Scan) -> None:
    """Add what some anonymizers drop and every object of a study has."""
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, None)
    # These two may not be empty: highdicom needs them to say where the slices lie.
    if not header.get("SliceThickness"):
        header.SliceThickness = f"{scan.spacing_mm[2]:.6g}"
    if not header.get("FrameOfReferenceUID"):
        # Made from the series' UID: all slices must share it, and so must the results of a second run.
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[header.SeriesInstanceUID])


def _capture(reference: pydicom.Dataset, overlay: Path) -> pydicom.Dataset:
    import highdicom as hd

    from covsev.report.dicom.segmentation import MANUFACTURER

    with Image.open(overlay) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    capture = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=reference,
        pixel_array=pixels,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "P"),
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        series_description="covsev overview, research use only",
    )
    capture.add_new("PatientOrientation", "CS", None)  # the tiles differ
    capture.BodyPartExamined = "CHEST"
    capture.BurnedInAnnotation = "YES"  # the caption names the case
    return capture


def _save(dataset: pydicom.Dataset, path: Path) -> Path:
    with replacing(path) as temporary:
        dataset.save_as(temporary)
    return path
