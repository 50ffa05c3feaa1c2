"""Running bundles, and what their configurations call besides networks and training: checks, a folder's inference."""

from __future__ import annotations

import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser, run
from PIL import Image

from covsev import labels
from covsev.anatomy.lungs.model import LungModel
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.assessment import lung_model_for
from covsev.batch import assess_directory
from covsev.errors import BundleError, CovsevError, ScanError
from covsev.lesions.model import LesionModel
from covsev.lesions.picture import segment_slice
from covsev.lesions.volume import segment_lesions
from covsev.options import Options
from covsev.scan import ScanSource, find_scans, find_slices, load_scan, replacing, require_scans, save_labels

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Modes of Pillow that become 8-bit grey without loss of range; it would cut 16-bit and float values off at 255."""
_log = logging.getLogger(__name__)


# ---- runs --------------------------------------------------------------------------------------------------------


def run_configs(configs: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Run ``python -m monai.bundle run`` in a process of its own.

    Args:
        configs: configuration files, read together.
        settings: overrides by name.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str([str(path) for path in configs])]
    for name, value in settings.items():
        command += [f"--{name}", "$None" if value is None else str(value)]  # MONAI drops a None
    # The caller's own words, and no shell reads them.
    subprocess.run(command, check=True)  # noqa: S603


# ---- checks ------------------------------------------------------------------------------------------------------


def refuse_unknown_overrides(arguments: Sequence[str] | None = None) -> None:
    """Stop a ``python -m monai.bundle run`` whose override would not do what it says.

    MONAI adds an unknown ``--datset_dir`` to the configuration, runs on the default, and exits with 0. It reads
    ``--true_prior false`` as a text, which counts as true. It drops ``--rounds None``.

    Args:
        arguments: the command line's, without the program; ``sys.argv`` if not given.

    Raises:
        BundleError: naming the override and what could be meant.
    """
    options = _options(sys.argv[1:] if arguments is None else arguments)
    if "config_file" not in options:
        return  # not started by the command line
    parser = ConfigParser()
    # One path, or a list of them as Python writes it: ``['a.yaml', 'b.yaml']``.
    paths = options["config_file"].strip("[]").split(",")
    parser.read_config([path.strip(" '\"") for path in paths])
    for name, value in options.items():
        # MONAI's own arguments, such as config_file, are no overrides.
        if name in inspect.signature(run).parameters:
            continue
        if name in parser:
            _require_understood(name, value, parser[name])
            continue
        # Names with an underscore in front, such as ``_meta_``, are MONAI's own.
        known = sorted(key for key in parser.get() if not key.startswith("_"))
        raise BundleError(f"--{name} is not in the configuration; it has {', '.join(known)}")


def _require_understood(name: str, value: str, default: Any) -> None:
    """Refuse a text in place of a yes or no, and a None that would not arrive."""
    if value.startswith(("$", "@", "%")):
        return  # an expression or a reference
    if isinstance(default, bool) and value not in ("True", "False"):
        raise BundleError(f"--{name} must be True or False, with a capital; got {value or 'nothing'}")
    if value == "None" and default is not None:
        raise BundleError(f"--{name} None would be dropped by MONAI; write '$None' to have none of it")


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs of a command line, and those of a file that ``--args_file`` names.

    One dash is as good as two.
    """
    options: dict[str, str] = {}
    followed_by = [*arguments[1:], ""]  # one more than needed where there are no arguments at all
    for argument, following in zip(arguments, followed_by, strict=False):
        # A letter must follow the dashes: ``-1`` is the value of the option before it.
        if re.match("--?[A-Za-z]", argument):
            name, equals, value = argument.lstrip("-").partition("=")
            options[name] = value if equals else following
    if "args_file" in options:
        # The command line wins over the file, as in MONAI.
        in_file = ConfigParser.load_config_file(options["args_file"])
        options = {name: str(value) for name, value in in_file.items()} | options
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
    slices = find_slices(source_folder)
    if not volumes and not slices:
        raise ScanError(f"{source_folder}: no scans and no PNG or JPG slices in it")
    target.mkdir(parents=True, exist_ok=True)
    lung_model = lung_model_for(Options())
    jobs = [_volume_job(volume, target, model, lung_model) for volume in volumes]
    jobs += [_slice_job(picture, target, model) for picture in slices]
    _do_all(jobs)


def segment_lungs_of_directory(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None, model: LungModel
) -> None:
    """Write ``<case>_lungs.nii.gz``, 1 right and 2 left, for every volume below ``dataset_dir``.

    Raises:
        ScanError: as :func:`segment_directory`.
    """
    source_folder, target = _named_folders(dataset_dir, output_dir)
    volumes = find_scans(source_folder)
    require_scans(volumes, source_folder)
    target.mkdir(parents=True, exist_ok=True)
    _do_all([_lung_job(volume, target, model) for volume in volumes])


def _do_all(jobs: Sequence[Callable[[], None]]) -> None:
    """Do every job, whether others fail or not; then raise what failed."""
    failures = []
    for job in jobs:
        try:
            job()
        except Exception as error:  # one odd scan must not end the run; the others go on
            _log.exception("failed")
            failures.append(str(error) if isinstance(error, CovsevError) else f"{type(error).__name__}: {error}")
    if failures:
        raise ScanError(f"{len(failures)} of {len(jobs)} failed: {'; '.join(failures)}")


def _lung_job(source: ScanSource, target: Path, model: LungModel) -> Callable[[], None]:
    """What writes the lungs of one volume."""

    def job() -> None:
        scan = load_scan(source)
        found = segment_lungs(scan, model)
        path = target / (scan.case + labels.LUNGS_SUFFIX)
        save_labels(found.labels, scan, path, weights=model.slice_network.weights)

    return job


def _volume_job(
    source: ScanSource, target: Path, model: LesionModel, lung_model: LungModel | None
) -> Callable[[], None]:
    """What writes the mask of one volume."""

    def job() -> None:
        scan = load_scan(source)
        lungs = segment_lungs(scan, lung_model)
        lesions = segment_lesions(scan, lungs.labels, model, restrict_to_lungs=False)
        # A single network has no kinds: whatever label it gives is infection.
        if model.prior is None:
            suffix, mask = labels.INFECTION_SUFFIX, (lesions.labels > 0).astype(np.uint8)
        else:
            suffix, mask = labels.LESIONS_SUFFIX, lesions.labels
        save_labels(mask, scan, target / (scan.case + suffix), weights=model.weights)

    return job


def _slice_job(source: ScanSource, target: Path, model: LesionModel) -> Callable[[], None]:
    """What writes the mask of one 2-D slice."""

    def job() -> None:
        try:
            with Image.open(source.path) as image:
                if image.mode not in _EIGHT_BIT_MODES:
                    raise ScanError(f"{source.path}: has mode {image.mode}, not 8 bit; convert it to 8-bit grey first")
                grey = np.asarray(image.convert("L"))
        except OSError as error:
            raise ScanError(f"{source.path}: cannot be read as an image") from error
        mask = segment_slice(grey, model)
        single = model.prior is None
        # 0 and 255, so that a picture viewer shows the mask; the two kinds keep their ids.
        suffix, scale = (labels.SLICE_INFECTION_SUFFIX, 255) if single else (labels.SLICE_LESIONS_SUFFIX, 1)
        with replacing(target / (source.case + suffix)) as temporary:
            Image.fromarray(mask * np.uint8(scale)).save(temporary, format="PNG")

    return job
