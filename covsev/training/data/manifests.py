"""Data manifests: MONAI datalists with relative paths, folds that keep a patient together, and checksums."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from covsev.training.data.layouts import LAYOUTS


def load_datalist(
    manifest: str | Path, dataset_dir: str | Path, *, fold: int | None = None, part: str = "training"
) -> list[dict[str, Any]]:
    """Records of ``manifest`` with absolute paths below ``dataset_dir``.

    Args:
        manifest: name of a manifest that covsev ships, or path of a JSON file made by
            ``python -m covsev.training.data.manifests build``.
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
    # Validation is the fold that training leaves out, so both come from one list.
    records = content["unlabelled" if part == "unlabelled" else "training"]
    if fold is not None and part != "unlabelled":
        folds = sorted({record["fold"] for record in records})
        if fold not in folds:
            raise ValueError(f"{manifest}: fold must be one of {folds}; got {fold!r}")
        wanted = part == "validation"
        records = [record for record in records if (record["fold"] == fold) == wanted]
    if not records:
        raise ValueError(f"{manifest}: no records in part {part!r}, fold {fold}")
    return [_resolve(record, Path(dataset_dir)) for record in records]


def load_optional_datalist(manifest: str | Path, dataset_dir: str | Path | None) -> list[dict[str, Any]]:
    """As :func:`load_datalist` for training on all records; none if ``dataset_dir`` is ``None``."""
    return [] if dataset_dir is None else load_datalist(manifest, dataset_dir)


def _find_manifest(manifest: str | Path) -> Traversable:
    # A shipped name comes before a file: a name without suffix is hardly a file's.
    shipped = resources.files("covsev.data_manifests") / f"{manifest}.json"
    return shipped if shipped.is_file() else Path(manifest)


def _resolve(record: dict[str, Any], dataset_dir: Path) -> dict[str, Any]:
    resolved = dict(record)
    for key in ("image", "infection", "edge", "lesions", "lungs"):
        if key in record:
            path = dataset_dir / record[key]
            if not path.is_file():  # now, not after an hour of training
                raise FileNotFoundError(f"{path} is missing; is dataset_dir right?")
            resolved[key] = str(path)
    return resolved


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``python -m covsev.training.data.manifests build --layout covid_semiseg DIR -o FILE``."""
    parser = argparse.ArgumentParser(prog="python -m covsev.training.data.manifests")
    build = parser.add_subparsers(required=True).add_parser("build", help="write a MONAI datalist")
    build.add_argument("folder", type=Path, help="folder into which the dataset was unpacked")
    build.add_argument("--layout", choices=sorted(LAYOUTS), required=True)
    build.add_argument("--seed", type=int, default=0, help="of the folds")
    build.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        manifest = LAYOUTS[options.layout](options.folder, seed=options.seed)
        options.output.write_text(json.dumps(manifest, indent=1) + "\n")
    except (OSError, ValueError) as error:  # data that do not fit are no bug: a line instead of a traceback
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
