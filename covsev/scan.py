"""The door: every scan enters and every label map leaves through here, on the scan's own grid."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev import __version__
from covsev.errors import CovsevError, GridMismatchError, ScanError
from covsev.labels import DISCLAIMER, OUTPUT_SUFFIXES, PADDING_HU

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
CANONICAL_AXES = ("L", "P", "S")
"""Array axes of every stage's inside: x grows to the patient's left, y to the back, z to the head."""

_GRID_TOLERANCE_MM = 1e-3
_MIN_SIDE_VOXELS = 16
_MIN_SLICES = 3
_MAX_VOXELS = 2**31
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Scan:
    """A chest CT volume.

    Attributes:
        hu: (X, Y, Z) int16 or float32 in Hounsfield units.
        affine: (4, 4) voxel index to world, RAS+ mm.
        case: name of the scan, unique in a batch, safe as a file name.
        source: where it was read from.
        header: NIfTI header of the source, whose spatial codes the label maps keep; ``None`` for other formats.
    """

    hu: NDArray[Any]
    affine: NDArray[np.float64]
    case: str
    source: Path
    header: Any = field(default=None, repr=False)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along the array axes."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, the determinant of the affine, in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def orientation(self) -> str:
        """Direction in which each array axis grows, such as ``LPS``."""
        return "".join(nib.aff2axcodes(self.affine))


@dataclass(frozen=True)
class ScanSource:
    """A scan that was found but not yet read.

    Attributes:
        case: name, unique among the scans found with it.
        path: file, or folder of a DICOM series.
        series_uid: which series of that folder.
    """

    case: str
    path: Path
    series_uid: str | None = None


# ---- finding ---------------------------------------------------------------------------------------------------


def find_scans(root: Path) -> list[ScanSource]:
    """All scans at or below ``root``: NIfTI, NRRD, MetaImage, and DICOM series.

    covsev's own outputs and hidden files are left out. Case names come from the paths relative to ``root``
    and are unique. Symbolic links to folders are not followed, so loops do no harm.

    Raises:
        ScanError: if ``root`` does not exist.
    """
    root = Path(root)
    if not root.exists():
        raise ScanError(f"{root}: no such file or folder")
    found = list(_find_file(root) if root.is_file() else _find_below(root))
    return with_unique_cases(found, root)


def _find_file(path: Path) -> Iterator[ScanSource]:
    if _suffix(path) or not _is_dicom(path):
        yield ScanSource("", path)
        return
    from covsev import dicom

    yield ScanSource("", path, dicom.series_uid(path))


def _find_below(root: Path) -> Iterator[ScanSource]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        for path in paths:
            if _suffix(path) and not path.name.endswith(OUTPUT_SUFFIXES):
                yield ScanSource("", path)
        # DICOM files often bear a UID for a name, whose last number looks like a suffix: the content decides.
        dicom_paths = [path for path in paths if not _suffix(path) and _is_dicom(path)]
        if dicom_paths:
            from covsev import dicom

            for uid in dicom.series_in(dicom_paths):
                yield ScanSource("", Path(folder), uid)


def _suffix(path: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES) -> str:
    """The longest of ``suffixes`` that ``path`` ends with, ``""`` if none."""
    name = path.name.lower()
    return max((suffix for suffix in suffixes if name.endswith(suffix)), key=len, default="")


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def with_unique_cases(
    found: list[ScanSource], root: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES
) -> list[ScanSource]:
    """Name each source by its path relative to ``root``; add the suffix, then a number, where names collide."""
    several_series = Counter(source.path for source in found)
    short = [_case_name(source, root, suffixes, several_series[source.path] > 1) for source in found]
    collisions = Counter(short)
    cases, used = [], set()
    for source, name in zip(found, short, strict=True):
        suffix = _suffix(source.path, suffixes)
        if collisions[name] > 1 and suffix:
            name += suffix.replace(".", "_")
        unique, number = name, 2
        while unique in used:
            unique, number = f"{name}_{number}", number + 1
        used.add(unique)
        cases.append(unique)
    return [ScanSource(case, s.path, s.series_uid) for case, s in zip(cases, found, strict=True)]


def _case_name(source: ScanSource, root: Path, suffixes: tuple[str, ...], one_of_several: bool) -> str:
    path = source.path
    relative = Path(path.name) if path == root else path.relative_to(root)
    text = relative.as_posix()
    suffix = _suffix(path, suffixes)
    text = text[: -len(suffix)] if suffix and path.is_file() else text
    if one_of_several and source.series_uid:
        text += "_" + source.series_uid.rsplit(".", 1)[-1]
    safe = re.sub(r"[^\w.-]+", "_", text.replace("/", "_")).strip("._")
    return safe or "scan"


# ---- reading ---------------------------------------------------------------------------------------------------


def load_scan(source: ScanSource | Path | str) -> Scan:
    """Read one scan.

    NIfTI is read with nibabel, also with headers that are not orthonormal; NRRD and MetaImage with SimpleITK;
    a DICOM folder with pydicom and SimpleITK.

    Raises:
        ScanError: if the file is missing, broken, not a volume, or without usable geometry.
    """
    if not isinstance(source, ScanSource):
        found = find_scans(Path(source))
        if len(found) != 1:
            raise ScanError(f"{source}: expected one scan, found {len(found)}; use find_scans for folders")
        source = found[0]
    hu, affine, header = _read(source)
    return make_scan(hu, affine, case=source.case, source=source.path, header=header)


def make_scan(
    hu: NDArray[Any], affine: NDArray[Any], *, case: str, source: Path | str = "memory", header: Any = None
) -> Scan:
    """A checked :class:`Scan` from an array.

    Args:
        hu: (X, Y, Z) values in Hounsfield units; a trailing axis of one is dropped, NaN becomes padding.
        affine: (4, 4) voxel index to world, RAS+ mm.
        case: name of the scan.
        source: where it came from, for messages.
        header: NIfTI header whose spatial codes label maps should keep.

    Raises:
        ScanError: if ``hu`` is not a volume of real numbers or ``affine`` cannot be inverted.
    """
    hu = np.asanyarray(hu)
    while hu.ndim > 3 and hu.shape[-1] == 1:
        hu = hu[..., 0]
    _require_volume(hu, source)
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(f"{source}: the affine cannot be inverted; repair the header's geometry")
    return Scan(_as_hu(hu, source), affine, case, Path(source), header)


def _require_volume(hu: NDArray[Any], source: Path | str) -> None:
    if hu.dtype.names or np.issubdtype(hu.dtype, np.complexfloating) or hu.dtype.kind not in "iufb":
        raise ScanError(f"{source}: voxels are {hu.dtype}, not single numbers; convert colour images to HU first")
    if hu.ndim != 3:
        raise ScanError(f"{source}: expected a 3-D volume, got shape {hu.shape}")
    if min(hu.shape) < _MIN_SLICES or sorted(hu.shape)[1] < _MIN_SIDE_VOXELS:
        raise ScanError(f"{source}: shape {hu.shape} is too small for a chest scan")
    if hu.size > _MAX_VOXELS:
        raise ScanError(f"{source}: shape {hu.shape} is larger than 2^31 voxels; crop or resample it first")


def _as_hu(hu: NDArray[Any], source: Path | str) -> NDArray[Any]:
    """int16 where the values are whole numbers in its range, else float32; never a copy without need."""
    if hu.dtype == np.int16:
        return hu
    if hu.dtype.kind == "f":
        finite = np.isfinite(hu)
        if not finite.any():
            raise ScanError(f"{source}: no voxel has a finite value")
        hu = hu if finite.all() else np.where(finite, hu, PADDING_HU)
    info = np.iinfo(np.int16)
    if hu.min() >= info.min and hu.max() <= info.max:
        whole = hu.astype(np.int16)
        if hu.dtype.kind != "f" or np.array_equal(whole, hu):
            return whole
    return hu.astype(np.float32)


def _read(source: ScanSource) -> tuple[NDArray[Any], NDArray[np.float64], Any]:
    path = source.path
    if source.series_uid is not None:
        from covsev import dicom

        return *from_sitk(dicom.read_series(path, source.series_uid), name=str(path)), None
    if not path.is_file():
        raise ScanError(f"{path}: no such file")
    suffix = _suffix(path)
    if not suffix:
        raise ScanError(f"{path}: not a scan; expected one of {', '.join(VOLUME_SUFFIXES)} or a DICOM folder")
    try:
        return _read_nifti(path) if suffix in NIFTI_SUFFIXES else (*_read_itk(path), None)
    except CovsevError:
        raise
    except Exception as error:  # readers raise anything on broken files; the cause stays attached
        raise ScanError(f"{path}: cannot be read ({type(error).__name__}: {_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], Any]:
    image = nib.load(path)
    slope, intercept = image.dataobj.slope, image.dataobj.inter  # type: ignore[attr-defined]
    raw = np.asanyarray(image.dataobj.get_unscaled())  # type: ignore[attr-defined]
    if (slope, intercept) != (1, 0) and raw.dtype.kind in "iuf":
        raw = raw.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return raw, image.affine, image.header  # type: ignore[attr-defined]


def _read_itk(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    import SimpleITK as sitk

    return from_sitk(sitk.ReadImage(str(path)), name=str(path))


def from_sitk(image: Any, *, name: str = "image") -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Array (X, Y, Z, ...) and RAS+ affine of its first three axes, of a SimpleITK image, whose world is LPS+.

    Raises:
        ScanError: if voxels have several components; ``name`` is the image's name in the message.
    """
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"{name}: voxels have {image.GetNumberOfComponentsPerPixel()} components, not one")
    array = sitk.GetArrayFromImage(image).transpose()
    affine = np.eye(4)
    axes = image.GetDimension()
    if axes >= 3:
        direction = np.array(image.GetDirection()).reshape(axes, axes)
        affine[:3, :3] = direction[:3, :3] * np.array(image.GetSpacing())[:3]
        affine[:3, 3] = image.GetOrigin()[:3]
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


