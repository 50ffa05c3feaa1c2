"""What ``covsev demo`` does: a synthetic scan on disk, and what was measured of it against the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from covsev.labels import LESIONS_SUFFIX, LOBES_SUFFIX, LUNGS_SUFFIX, SEVERITY_SUFFIX
from covsev.phantom import make_phantom
from covsev.scan import ScanSource, replacing, save_labels
from covsev.severity import REGION_NAMES, measure

_CASE = "phantom"
"""Name of the synthetic scan, and so the beginning of all its files."""


@dataclass(frozen=True)
class RegionComparison:
    """One region, measured and true.

    Attributes:
        region: its name.
        numbers: lung ml, true lung ml, lesion ml, true lesion ml, lesion percent, true lesion percent.
    """

    region: str
    numbers: tuple[float, ...]


def write_demo(folder: Path) -> ScanSource:
    """Write the phantom and its true masks into ``folder`` and return the scan."""
    phantom = make_phantom(case=_CASE)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_CASE}.nii.gz"
    with replacing(path) as temporary:
        nib.save(nib.Nifti1Image(phantom.scan.hu, phantom.scan.affine), temporary)
    # "true_" in front, so that the assessment's masks of the same suffix do not replace them.
    truth = {LUNGS_SUFFIX: phantom.lungs, LOBES_SUFFIX: phantom.lobes, LESIONS_SUFFIX: phantom.lesions}
    for suffix, array in truth.items():
        save_labels(array, phantom.scan, folder / f"true_{_CASE}{suffix}")
    return ScanSource(_CASE, path)


def compare(folder: Path) -> list[RegionComparison]:
    """Measured against true for every region, from the files of :func:`write_demo` and the assessment."""
    # Made again rather than read back: the phantom is the same each time.
    phantom = make_phantom(case=_CASE)
    truth = measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions).regions
    measured = json.loads((folder / f"{_CASE}{SEVERITY_SUFFIX}").read_text())["regions"]
    lines = []
    for region in REGION_NAMES:
        numbers = []
        for name in ("volume_ml", "lesion_ml", "lesion_pct"):
            found, true = measured[region][name], getattr(truth[region], name)
            numbers += [_number(found), _number(true)]
        lines.append(RegionComparison(region, tuple(numbers)))
    return lines


def _number(value: float | None) -> float:
    """A measure as a number. One that is missing becomes NaN, which prints as such in the table."""
    return np.nan if value is None else float(value)
