"""Lung, lobe and lesion masks that exist already, read as covsev's own, all on one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from covsev.scan.volume import GRID_TOLERANCE_MM

_COARSE_MM = 4.0
"""Side of the blocks in which the nearer lung is looked for. Distances between voxels would take far longer."""
# Lung by lobe, as a table, so that one indexing translates a volume.
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

    Lungs that are not given are the union of the lobes, or come from a lesion map that holds lung as well. Where a
    CT is given, HU divide a lesion mask of one value: above -200 HU it is consolidation.

    Args:
        lesions: label map, or a MEDPSeg folder with one file each of ground-glass opacity and consolidation.
        lungs: label map.
        lobes: label map, or a TotalSegmentator folder with one file a lobe.
        scan: the CT.
        labels: conventions, see :func:`covsev.masks.recognition.parse_choices`. Those not given are recognised.
        resample: bring maps on other grids to that of the CT (or of the lesions) by nearest neighbour.
        case: name of the scan. It comes from the file's name if not given.

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
    # Lobes and lungs first: where a lesion map could mean two things, the lungs help to tell which.
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
        lesion_map = _divided(lesion_map, ct.hu)
        method[LESIONS_KIND] += f"; consolidation: lesion above {CONSOLIDATION_HU} HU, the rest ground-glass opacity"
        kinds_known = True
    return Masks(grid, ct is not None, lung_map, lobe_map, lesion_map, kinds_known, method)


def _divided(lesions: NDArray[np.uint8], hu: NDArray[Any]) -> NDArray[np.uint8]:
    """Lesion of one kind, with its dense part as consolidation."""
    dense = (lesions > 0) & (hu > CONSOLIDATION_HU)
    return np.where(dense, np.uint8(CONSOLIDATION.id), lesions)


def _case_of(path: Path) -> str:
    """Name of the scan. A link gives its own name, not its target's, which may be a checksum."""
    name = path.resolve().name if path.name in ("", "..") else path.name  # "." and ".." are no names
    # The longest suffix first: of ``a_lungs.nii.gz`` the case is ``a``, not ``a_lungs``.
    for suffix in sorted((*OUTPUT_SUFFIXES, *VOLUME_SUFFIXES), key=len, reverse=True):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


# ---- files -------------------------------------------------------------------------------------------------------


def _read(path: Path, parts: Mapping[str, int], *, every: bool = True) -> LabelFile:
    """A label map from a file, or from a folder with one mask for each label.

    Args:
        path: the file or the folder.
        parts: id by the ending of the file's name.
        every: whether each of the files must be there, as of lobes; else one is enough, as of lesions.
    """
    if not path.is_dir():
        return _read_file(path)
    found = {id_: _part(path, ending) for ending, id_ in parts.items()}
    missing = [ending for ending, id_ in parts.items() if found[id_] is None]
    # Of maps without parts, such as lungs, all is missing: they come in no folders.
    all_missing = len(missing) == len(parts)
    if all_missing or (every and missing):
        wanted = ", ".join(f"*{ending}.nii.gz" for ending in parts) or "a file"
        raise LabelError(f"{path}: expected {wanted}" + (f"; missing: {', '.join(missing)}" if missing else ""))
    first = None
    for id_, file in found.items():
        if file is None:
            continue
        mask = _read_file(file)
        if first is None:
            # Without its header, which describes the one mask, not the whole map.
            first = replace(mask, path=path, values=np.zeros_like(mask.values), header=None)
        if not _same_grid(mask, first):
            raise GridMismatchError(f"{file}: another grid than its neighbours in {path}")
        first.values[mask.values > 0] = id_
    assert first is not None  # for the type checker: not all parts are missing
    return first


def _same_grid(mask: LabelFile, other: LabelFile) -> bool:
    if mask.values.shape != other.values.shape:
        return False
    return np.allclose(mask.affine, other.affine, atol=GRID_TOLERANCE_MM)


def _part(folder: Path, ending: str) -> Path | None:
    # Two files with one ending are those of two patients, or of two runs: which one is meant cannot be told.
    names = sorted(path for path in folder.iterdir() if path.name.endswith((f"{ending}.nii.gz", f"{ending}.nii")))
    if len(names) > 1:
        raise LabelError(f"{folder}: several files end with {ending}: {', '.join(path.name for path in names)}")
    return names[0] if names else None


def _read_file(path: Path) -> LabelFile:
    return LabelFile(path, *read_labels(path))


def _grid_of(file: LabelFile, case: str) -> Scan:
    """A scan without values. All voxels share one 0, so that it takes no memory."""
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
    # Loaded only when asked for.
    import nibabel as nib
    from nibabel.processing import resample_from_to

    image = nib.Nifti1Image(file.values, file.affine)
    # Order 0 is the nearest neighbour: a mean of two labels would be a third one.
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
    # One value for both lungs, as of MEDPSeg, is not enough: scores need the side.
    if len(convention.lung_values) != 2:
        raise LabelError(f"{file.path}: holds no right and left lung; give --lungs or --lobes too")
    return _lungs(file, {LUNGS_KIND: convention.name}, grid, method)


def _lesion_convention(file: LabelFile, chosen: Mapping[str, str], lungs: NDArray[np.uint8] | None) -> Convention:
    if file.path.is_dir():  # put together from named files, in covsev's ids
        return recognise(file, LESIONS_KIND, name="covsev")
    return recognise(file, LESIONS_KIND, name=chosen.get(LESIONS_KIND), lungs=lungs)


def _to_nearer_lung(
    lungs: NDArray[np.uint8], unsided: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.uint8]:
    """Lung labels with the voxels of ``unsided`` given to the nearer lung, measured in blocks of about 4 mm."""
    steps = [max(1, round(_COARSE_MM / side)) for side in spacing_mm]
    sampling_mm = [side * step for side, step in zip(spacing_mm, steps, strict=True)]
    to_right, to_left = (
        _distances_mm(_any_in_block(lungs == id_, steps), sampling_mm) for id_ in (RIGHT_LUNG.id, LEFT_LUNG.id)
    )
    nearer = np.where(to_right <= to_left, np.uint8(RIGHT_LUNG.id), np.uint8(LEFT_LUNG.id))
    # Only these voxels look up their block, so no second map of full size is made.
    where = np.nonzero(unsided)
    blocks = tuple(index // step for index, step in zip(where, steps, strict=True))
    sided = lungs.copy()
    sided[where] = nearer[blocks]
    return sided


def _distances_mm(near: NDArray[np.bool_], sampling_mm: Sequence[float]) -> NDArray[np.float64]:
    """From each block to the nearest of ``near``."""
    # Loaded only for maps with a value of either lung.
    from scipy.ndimage import distance_transform_edt

    distance: Callable[..., NDArray[np.float64]] = distance_transform_edt
    far = ~near
    if far.all():  # scipy's distances mean nothing then
        return np.full(far.shape, np.inf)
    return distance(far, sampling=sampling_mm)


def _any_in_block(mask: NDArray[np.bool_], steps: Sequence[int]) -> NDArray[np.bool_]:
    """One value a block: whether any voxel of it is in ``mask``, so that thin parts are not lost."""
    for axis, step in enumerate(steps):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask
