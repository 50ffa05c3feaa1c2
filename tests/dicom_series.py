"""Synthetic CT series for tests: plain slices with every attribute that a test may want to change."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (20, 24, 6)  # columns, rows, slices
UID = "1.2.826.0.1.3680043.8.498.111"
ROW_SPACING_MM, COLUMN_SPACING_MM, STEP_MM = 0.9, 0.7, 2.5
STRAIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
TURNED = ((0.8, 0.6, 0.0), (-0.6, 0.8, 0.0))
FEET_FIRST = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
ORIGIN_LPS_MM = np.array([-10.0, -20.0, 30.0])


def stored_volume(seed=0):
    return np.random.default_rng(seed).integers(0, 1500, SHAPE).astype(np.int16)


def ct_slice(pixels, position, orientation=STRAIGHT, *, slope=1, intercept=-1024, uid=UID):
    """One CT slice; ``pixels`` are (columns, rows)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = UID + ".9", uid
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = [*orientation[0], *orientation[1]]
    dataset.ImagePositionPatient = [round(float(v), 6) for v in position]
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.PixelSpacing = [ROW_SPACING_MM, COLUMN_SPACING_MM]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    dataset.PixelData = np.ascontiguousarray(pixels.T).tobytes()
    return dataset


def ct_series(stored=None, orientation=STRAIGHT, **kwargs):
    """Slices along the stack's normal, first the lowest."""
    stored = stored_volume() if stored is None else stored
    normal = np.cross(*orientation)
    positions = [ORIGIN_LPS_MM + k * STEP_MM * normal for k in range(stored.shape[2])]
    return [ct_slice(stored[:, :, k], position, orientation, **kwargs) for k, position in enumerate(positions)]


def save(series, folder, name="{:03d}.dcm"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(series):
        dataset.save_as(folder / name.format(number), enforce_file_format=True)


def enhanced(series, order=None, *, shared=True):
    """The slices as one enhanced multi-frame file; ``order`` of the frames, and where to say what all have alike."""
    series = [series[k] for k in (order or range(len(series)))]
    whole = ct_slice(np.zeros((16, 16), np.int16), (0, 0, 0))
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del whole[tag]
    for tag in ("PatientName", "PatientID", "FrameOfReferenceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if tag in series[0]:
            whole[tag] = series[0][tag]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.Rows, whole.Columns, whole.NumberOfFrames = series[0].Rows, series[0].Columns, len(series)
    whole.SharedFunctionalGroupsSequence = [functional_groups(series[0], alike=True, position=False)] if shared else []
    whole.PerFrameFunctionalGroupsSequence = [functional_groups(slice_, alike=not shared) for slice_ in series]
    whole.PixelData = b"".join(slice_.PixelData for slice_ in series)
    return whole


def functional_groups(slice_, *, alike, position=True):
    groups = Dataset()
    wanted = {"PlanePositionSequence": ("ImagePositionPatient",)} if position else {}
    if alike:
        wanted |= {
            "PlaneOrientationSequence": ("ImageOrientationPatient",),
            "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
            "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
            "CTReconstructionSequence": ("ConvolutionKernel",),
        }
    for sequence, tags in wanted.items():
        item = Dataset()
        for tag in tags:
            if tag in slice_:
                item[tag] = slice_[tag]
        setattr(groups, sequence, [item])
    return groups


def phantom_series(scan, *, uid=UID):
    """The slices of a phantom whose array axes are LPS, with the headers that a scanner writes."""
    to_lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    spacing_x_mm, spacing_y_mm, spacing_z_mm = scan.spacing_mm
    series = []
    for z in range(scan.hu.shape[2]):
        stored = (scan.hu[:, :, z] + 1024).astype(np.int16)
        dataset = ct_slice(stored, (to_lps @ [0, 0, z, 1])[:3], uid=uid)
        dataset.PixelSpacing, dataset.SliceThickness = [spacing_y_mm, spacing_x_mm], spacing_z_mm
        dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Phantom^Chest", "P-1", "O"
        dataset.PatientBirthDate, dataset.AccessionNumber, dataset.ReferringPhysicianName = "", "A-1", ""
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200401", "101112", "S-1"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = f"{uid}.8", ""
        dataset.SeriesNumber, dataset.InstanceNumber, dataset.Manufacturer = 2, z + 1, "Phantoms"
        series.append(dataset)
    return series
