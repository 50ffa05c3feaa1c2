"""The layout of whole scans with their masks beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from covsev.training.data.folds import assign_folds
from covsev.training.data.records import file_sha256, natural_order, some, stem_of

MASK_KINDS = ("lungs", "infection", "lesions")
LUNG_FOLDS = 3


def build_labelled_volumes(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Datalist of whole scans ``<case>.nii.gz`` with masks ``<case>_lungs``, ``_infection``, ``_lesions`` beside them.

    Patients are spread over the folds for each source by itself, so that every fold holds scans of every source. The
    source is the name up to the first ``_``; ``radiopaedia_<case>_...`` of one case are one patient.

    Args:
        folder: holds the scans, in sub-folders or not; scans without a lung mask are left out.
        seed: of the assignment of patients to folds.

    Raises:
        FileNotFoundError: if no scan has a lung mask.
    """
    scans = natural_order(path for path in folder.rglob("*.nii.gz") if _mask(path, "lungs").is_file())
    some(scans, f"scan with a lung mask <case>_lungs.nii.gz in {folder}")
    records = []
    for source in dict.fromkeys(_source(path) for path in scans):
        own = [path for path in scans if _source(path) == source]
        patients = [re.sub(r"^(radiopaedia_\d+)_.*", r"\1", stem_of(path)) for path in own]
        folds = assign_folds(np.array(patients), folds=LUNG_FOLDS, seed=seed)
        records += [
            {"image": path.relative_to(folder).as_posix()}
            | {kind: mask.relative_to(folder).as_posix() for kind, mask in _masks(path).items()}
            | {"group": patient, "fold": int(fold), "sha256": file_sha256(path)}
            for path, patient, fold in zip(own, patients, folds, strict=True)
        ]
    return {
        "name": folder.resolve().name,
        "source": "see data_manifests/README.md",
        "licence": "see data_manifests/README.md",
        "grouping": "one patient a scan; radiopaedia: one patient a case number; folds within each source",
        "seed": seed,
        "training": records,
        "unlabelled": [],
    }


def _mask(scan: Path, kind: str) -> Path:
    return scan.with_name(f"{stem_of(scan)}_{kind}.nii.gz")


def _masks(scan: Path) -> dict[str, Path]:
    """The masks that lie beside a scan, by kind."""
    masks = {kind: _mask(scan, kind) for kind in MASK_KINDS}
    return {kind: mask for kind, mask in masks.items() if mask.is_file()}


def _source(scan: Path) -> str:
    return stem_of(scan).partition("_")[0]
