"""Synthetic CT series for tests: plain slices with every attribute that a test may want to change."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

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
