"""What the layouts share: finding files in order, naming what is missing, and records with folds and checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from covsev.labels import SLICE_SUFFIXES
from covsev.training.data.folds import FOLDS, assign_folds, same_patient_groups

_THUMBNAIL = (64, 64)
"""Size to which slices are brought before they are compared. The stored folds were made with it."""
# ``.nii.gz`` is one suffix: ``Path.stem`` would leave ``.nii`` in the name.
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", *SLICE_SUFFIXES)

T = TypeVar("T")
Record = Mapping[str, Any]
"""One entry of a manifest: ``image`` and its labels, each a path or an array."""


def make_records(cases: Sequence[dict[str, Any]], folder: Path, *, seed: int) -> list[dict[str, Any]]:
    """Cases as records of a datalist.

    Args:
        cases: each with an ``image``, other files below ``folder``, a ``group``, and plain values.
        folder: that the records' paths are relative to.
        seed: of the assignment of groups to folds.

    Returns:
        the cases with relative paths, the ``fold`` of their group and the ``sha256`` of their image.
    """
    folds = assign_folds(np.array([case["group"] for case in cases]), folds=FOLDS, seed=seed)
    # Each file once: all slices of a stack name the same one.
    digests = {path: file_sha256(path) for path in dict.fromkeys(case["image"] for case in cases)}
    return [
        {key: _as_written(value, folder) for key, value in case.items()}
        | {"fold": int(fold), "sha256": digests[case["image"]]}
        for case, fold in zip(cases, folds, strict=True)
    ]


def _as_written(value: Any, folder: Path) -> Any:
    """A path as a manifest holds it: relative and with forward slashes, on Windows too. All else stays as it is."""
    return value.relative_to(folder).as_posix() if isinstance(value, Path) else value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mask_of(image: Path, mask: Path) -> Path:
    """``mask``, unless there is no such file: then a FileNotFoundError that names both."""
    if not mask.is_file():
        raise FileNotFoundError(f"{image} has no mask {mask}")
    return mask


def some(items: list[T], what: str) -> list[T]:
    """``items``, unless there are none: then a FileNotFoundError that says ``what`` is missing."""
    if not items:
        raise FileNotFoundError(f"no {what}")
    return items


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths in natural order (2 before 10)."""
    return sorted(paths, key=_words_and_numbers)


def _words_and_numbers(path: Path) -> list[str | int]:
    """``a10b`` as ``["a", 10, "b"]``. Words and numbers take turns, so a word is never compared with a number."""
    # The brackets make ``split`` keep the numbers.
    parts = re.split(r"(\d+)", path.as_posix())
    return [int(part) if part.isdigit() else part for part in parts]


def pictures(folder: Path) -> list[Path]:
    """PNG and JPG files in ``folder``, in natural order."""
    return natural_order(path for path in folder.glob("*") if path.suffix.lower() in SLICE_SUFFIXES)


def stem_of(path: Path) -> str:
    """File name without its image suffix; ``.nii.gz`` is one suffix."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def stacked_slices(stack: Path, labels: dict[str, Path]) -> list[dict[str, Any]]:
    """One case for each slice of a NIfTI file (X, Y, slices), with ``labels``, grouped by likeness."""
    array = np.asarray(nib.load(stack).dataobj)  # type: ignore[attr-defined]
    # float32: Pillow has no image of 64-bit numbers.
    images = (Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(array, 2, 0))
    groups = same_patient_groups([_thumbnail(image) for image in images])
    return [
        {"image": stack, **labels, "slice": index, "group": f"{stem_of(stack)}_{group}"}
        for index, group in enumerate(groups)
    ]


def picture_thumbnail(path: Path) -> NDArray[np.float64]:
    """(64, 64) grey values of a PNG or JPG file, for :func:`covsev.training.data.folds.same_patient_groups`."""
    with Image.open(path) as image:
        return _thumbnail(image.convert("L"))


def _thumbnail(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.resize(_THUMBNAIL), dtype=np.float64)
