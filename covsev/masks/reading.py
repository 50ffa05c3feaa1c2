"""Lung, lobe and lesion masks that exist already, read as covsev's own, all on one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covsev.errors import GridMismatchError, LabelError
from covsev.labels import (
    CONSOLIDATION,
    CONSOLIDATION_HU,
    LEFT_LOBES,
    LEFT_LUNG,
    OUTPUT_SUFFIXES,
    RIGHT_LOBES,
    RIGHT_LUNG,
)
from covsev.masks.conventions import (
    LESIONS_KIND,
    LOBES_KIND,
    LUNGS_KIND,
    MEDPSEG_FILES,
    TOTALSEGMENTATOR_FILES,
    Convention,
)
from covsev.masks.recognition import LabelFile, parse_choices, recognise, translate
from covsev.scan import Scan, load_scan, make_scan, read_labels, require_same_grid
from covsev.scan.suffixes import VOLUME_SUFFIXES

_COARSE_MM = 4.0
_LUNG_OF_LOBE = np.zeros(256, dtype=np.uint8)
_LUNG_OF_LOBE[[lobe.id for lobe in RIGHT_LOBES]] = RIGHT_LUNG.id
_LUNG_OF_LOBE[[lobe.id for lobe in LEFT_LOBES]] = LEFT_LUNG.id


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of one scan in covsev's ids, all on the grid of ``scan``.

    Attributes:
        scan: the CT; without one a grid whose values are all 0.
        hu_known: whether ``scan`` is a CT.
        lungs, lesions: (X, Y, Z) uint8, ids of :mod:`covsev.labels`.
        lobes: the same; ``None`` where none were given.
        kinds_known: whether ``lesions`` tells ground-glass opacity from consolidation.
        method: where each map comes from, in words.
    """

    scan: Scan
    hu_known: bool
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8] | None
    lesions: NDArray[np.uint8]
    kinds_known: bool
    method: Mapping[str, str]


def read_masks(
    lesions: Path,
    *,
    lungs: Path | None = None,
    lobes: Path | None = None,
    scan: Path | None = None,
    labels: Sequence[str] = (),
    resample: bool = False,
    case: str | None = None,
) -> Masks:
    """Read the masks of one scan.

    Lungs that are not given are the union of the lobes, or come from a lesion map that holds lung as well. A lesion
    mask of one value is divided by HU where a CT is given: consolidation above -200 HU.

    Args:
        lesions: label map, or a MEDPSeg folder with one file each of ground-glass opacity and consolidation.
        lungs: label map.
        lobes: label map, or a TotalSegmentator folder with one file a lobe.
        scan: the CT.
        labels: conventions, see :func:`covsev.masks.recognition.parse_choices`; recognised where not given.
        resample: bring maps on other grids to that of the CT (or of the lesions) by nearest neighbour.
        case: name of the scan; from the file's name if not given.

    Raises:
        CovsevError: if a file cannot be read, lies on another grid, or its labels cannot be told.
    """
    chosen = parse_choices(labels)
    lesion_file = _read(lesions, MEDPSEG_FILES, every=False)
    ct = load_scan(scan) if scan is not None else None
    name = case or _case_of(lesions)
    grid = _grid_of(lesion_file, name)  # refuses a name that is a path
    grid = replace(ct, case=name) if ct is not None else grid

    def fit(file: LabelFile) -> LabelFile:
        return _on_grid(file, grid, resample=resample)

    lesion_file = fit(lesion_file)
    method: dict[str, str] = {}
    lobe_map = None
    if lobes is not None:
        lobe_map = _translated(fit(_read(lobes, TOTALSEGMENTATOR_FILES)), LOBES_KIND, chosen, method)
    if lungs is not None:
        lung_map = _lungs(fit(_read(lungs, {})), chosen, grid, method)
    elif lobe_map is not None:
        lung_map, method[LUNGS_KIND] = _LUNG_OF_LOBE[lobe_map], "the union of the lobes"
    else:
        lung_map = _lungs_in_lesions(lesion_file, chosen, grid, method)
    convention = _lesion_convention(lesion_file, chosen, lung_map)
    origin = "files of medpseg" if lesions.is_dir() else f"labels of {convention.name}"
    method[LESIONS_KIND] = f"{lesions}, {origin}"
    lesion_map, kinds_known = translate(lesion_file, convention), convention.kinds_known
    if not kinds_known and ct is not None:
        lesion_map = np.where((lesion_map > 0) & (ct.hu > CONSOLIDATION_HU), np.uint8(CONSOLIDATION.id), lesion_map)
        method[LESIONS_KIND] += f"; consolidation: lesion above {CONSOLIDATION_HU} HU, the rest ground-glass opacity"
        kinds_known = True
    return Masks(grid, ct is not None, lung_map, lobe_map, lesion_map, kinds_known, method)


def _case_of(path: Path) -> str:
    """Name of the scan; that of a link, not of what it leads to, which may be named after a checksum."""
    name = path.resolve().name if path.name in ("", "..") else path.name
    for suffix in sorted((*OUTPUT_SUFFIXES, *VOLUME_SUFFIXES), key=len, reverse=True):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


# ---- files -------------------------------------------------------------------------------------------------------


