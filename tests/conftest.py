"""Fixtures shared by all tests: a coarse synthetic chest, and what the pipeline makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from covsev.anatomy.lobes import LobeSegmentation, segment_lobes
from covsev.anatomy.lungs import LungSegmentation, segment_lungs
from covsev.phantom import Phantom, make_phantom

COARSE_MM = (3.0, 3.0, 4.0)

settings.register_profile("covsev", derandomize=True, deadline=None, database=None)
settings.load_profile("covsev")


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


@pytest.fixture(scope="session")
def shipped_model() -> Any:
    """The lesion model that covsev ships."""
    from covsev.lesion_model import load_model
    from covsev.options import DEFAULT_BUNDLE

    return load_model(DEFAULT_BUNDLE)


@pytest.fixture(scope="session")
def bright_model() -> Any:
    """A model that takes no time: infected is what lies above about -650 HU, or above 0.35 of an 8-bit slice."""
    import torch
    from torch import nn

    from covsev.lesion_model import LesionModel, SlicePostprocessing, SlicePreprocessing

    class BrightIsInfected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(100.0))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.gain * (image - 0.35)

    return LesionModel(
        network=BrightIsInfected().eval(),
        preprocessing=SlicePreprocessing((-1000.0, 0.0), (64, 64), 8.0),
        inferer=lambda batch, network: network(batch),
        postprocessing=SlicePostprocessing(0.5),
        batch_size=4,
        name="bright",
        weights="0" * 64,
    )


def _frozen(phantom: Phantom) -> Phantom:
    for array in (phantom.scan.hu, phantom.lungs, phantom.lobes, phantom.lesions):
        array.flags.writeable = False
    return phantom
