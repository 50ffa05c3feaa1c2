"""From a file or a DICOM series to a :class:`Scan`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from covsev.errors import CovsevError, ScanError
from covsev.scan.claims import require_backed, require_honest_nrrd
from covsev.scan.compression import open_gzip
from covsev.scan.finding import ScanSource, find_scans
from covsev.scan.metaimage import read_metaimage
from covsev.scan.suffixes import NIFTI_SUFFIXES, NRRD_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from covsev.scan.volume import LPS_TO_RAS, Scan, make_scan, require_volume, without_trailing_axes


def load_scan(source: ScanSource | Path | str) -> Scan:
    """Read one scan.

    nibabel reads NIfTI, also where the header's axes are not at right angles. SimpleITK reads NRRD, numpy reads
    MetaImage, and pydicom reads DICOM folders.

    Raises:
        ScanError: if the file is missing, broken, not a volume, or without usable geometry.
    """
    if not isinstance(source, ScanSource):
        found = find_scans(Path(source))
        if len(found) != 1:
            raise ScanError(f"{source}: expected one scan, found {len(found)}; use find_scans for folders")
        source = found[0]
    hu, affine, header = _read(source)
    return make_scan(hu, affine, case=source.case, source=source.path, header=header, series_uid=source.series_uid)


def read_labels(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64], Any]:
    """Read a label map, its values as they are.

    Returns:
        (X, Y, Z) uint8 values, RAS+ affine, and the NIfTI header, ``None`` for other formats.

    Raises:
        ScanError: if the file cannot be read, or holds other values than 0 to 255.
    """
    values, affine, header = _read(ScanSource("", path))
    values = without_trailing_axes(values)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    labels = _as_labels(values) if 0 <= low <= high <= 255 else None  # false for NaN, too
    if labels is None:
        raise ScanError(f"{path}: values from {low:g} to {high:g} are not those of a label map", code="labels")
    # The same checks of shape and geometry as a scan's; one 0 seen at every voxel takes no memory.
    grid = make_scan(np.broadcast_to(np.int16(0), labels.shape), affine, case="labels", source=path, header=header)
    return labels, grid.affine, header


def _as_labels(values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Values from 0 to 255 as uint8; ``None`` if some are no whole numbers."""
    labels = values.astype(np.uint8, copy=False)
    if values.dtype.kind != "f":
        return labels
    return labels if np.array_equal(labels, values) else None


def _read(source: ScanSource) -> tuple[NDArray[Any], NDArray[np.float64], Any]:
    path = source.path
    try:
        if source.series_uid is not None:
            # Loaded only for DICOM: other formats need not wait for pydicom and SimpleITK.
            from covsev.scan.dicom import series as dicom

            return *dicom.read_series(path, source.series_uid), None
        _require_file(path)
        suffix = suffix_of(path)
        if suffix in NIFTI_SUFFIXES:
            return _read_nifti(path)
        read = _read_nrrd if suffix in NRRD_SUFFIXES else read_metaimage
        return *read(path), None
    except (CovsevError, MemoryError):
        raise
    except Exception as error:  # readers raise anything on broken files; the cause stays attached
        raise ScanError(f"{path}: cannot be read ({type(error).__name__}: {_first_line(error)})") from error


def _require_file(path: Path) -> None:
    # The order matters: each message is true only if those before it are not.
    if path.is_dir():
        raise ScanError(f"{path}: the folder cannot be read; check its permissions")
    if path.exists() and not path.is_file():
        raise ScanError(f"{path}: not a regular file")
    if not path.is_file():
        raise ScanError(f"{path}: no such file", code="missing")
    if not suffix_of(path):
        raise ScanError(f"{path}: not a scan; expected one of {', '.join(VOLUME_SUFFIXES)} or a DICOM folder")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], Any]:
    image = nib.load(path, mmap=False)
    # nibabel goes by the content, so another format may come under a name of NIfTI.
    if not isinstance(image, nib.Nifti1Pair):
        raise ScanError(f"{path}: cannot be read (it is {type(image).__name__}, not NIfTI)")
    shape, dtype = image.shape, image.header.get_data_dtype()
    require_volume(shape, dtype, path)
    compressed = path.suffix.lower() == ".gz"
    require_backed(path, math.prod(shape) * dtype.itemsize, path.stat().st_size, compressed=compressed)
    slope, intercept = image.dataobj.slope, image.dataobj.inter  # type: ignore[attr-defined]
    # Scaled here in float32, which a scan holds anyway: nibabel would do it in float64, in twice the memory.
    raw = _unscaled(path, image.dataobj, compressed=compressed)
    if (slope, intercept) != (1, 0):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes padding
            raw = raw.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return raw, image.affine, image.header


def _unscaled(path: Path, proxy: Any, *, compressed: bool) -> NDArray[Any]:
    """Voxels as they are stored, through the fast gzip where there is one."""
    if not compressed:
        return np.asanyarray(proxy.get_unscaled())
    with open_gzip(path, "rb") as stream:
        spec = (proxy.shape, proxy.dtype, proxy.offset)
        return np.asanyarray(ArrayProxy(stream, spec).get_unscaled())


def _read_nrrd(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    import SimpleITK as sitk

    require_honest_nrrd(path)
    return from_sitk(sitk.ReadImage(str(path)), name=str(path))


def from_sitk(image: Any, *, name: str = "image") -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Array and affine of a SimpleITK image, whose world is LPS+.

    Returns:
        (X, Y, Z, ...) array, and the RAS+ affine of its first three axes.

    Raises:
        ScanError: if voxels have several components; ``name`` is the image's name in the message.
    """
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(
            f"{name}: voxels have {image.GetNumberOfComponentsPerPixel()} components, not one", code="not_a_volume"
        )
    array = sitk.GetArrayFromImage(image).transpose()  # SimpleITK's arrays have z first
    affine = np.eye(4)
    axes = image.GetDimension()
    if axes >= 3:  # a flat image is refused by its shape, later
        direction = np.array(image.GetDirection()).reshape(axes, axes)
        spacing_mm = np.array(image.GetSpacing())[:3]
        affine[:3, :3] = direction[:3, :3] * spacing_mm
        affine[:3, 3] = image.GetOrigin()[:3]
    return array, LPS_TO_RAS @ affine