# ---- orientation -----------------------------------------------------------------------------------------------


def to_canonical(array: NDArray[_T], affine: NDArray[np.float64]) -> NDArray[_T]:
    """View of ``array`` with its axes permuted and flipped to :data:`CANONICAL_AXES`; nothing is resampled."""
    start = nib.io_orientation(affine)
    end = nib.orientations.axcodes2ornt(CANONICAL_AXES)
    return nib.apply_orientation(array, nib.orientations.ornt_transform(start, end))  # type: ignore[no-any-return]


def from_canonical(array: NDArray[_T], affine: NDArray[np.float64]) -> NDArray[_T]:
    """Inverse of :func:`to_canonical` for the same ``affine``."""
    start = nib.orientations.axcodes2ornt(CANONICAL_AXES)
    end = nib.io_orientation(affine)
    return nib.apply_orientation(array, nib.orientations.ornt_transform(start, end))  # type: ignore[no-any-return]


def canonical_spacing_mm(scan: Scan) -> tuple[float, float, float]:
    """Spacing along the axes of :func:`to_canonical`."""
    order = np.argsort(nib.io_orientation(scan.affine)[:, 0])
    x, y, z = np.array(scan.spacing_mm)[order]
    return float(x), float(y), float(z)


# ---- grids and writing -----------------------------------------------------------------------------------------


