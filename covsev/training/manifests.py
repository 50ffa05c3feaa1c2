"""Data manifests: MONAI datalists with relative paths, folds that keep a patient together, and checksums."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

FOLDS = 5
SAME_PATIENT_CORRELATION = 0.70
_THUMBNAIL = (64, 64)


def build_covid_semiseg(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Datalist of COVID-SemiSeg (Fan et al. 2020): 50 labelled and 1,600 unlabelled slices.

    Args:
        folder: holds ``labelled/{images,infection,edge,lesions}`` and ``unlabelled/images``.
        seed: of the assignment of groups to folds.

    Returns:
        ``{"training": [...], "unlabelled": [...]}`` with paths relative to ``folder``. Each labelled record has
        the ``group`` of slices that look like one patient and its ``fold``; a group never crosses folds.

    Raises:
        FileNotFoundError: if ``folder`` has no labelled images, or one lacks its mask.
    """
    images = _numbered(folder / "labelled" / "images")
    if not images:
        raise FileNotFoundError(f"no labelled images in {folder / 'labelled' / 'images'}")
    groups = same_patient_groups([_thumbnail(path) for path in images])
    folds = assign_folds(groups, folds=FOLDS, seed=seed)
    training = []
    for path, group, fold in zip(images, groups, folds, strict=True):
        masks = {kind: folder / "labelled" / kind / f"{path.stem}.png" for kind in ("infection", "edge", "lesions")}
        for mask in masks.values():
            if not mask.is_file():
                raise FileNotFoundError(f"{path} has no mask {mask}")
        record = {"image": path, **masks}
        training.append(
            {key: value.relative_to(folder).as_posix() for key, value in record.items()}
            | {"group": int(group), "fold": int(fold), "sha256": _sha256(path)}
        )
    unlabelled = [
        {"image": path.relative_to(folder).as_posix()} for path in _numbered(folder / "unlabelled" / "images")
    ]
    return {
        "name": "COVID-SemiSeg",
        "source": "https://github.com/DengPingFan/Inf-Net, doi 10.1109/TMI.2020.2996645",
        "licence": "non-commercial",
        "grouping": f"rank correlation of 64 x 64 thumbnails >= {SAME_PATIENT_CORRELATION}, connected",
        "seed": seed,
        "training": training,
        "unlabelled": unlabelled,
    }


def same_patient_groups(thumbnails: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """Group slices that visibly come from one patient.

    Two slices belong together if the Spearman correlation of their thumbnails reaches
    ``SAME_PATIENT_CORRELATION``; groups are the connected components. Ranks make it blind to the window.

    Returns:
        one group number a slice, from 0.
    """
    ranks = np.stack([rankdata(thumbnail.ravel()) for thumbnail in thumbnails])
    correlation = np.corrcoef(ranks)
    _, groups = connected_components(correlation >= SAME_PATIENT_CORRELATION, directed=False)
    return groups.astype(np.int64)


def assign_folds(groups: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Spread groups over folds of nearly equal size: largest groups first, each into the smallest fold.

    Returns:
        one fold number an item, from 0 to ``folds - 1``.
    """
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_sizes = np.zeros(folds, dtype=np.int64)
    fold_of = {}
    for index in order:
        fold = int(np.argmin(fold_sizes))
        fold_of[names[index]] = fold
        fold_sizes[fold] += sizes[index]
    return np.array([fold_of[group] for group in groups])


def load_datalist(
    manifest: str | Path, dataset_dir: str | Path, *, fold: int | None = None, part: str = "training"
) -> list[dict[str, Any]]:
    """Records of ``manifest`` with absolute paths below ``dataset_dir``.

    Args:
        manifest: name of a manifest that covsev ships, or path of a JSON file made by
            ``python -m covsev.training.manifests build``.
        dataset_dir: folder that the manifest's paths are relative to.
        fold: fold to leave out of ``training``, or to return alone for ``validation``; ``None`` keeps all.
        part: ``training``, ``validation`` or ``unlabelled``.

    Raises:
        FileNotFoundError: if a file of the manifest is missing below ``dataset_dir``.
        ValueError: if ``part`` or ``fold`` is unknown, or no record is left.
    """
    if part not in ("training", "validation", "unlabelled"):
        raise ValueError(f"part must be training, validation or unlabelled; got {part!r}")
    content = json.loads(_find_manifest(manifest).read_text())
    records = content["unlabelled" if part == "unlabelled" else "training"]
    if fold is not None and part != "unlabelled":
        folds = sorted({record["fold"] for record in records})
        if fold not in folds:
            raise ValueError(f"{manifest}: fold must be one of {folds}; got {fold!r}")
        records = [record for record in records if (record["fold"] == fold) == (part == "validation")]
    if not records:
        raise ValueError(f"{manifest}: no records in part {part!r}, fold {fold}")
    return [_resolve(record, Path(dataset_dir)) for record in records]


def _find_manifest(manifest: str | Path) -> Traversable:
    shipped = resources.files("covsev.data_manifests") / f"{manifest}.json"
    return shipped if shipped.is_file() else Path(manifest)


def _resolve(record: dict[str, Any], dataset_dir: Path) -> dict[str, Any]:
    resolved = dict(record)
    for key in ("image", "infection", "edge", "lesions"):
        if key in record:
            path = dataset_dir / record[key]
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; is dataset_dir right?")
            resolved[key] = str(path)
    return resolved


def _numbered(folder: Path) -> list[Path]:
    """Images of ``folder`` in natural order (2 before 10)."""
    paths = [path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    return sorted(paths, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path.name)])


def _thumbnail(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize(_THUMBNAIL), dtype=np.float64)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_LAYOUTS = {"covid_semiseg": build_covid_semiseg}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``python -m covsev.training.manifests build --layout covid_semiseg DIR -o FILE``."""
    parser = argparse.ArgumentParser(prog="python -m covsev.training.manifests")
    build = parser.add_subparsers(required=True).add_parser("build", help="write a MONAI datalist")
    build.add_argument("folder", type=Path)
    build.add_argument("--layout", choices=sorted(_LAYOUTS), required=True)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    manifest = _LAYOUTS[options.layout](options.folder, seed=options.seed)
    options.output.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
