"""Many scans: one after another, each isolated from the failures of the others."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from covsev import __version__, labels
from covsev.anatomy.lungs import segment_lungs
from covsev.assess import Options, assess, write
from covsev.errors import CovsevError, ScanError
from covsev.lesions import LesionModel, segment_lesions, segment_slice
from covsev.report.tables import failed_row, row, write_csv, write_json
from covsev.scan import ScanSource, find_scans, load_scan, replacing, save_labels

SLICE_SUFFIXES = (".png", ".jpg", ".jpeg")
_PACKAGES = ("monai", "nibabel", "numpy", "SimpleITK", "torch")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchResult:
    """What became of a directory of scans.

    Attributes:
        rows: one row a scan, as in ``severity.csv``.
    """

    rows: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> int:
        """Number of scans without a result."""
        return sum(row["status"] == "failed" for row in self.rows)


def assess_sources(
    sources: Sequence[ScanSource],
    folder: Path,
    model: LesionModel,
    options: Options | None = None,
    *,
    on_start: Callable[[str], None] | None = None,
    on_done: Callable[[Mapping[str, Any]], None] | None = None,
) -> BatchResult:
    """Assess every scan and write masks, reports, ``severity.csv`` and ``run.json`` into ``folder``.

    A scan that fails becomes a row with a code and a reason; the others go on. The table is rewritten after
    each scan, so that it can be read at any time.

    Args:
        sources: see :func:`covsev.scan.find_scans`.
        folder: made if it does not exist.
        model: see :func:`covsev.lesions.load_model`.
        options: see :class:`covsev.assess.Options`.
        on_start: called with the case's name before a scan.
        on_done: called with the row after a scan.
    """
    options = options or Options()
    folder.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC), time.perf_counter()
    rows: list[Mapping[str, Any]] = []
    for source in sources:
        if on_start:
            on_start(source.case)
        rows.append(_assess_one(source, folder, model, options))
        write_csv(rows, folder / "severity.csv")
        if on_done:
            on_done(rows[-1])
    result = BatchResult(rows)
    _write_run(folder / "run.json", result, model, options, started, time.perf_counter() - clock)
    return result


def _assess_one(source: ScanSource, folder: Path, model: LesionModel, options: Options) -> Mapping[str, Any]:
    try:
        scan = load_scan(source)
        return row(write(assess(scan, model, options), folder, options))
    except CovsevError as error:
        return failed_row(source.case, str(source.path), error.code, str(error))
    except MemoryError:
        reason = f"{source.path}: not enough memory for this scan"
        return failed_row(source.case, str(source.path), "out_of_memory", reason)
    except Exception as error:  # one odd scan must not end the batch; the trace goes to the log
        _log.exception("scan %s failed unexpectedly", source.case)
        reason = f"{source.path}: unexpected {type(error).__name__}: {error}"
        return failed_row(source.case, str(source.path), "unexpected", reason)


def _write_run(
    path: Path, result: BatchResult, model: LesionModel, options: Options, started: datetime, seconds: float
) -> None:
    content = {
        "covsev_version": __version__,
        "disclaimer": labels.DISCLAIMER,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "scans": len(result.rows),
        "failed": result.failed,
        "bundle": model.name,
        "weights": model.weights,
        "threshold": model.postprocessing.threshold,
        "hu_window": list(model.preprocessing.hu_window),
        "options": asdict(options),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
    write_json(content, path)


# ---- infection masks alone, for `python -m monai.bundle run` -----------------------------------------------------


def segment_infection_directory(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None, model: LesionModel
) -> None:
    """Write an infection mask for every volume and every 2-D slice below ``dataset_dir``.

    Volumes give ``<case>_infection.nii.gz`` on their own grid, not restricted to the lungs; PNG and JPG slices
    give ``<case>_infection.png`` of their own size, 0 and 255.

    Raises:
        ScanError: if a folder is not named, there is nothing to do, or, after all others are done, for the
            scans that failed.
    """
    if dataset_dir is None or output_dir is None:
        raise ScanError("name both folders: --dataset_dir <scans> --output_dir <masks>")
    source_folder, target = Path(dataset_dir), Path(output_dir)
    volumes = find_scans(source_folder)
    slices = _find_slices(source_folder)
    if not volumes and not slices:
        raise ScanError(f"{source_folder}: no scans and no PNG or JPG slices in it")
    target.mkdir(parents=True, exist_ok=True)
    failures = []
    for job in (*(_volume_job(v, target, model) for v in volumes), *(_slice_job(s, target, model) for s in slices)):
        try:
            job()
        except CovsevError as error:
            _log.error("%s", error)
            failures.append(str(error))
    if failures:
        raise ScanError(f"{len(failures)} of {len(volumes) + len(slices)} failed: " + "; ".join(failures))


def _volume_job(source: ScanSource, target: Path, model: LesionModel) -> Callable[[], None]:
    def job() -> None:
        scan = load_scan(source)
        lungs = segment_lungs(scan)
        lesions = segment_lesions(scan, lungs.labels, model, restrict_to_lungs=False)
        path = target / (scan.case + labels.INFECTION_SUFFIX)
        save_labels((lesions.labels > 0).astype(np.uint8), scan, path, weights=model.weights)

    return job


def _slice_job(source: ScanSource, target: Path, model: LesionModel) -> Callable[[], None]:
    def job() -> None:
        try:
            with Image.open(source.path) as image:
                grey = np.asarray(image.convert("L"))
        except OSError as error:
            raise ScanError(f"{source.path}: cannot be read as an image") from error
        mask = segment_slice(grey, model)
        with replacing(target / f"{source.case}_infection.png") as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")

    return job


def _find_slices(folder: Path) -> list[ScanSource]:
    """PNG and JPG files below ``folder``, covsev's own pictures left out, named by their relative paths."""
    own = (labels.OVERLAY_SUFFIX, "_infection.png")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SLICE_SUFFIXES and not p.name.endswith(own))
    stems = [path.relative_to(folder).with_suffix("").as_posix().replace("/", "_") for path in paths]
    return [
        ScanSource(stem if stems.count(stem) == 1 else f"{stem}_{path.suffix[1:]}", path)
        for stem, path in zip(stems, paths, strict=True)
    ]