def _read(path: Path, parts: Mapping[str, int], *, every: bool = True) -> LabelFile:
    """A label map from a file, or from a folder with one mask a label: ``parts`` is the id by the file's ending."""
    if not path.is_dir():
        return _read_file(path)
    found = {id_: _part(path, ending) for ending, id_ in parts.items()}
    missing = [ending for ending, id_ in parts.items() if found[id_] is None]
    if not parts or (every and missing) or len(missing) == len(parts):
        wanted = ", ".join(f"*{ending}.nii.gz" for ending in parts) or "a file"
        raise LabelError(f"{path}: expected {wanted}" + (f"; missing: {', '.join(missing)}" if missing else ""))
    first = None
    for id_, file in found.items():
        if file is None:
            continue
        mask = _read_file(file)
        if first is None:
            first = replace(mask, path=path, values=np.zeros_like(mask.values), header=None)
        if mask.values.shape != first.values.shape or not np.allclose(mask.affine, first.affine, atol=1e-3):
            raise GridMismatchError(f"{file}: another grid than its neighbours in {path}")
        first.values[mask.values > 0] = id_
    assert first is not None  # for the type checker: not all parts are missing
    return first


def _part(folder: Path, ending: str) -> Path | None:
    names = sorted(path for path in folder.iterdir() if path.name.endswith((f"{ending}.nii.gz", f"{ending}.nii")))
    if len(names) > 1:
        raise LabelError(f"{folder}: several files end with {ending}: {', '.join(path.name for path in names)}")
    return names[0] if names else None


def _read_file(path: Path) -> LabelFile:
    return LabelFile(path, *read_labels(path))


def _grid_of(file: LabelFile, case: str) -> Scan:
    """A scan without values: every voxel is one and the same 0, so that it takes no memory."""
    nothing = np.broadcast_to(np.int16(0), file.values.shape)
    return make_scan(nothing, file.affine, case=case, source=file.path, header=file.header)


def _on_grid(file: LabelFile, grid: Scan, *, resample: bool) -> LabelFile:
    try:
        require_same_grid(grid, file.values.shape, file.affine, name=str(file.path))
    except GridMismatchError as error:
        if not resample:
            raise GridMismatchError(f"{error}; --resample brings it there by nearest neighbour") from error
        return _resampled(file, grid)
    return file


def _resampled(file: LabelFile, grid: Scan) -> LabelFile:
    import nibabel as nib
    from nibabel.processing import resample_from_to

    image = nib.Nifti1Image(file.values, file.affine)
    moved = resample_from_to(image, (grid.hu.shape, grid.affine), order=0)
    return replace(file, values=np.asarray(moved.dataobj).astype(np.uint8), affine=grid.affine)


# ---- labels ------------------------------------------------------------------------------------------------------


def _translated(file: LabelFile, kind: str, chosen: Mapping[str, str], method: dict[str, str]) -> NDArray[np.uint8]:
    if file.path.is_dir():  # put together from named files, in covsev's ids
        method[kind] = f"{file.path}, files of totalsegmentator"
        return file.values
    convention = recognise(file, kind, name=chosen.get(kind))
    method[kind] = f"{file.path}, labels of {convention.name}"
    return translate(file, convention)


def _lungs(file: LabelFile, chosen: Mapping[str, str], grid: Scan, method: dict[str, str]) -> NDArray[np.uint8]:
    convention = recognise(file, LUNGS_KIND, name=chosen.get(LUNGS_KIND))
    method[LUNGS_KIND] = f"{file.path}, labels of {convention.name}"
    lungs = translate(file, convention)
    if convention.either_lung is None:
        return lungs
    return _to_nearer_lung(lungs, file.values == convention.either_lung, grid.spacing_mm)


def _lungs_in_lesions(
    file: LabelFile, chosen: Mapping[str, str], grid: Scan, method: dict[str, str]
) -> NDArray[np.uint8]:
    convention = _lesion_convention(file, chosen, None)
    if len(convention.lung_values) != 2:
        raise LabelError(f"{file.path}: holds no right and left lung; give --lungs or --lobes too")
    return _lungs(file, {LUNGS_KIND: convention.name}, grid, method)


def _lesion_convention(file: LabelFile, chosen: Mapping[str, str], lungs: NDArray[np.uint8] | None) -> Convention:
    if file.path.is_dir():
        return recognise(file, LESIONS_KIND, name="covsev")
    return recognise(file, LESIONS_KIND, name=chosen.get(LESIONS_KIND), lungs=lungs)


def _to_nearer_lung(
    lungs: NDArray[np.uint8], unsided: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.uint8]:
    """Lung labels with the voxels of ``unsided`` given to the nearer lung, measured on a grid of about 4 mm."""
    from scipy.ndimage import distance_transform_edt

    steps = [max(1, round(_COARSE_MM / side)) for side in spacing_mm]
    distances_mm = []
    for id_ in (RIGHT_LUNG.id, LEFT_LUNG.id):
        far = ~_any_in_block(lungs == id_, steps)
        distance: Callable[..., NDArray[np.float64]] = distance_transform_edt
        sampling = [side * step for side, step in zip(spacing_mm, steps, strict=True)]
        distances_mm.append(distance(far, sampling=sampling) if not far.all() else np.full(far.shape, np.inf))
    nearer = np.where(distances_mm[0] <= distances_mm[1], np.uint8(RIGHT_LUNG.id), np.uint8(LEFT_LUNG.id))
    where = np.nonzero(unsided)
    blocks = tuple(index // step for index, step in zip(where, steps, strict=True))
    sided = lungs.copy()
    sided[where] = nearer[blocks]
    return sided


def _any_in_block(mask: NDArray[np.bool_], steps: Sequence[int]) -> NDArray[np.bool_]:
    for axis, step in enumerate(steps):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask
