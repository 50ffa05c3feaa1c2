"""Label maps as one DICOM segmentation: lungs, lobes and lesions as nine binary segments on the source's own slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from covsev import __version__
from covsev.labels import LESIONS, LOBES, LUNGS, Label
from covsev.report.dicom.terms import ABNORMAL, ANATOMY, FAMILIES, FINDINGS, LUNG, SITES, Term

SEGMENTS = (*LUNGS, *LOBES, *LESIONS)
"""Segment 1 is the first one; the numbers are the same in every file, also where a segment is empty."""
MANUFACTURER = "covsev, open source"
_SERIAL = "0"  # software has none, and the standard wants one
_SERIES_NUMBER = 9001
"""The first of three series; see also :mod:`covsev.report.dicom.objects`."""
# The map that holds each label: lungs, lobes or lesions.
_KINDS = {label.name: kind for kind, known in zip(FAMILIES, (LUNGS, LOBES, LESIONS), strict=True) for label in known}


def segment_number(label: Label) -> int:
    """Number of a label's segment, from 1."""
    return SEGMENTS.index(label) + 1


def code(term: Term) -> hd.sr.CodedConcept:
    """A term as highdicom takes it."""
    return hd.sr.CodedConcept(*term)


def make_segmentation(
    source: Sequence[Dataset],
    order: Sequence[int],
    maps: Mapping[str, NDArray[np.uint8]],
    versions: Mapping[str, str],
) -> hd.seg.Segmentation:
    """A segmentation that refers to the slices that it was made from.

    Args:
        source: headers of the source images: one a slice, or one for all slices.
        order: position in the source (image, or frame of the only image) of each slice along z.
        maps: (X, Y, Z) labels on the scan's grid: ``lungs``, ``lobes`` and ``lesions``.
        versions: of what made each of them.
    """
    # One image of many frames, or as many images as slices.
    frames = int(source[0].get("NumberOfFrames") or len(source))
    pixels = _pixels(maps, order, frames=frames)
    return hd.seg.Segmentation(
        source_images=list(source),
        pixel_array=pixels,
        # Binary: lungs and lobes overlap, and a label map holds one label a voxel.
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(label, versions) for label in SEGMENTS],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="covsev",
        software_versions=__version__,
        device_serial_number=_SERIAL,
        # Empty frames are left out, but a segmentation without any frame cannot be written.
        omit_empty_frames=bool(pixels.any()),
        content_label="COVSEV",
        content_description="Lungs, lobes and lesions. Research use only",
        series_description="covsev segmentation, research use only",
    )


def _pixels(maps: Mapping[str, NDArray[np.uint8]], order: Sequence[int], *, frames: int) -> NDArray[np.uint8]:
    """(frames, rows, columns, segments) of 0 and 1, frames in the order of the source."""
    columns, rows, _ = maps["lungs"].shape
    # Segments first while it is filled: each one is written as a whole.
    pixels = np.zeros((len(SEGMENTS), frames, rows, columns), np.uint8)
    for segment, label in zip(pixels, SEGMENTS, strict=True):
        label_map = maps[_KINDS[label.name]]
        segment[list(order)] = label_map.transpose(2, 1, 0) == label.id
    return np.moveaxis(pixels, 0, -1)


def _description(label: Label, versions: Mapping[str, str]) -> hd.seg.SegmentDescription:
    kind, site = _KINDS[label.name], SITES.get(label.name)
    # Lungs and lobes are a place by themselves; a lesion is a finding, and its place is the lung.
    what = code(site.term if site else FINDINGS[label.name])
    if site and site.side:
        what.SegmentedPropertyTypeModifierCodeSequence = [code(site.side)]
    return hd.seg.SegmentDescription(
        segment_number=segment_number(label),
        segment_label=label.text,
        segmented_property_category=code(ANATOMY if site else ABNORMAL),
        segmented_property_type=what,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"covsev {kind}", family=code(FAMILIES[kind]), version=versions[kind]
        ),
        anatomic_regions=None if site else [code(LUNG)],
        display_color=hd.color.CIELabColor.from_rgb(*label.rgb),
    )
