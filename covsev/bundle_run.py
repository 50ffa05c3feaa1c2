"""Running bundles, and what their configurations call besides networks and training: checks, a folder's inference."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser, run
from PIL import Image

from covsev import labels
from covsev.anatomy.lungs import segment_lungs
from covsev.batch import assess_directory
from covsev.errors import BundleError, CovsevError, ScanError
from covsev.labels import SLICE_SUFFIXES
from covsev.lesion_model import LesionModel
from covsev.lesions import segment_lesions, segment_slice
from covsev.scan import ScanSource, find_scans, load_scan, replacing, save_labels, with_unique_cases

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_log = logging.getLogger(__name__)


# ---- runs --------------------------------------------------------------------------------------------------------


def run_configs(configs: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """``python -m monai.bundle run`` of ``configs``, read together, with ``settings`` as overrides; its own process.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str([str(path) for path in configs])]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True)  # noqa: S603  the caller's own words


# ---- checks ------------------------------------------------------------------------------------------------------


def refuse_unknown_overrides(arguments: Sequence[str] | None = None) -> None:
    """Stop a ``python -m monai.bundle run`` whose override names nothing in the configuration, or answers in its words.

    MONAI adds an unknown ``--datset_dir`` to the configuration, runs on the default, and exits with 0. It reads
    ``--true_prior false`` as a text, which counts as true.

    Args:
        arguments: the command line's, without the program; ``sys.argv`` if not given.

    Raises:
        BundleError: naming the override and what could be meant.
    """
    options = _options(sys.argv[1:] if arguments is None else arguments)
    if "config_file" not in options:
        return  # not started by the command line
    parser = ConfigParser()
    parser.read_config([path.strip(" '\"") for path in options["config_file"].strip("[]").split(",")])
    for name, value in options.items():
        if name in inspect.signature(run).parameters:
            continue
        if name in parser:
            if isinstance(parser[name], bool) and value not in ("True", "False"):
                raise BundleError(f"--{name} must be True or False, with a capital; got {value or 'nothing'}")
            continue
        known = sorted(key for key in parser.get() if not key.startswith("_"))
        raise BundleError(f"--{name} is not in the configuration; it has {', '.join(known)}")


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs of a command line."""
    options = {}
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            options[name] = value if equals else following
    return options


# ---- severity of a folder ----------------------------------------------------------------------------------------


def assess_scans(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None, **settings: Any
) -> None:
    """Assess every scan below ``dataset_dir``, see :func:`covsev.assess_directory`, which takes the ``settings``.

    Raises:
        ScanError: if a folder is not named, there is nothing to do, or, after all others are done, if scans failed.
    """
    source, target = _named_folders(dataset_dir, output_dir)
    result = assess_directory(source, target, **settings)
    if result.failed:
        raise ScanError(f"{result.failed} of {len(result.rows)} scans failed; see {target / 'severity.csv'}")


def _named_folders(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None
) -> tuple[Path, Path]:
    if dataset_dir is None or output_dir is None:
        raise ScanError("name both folders: --dataset_dir <scans> --output_dir <masks>")
    return Path(dataset_dir), Path(output_dir)


# ---- masks of a folder -------------------------------------------------------------------------------------------


def segment_directory(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None, model: LesionModel
) -> None:
    """Write a mask for every volume and every 2-D slice below ``dataset_dir``.

    A single network writes ``<case>_infection.nii.gz`` on the volume's own grid, not restricted to the lungs, and
    ``<case>_infection.png`` of the slice's own size, 0 and 255. A multi network writes ``<case>_lesions.nii.gz``
    and ``<case>_lesions.png`` with 0, 1 ground-glass opacity, 2 consolidation.

    Raises:
        ScanError: if a folder is not named, there is nothing to do, or, after all others are done, for the
            scans that failed.
    """
    source_folder, target = _named_folders(dataset_dir, output_dir)
    volumes = find_scans(source_folder)
    slices = _find_slices(source_folder)
    if not volumes and not slices:
        raise ScanError(f"{source_folder}: no scans and no PNG or JPG slices in it")
    target.mkdir(parents=True, exist_ok=True)
    failures = []
    for job in (*(_volume_job(v, target, model) for v in volumes), *(_slice_job(s, target, model) for s in slices)):
        try:
            job()
        except Exception as error:  # one odd scan must not end the run; the others go on
            _log.exception("failed")
            failures.append(str(error) if isinstance(error, CovsevError) else f"{type(error).__name__}: {error}")
    if failures:
        raise ScanError(f"{len(failures)} of {len(volumes) + len(slices)} failed: " + "; ".join(failures))


def _volume_job(source: ScanSource, target: Path, model: LesionModel) -> Callable[[], None]:
    def job() -> None:
        scan = load_scan(source)
        lungs = segment_lungs(scan)
        lesions = segment_lesions(scan, lungs.labels, model, restrict_to_lungs=False)
        if model.prior is None:
            suffix, mask = labels.INFECTION_SUFFIX, (lesions.labels > 0).astype(np.uint8)
        else:
            suffix, mask = labels.LESIONS_SUFFIX, lesions.labels
        save_labels(mask, scan, target / (scan.case + suffix), weights=model.weights)

    return job


def _slice_job(source: ScanSource, target: Path, model: LesionModel) -> Callable[[], None]:
    def job() -> None:
        try:
            with Image.open(source.path) as image:
                if image.mode not in _EIGHT_BIT_MODES:
                    raise ScanError(f"{source.path}: has mode {image.mode}, not 8 bit; convert it to 8-bit grey first")
                grey = np.asarray(image.convert("L"))
        except OSError as error:
            raise ScanError(f"{source.path}: cannot be read as an image") from error
        mask = segment_slice(grey, model)
        kind, scale = ("infection", 255) if model.prior is None else ("lesions", 1)
        with replacing(target / f"{source.case}_{kind}.png") as temporary:
            Image.fromarray(mask * np.uint8(scale)).save(temporary, format="PNG")

    return job


def _find_slices(folder: Path) -> list[ScanSource]:
    """PNG and JPG files below ``folder``, covsev's own pictures left out, named by their relative paths."""
    own = (labels.OVERLAY_SUFFIX, "_infection.png", "_lesions.png")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SLICE_SUFFIXES and not p.name.endswith(own))
    return with_unique_cases([ScanSource("", path) for path in paths], folder, SLICE_SUFFIXES)
