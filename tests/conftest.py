"""Fixtures shared by all tests: a coarse synthetic chest, and what the pipeline makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from covsev.anatomy.lobes.segment import LobeSegmentation, segment_lobes
from covsev.anatomy.lungs.segment import LungSegmentation, segment_lungs
from covsev.phantom import Phantom, make_phantom

COARSE_MM = (3.0, 3.0, 4.0)

settings.register_profile("covsev", derandomize=True, deadline=None, database=None)
settings.load_profile("covsev")


@pytest.fixture(scope="session", autouse=True)
def _conversion_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted networks are kept for this run of the tests, shared by its processes, and nowhere else."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["COVSEV_CACHE"] = str(shared / "converted")


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """A coarse infected chest with its truth; do not write into its arrays."""
    return _frozen(make_phantom(COARSE_MM))


@pytest.fixture(scope="session")
def healthy() -> Phantom:
    """The same chest without lesions."""
    return _frozen(make_phantom(COARSE_MM, infected=False, case="healthy"))


@pytest.fixture(scope="session")
def phantom_lungs(phantom: Phantom) -> LungSegmentation:
    """Lungs found in ``phantom``."""
    return segment_lungs(phantom.scan)


@pytest.fixture(scope="session")
def phantom_lobes(phantom: Phantom, phantom_lungs: LungSegmentation) -> LobeSegmentation:
    """Lobes of ``phantom_lungs``."""
    return segment_lobes(phantom.scan, phantom_lungs.labels)


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an array as NIfTI below ``tmp_path`` and returns the path."""

    def write(name: str, array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0]) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def global_seed_unset() -> Iterator[None]:
    """A seed that a test sets for all of MONAI does not reach the tests after it."""
    from monai.utils import set_determinism  # here, since it takes seconds to import

    yield
    set_determinism(None)


@pytest.fixture(scope="session")
def shipped_model() -> Any:
    """The lesion model that covsev ships."""
    from covsev.lesions.model import load_model
    from covsev.options import DEFAULT_BUNDLE

    return load_model(DEFAULT_BUNDLE)


@pytest.fixture(scope="session")
def small_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very coarse phantom as NIfTI, ``small.nii.gz``, alone in its folder; do not change it."""
    scan = make_phantom((5.0, 5.0, 10.0)).scan
    path = tmp_path_factory.mktemp("small") / "small.nii.gz"
    nib.save(nib.Nifti1Image(scan.hu, scan.affine), path)
    return path


BRIGHT_BUNDLE = """
bundle_root: ""
device: ""
network_def: {_target_: torch.nn.Conv2d, in_channels: 1, out_channels: 1, kernel_size: 1}
model:
  _target_: covsev.lesions.model.make_model
  network: "@network_def"
  checkpoint: "$@bundle_root + '/models/model.pt'"
  preprocessing:
    _target_: covsev.inference.slices.SlicePreprocessing
    hu_window: [-1000.0, 0.0]
    network_size: [64, 64]
    crop_margin_mm: 8.0
  inferer: {_target_: SimpleInferer}
  postprocessing: {_target_: covsev.lesions.model.LesionPostprocessing, threshold: 0.5}
  batch_size: 4
  name: bright
  device: "@device"
"""


@pytest.fixture(scope="session")
def bright_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes no time: infected is what lies above about -650 HU, or above 0.35 of an 8-bit slice."""
    import torch

    bundle = tmp_path_factory.mktemp("bright_bundle")
    for folder in ("configs", "models"):
        (bundle / folder).mkdir()
    (bundle / "configs" / "inference.yaml").write_text(BRIGHT_BUNDLE)
    weights = {"weight": torch.full((1, 1, 1, 1), 100.0), "bias": torch.tensor([-35.0])}
    torch.save(weights, bundle / "models" / "model.pt")
    return bundle


@pytest.fixture(scope="session")
def bright_model(bright_bundle: Path) -> Any:
    """The model of ``bright_bundle``."""
    from covsev.lesions.model import load_model

    return load_model(bright_bundle)


def _frozen(phantom: Phantom) -> Phantom:
    for array in (phantom.scan.hu, phantom.lungs, phantom.lobes, phantom.lesions):
        array.flags.writeable = False
    return phantom