def require_same_grid(scan: Scan, shape: Iterable[int], affine: NDArray[np.float64], *, name: str) -> None:
    """Check that a volume called ``name`` lies on ``scan``'s grid.

    Raises:
        GridMismatchError: saying what differs.
    """
    if tuple(shape) != scan.hu.shape:
        raise GridMismatchError(f"{name} has shape {tuple(shape)}, but scan {scan.case} has {scan.hu.shape}")
    difference = float(np.abs(np.asarray(affine) - scan.affine).max())
    if difference > _GRID_TOLERANCE_MM:
        raise GridMismatchError(f"{name} has another affine than scan {scan.case}: up to {difference:.4g} apart")


def save_labels(labels: NDArray[np.uint8], scan: Scan, path: Path, *, weights: str = "none") -> None:
    """Write a label map as NIfTI on ``scan``'s own grid: same shape, affine, sform and qform codes.

    Args:
        labels: (X, Y, Z) uint8.
        scan: the scan whose grid it is.
        path: ``.nii.gz``; written under a temporary name first, then renamed.
        weights: short hash of the weights that made it, kept in the header's description.

    Raises:
        GridMismatchError: if the shapes differ.
    """
    _save(np.ascontiguousarray(labels, dtype=np.uint8), scan, path, weights)


def save_probability(probability: NDArray[np.float32], scan: Scan, path: Path, *, weights: str) -> None:
    """Write a map of probabilities as float32 NIfTI, otherwise as :func:`save_labels`."""
    _save(np.ascontiguousarray(probability, dtype=np.float32), scan, path, weights)


def _save(array: NDArray[Any], scan: Scan, path: Path, weights: str) -> None:
    require_same_grid(scan, array.shape, scan.affine, name=path.name)
    image = nib.Nifti1Image(array, scan.affine)
    if isinstance(scan.header, nib.Nifti1Header):
        image.header.set_xyzt_units(*scan.header.get_xyzt_units())
        image.set_qform(_qform(scan), int(scan.header["qform_code"]))
        image.set_sform(scan.affine, int(scan.header["sform_code"]))
    else:
        image.header.set_xyzt_units("mm")
        image.set_qform(scan.affine, 1)
        image.set_sform(scan.affine, 1)
    image.header["descrip"] = f"covsev {__version__} weights {weights[:12]}; {DISCLAIMER}"[:79]
    with replacing(path) as temporary:
        nib.save(image, temporary)


def _qform(scan: Scan) -> NDArray[np.float64]:
    """The source's qform, or the affine where its quaternion is not one (seen with an unused qform)."""
    try:
        return scan.header.get_qform()  # type: ignore[no-any-return]
    except ValueError:
        return scan.affine


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` when the block succeeds and vanishes when it fails."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
