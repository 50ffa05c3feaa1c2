"""NiiVue, an interactive viewer in three planes, put into a page with the scan and its label maps.

The viewer is the one that the package ipyniivue brings for notebooks; the page speaks to it as a notebook does
(the anywidget protocol, https://anywidget.dev/en/afm/).
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covsev.errors import CovsevError
from covsev.labels import LESIONS, LOBES, LUNG_WINDOW_HU, Label
from covsev.scan import Scan
from covsev.scan.boxes import box_or_whole, margin_voxels

_MAX_VOXELS = 4_500_000  # below 6 MB of CT in the page
_MARGIN_MM = 15.0
"""Tissue that is shown around the lungs."""
_HU_STEP, _HU_START = 6, -1030  # 8 bits: -1030 to 500 HU in steps of 6
_OPACITY = {"lobes": 0.25, "lesions": 0.55}
"""Lobes fainter than lesions, which lie on top of them; the CT is seen through both."""


def viewer_parts(
    scan: Scan, lungs: NDArray[np.uint8], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> dict[str, Any]:
    """What a page needs to show the scan in NiiVue.

    The CT is cut to the lungs, and blocks of voxels are averaged until it is small; HU are kept in steps of 6.

    Args:
        scan: the scan.
        lungs, lobes, lesions: (X, Y, Z) labels on its grid.

    Returns:
        ``library``: gzipped JavaScript as base64; ``volumes``: what NiiVue loads; ``spacing``: of the CT, in words.

    Raises:
        CovsevError: if ipyniivue is not installed.
    """
    library = _packed(_script().read_bytes())
    box = box_or_whole(lungs, margin_voxels(_MARGIN_MM, scan.spacing_mm, rounding=round))
    factors = _factors(scan, box)
    affine = _affine(scan, box, factors)
    means = _block_means(scan.hu[box], factors)
    steps = np.clip((means - _HU_START) / _HU_STEP, 0, 255)
    hu = steps.round().astype(np.uint8)
    low, high = LUNG_WINDOW_HU
    ct = {
        "name": "ct.nii.gz",
        "data": _nifti(hu, affine, _HU_STEP, _HU_START),
        "low": low,
        "high": high,
        "colours": None,
    }
    # In the order in which they are drawn: lesions over lobes over the CT.
    maps = (("lobes", LOBES, lobes), ("lesions", LESIONS, lesions))
    volumes = [ct, *(_overlay(name, known, _sampled(found[box], factors), affine) for name, known, found in maps)]
    spacing = " x ".join(f"{side * factor:.2g}" for side, factor in zip(scan.spacing_mm, factors, strict=True))
    return {"library": library, "volumes": volumes, "spacing": f"{spacing} mm"}


def require_viewer() -> None:
    """Check that the viewer can be put into pages, before a scan takes its time.

    Raises:
        CovsevError: if ipyniivue is not installed.
    """
    _script()


def _script() -> Path:
    # Found, not imported: the package would bring a notebook's libraries, and one file of it is enough.
    spec = find_spec("ipyniivue")
    places = list(spec.submodule_search_locations or ()) if spec else []
    script = Path(places[0], "static", "widget.js") if places else None
    if script is None or not script.is_file():
        raise CovsevError("the viewer needs ipyniivue; install covsev[viewer], or leave out --viewer")
    return script


def _packed(content: bytes) -> str:
    # No time in the header, so that equal results give equal pages.
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def _factors(scan: Scan, box: Sequence[slice]) -> tuple[int, int, int]:
    """Voxels to average along each axis so that the box has at most :data:`_MAX_VOXELS`, near to cubes."""
    shape = np.array([side.stop - side.start for side in box])
    spacing_mm = np.array(scan.spacing_mm)
    if shape.prod() <= _MAX_VOXELS:
        return 1, 1, 1
    # The side of a cube, of which so many fill the box. Rounded up along each axis, so that the limit holds.
    volume_mm3 = (shape * spacing_mm).prod()
    wanted_mm = float(volume_mm3 / _MAX_VOXELS) ** (1 / 3)
    x, y, z = np.maximum(1, np.ceil(wanted_mm / spacing_mm)).astype(int).tolist()
    return x, y, z


def _affine(scan: Scan, box: Sequence[slice], factors: Sequence[int]) -> NDArray[np.float64]:
    """Index of a block to world: the centre of its voxels."""
    blocks = np.diag([*factors, 1.0])
    centres = [side.start + (factor - 1) / 2 for side, factor in zip(box, factors, strict=True)]
    blocks[:3, 3] = centres
    return np.asarray(scan.affine @ blocks)


def _block_means(array: NDArray[Any], factors: Sequence[int]) -> NDArray[np.float32]:
    """Means of whole blocks; an incomplete block at an end is left out."""
    x, y, z = factors
    a, b, c = (n // factor for n, factor in zip(array.shape, factors, strict=True))
    # Each axis becomes two, the block and the voxel in it; the mean runs over the latter.
    blocks = array[: a * x, : b * y, : c * z].reshape(a, x, b, y, c, z)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))


def _sampled(labels: NDArray[np.uint8], factors: Sequence[int]) -> NDArray[np.uint8]:
    """The label at the middle of every whole block: a mean of labels would be another label."""
    a, b, c = (n // factor for n, factor in zip(labels.shape, factors, strict=True))
    x, y, z = factors
    return labels[x // 2 :: x, y // 2 :: y, z // 2 :: z][:a, :b, :c]


def _overlay(
    name: str, known: Sequence[Label], found: NDArray[np.uint8], affine: NDArray[np.float64]
) -> dict[str, Any]:
    colours = [0, 0, 0, 0]  # red, green, blue, opacity: 0 is no label, and is not drawn
    for label in known:  # ids run from 1 without gaps
        colours += [*label.rgb, 255]
    return {
        "name": f"{name}.nii.gz",
        "data": _nifti(found, affine),
        "low": 0,
        "high": len(known),
        "colours": colours,
        "opacity": _OPACITY[name],
    }


def _nifti(array: NDArray[np.uint8], affine: NDArray[np.float64], slope: float = 1.0, start: float = 0.0) -> str:
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine)
    # A viewer computes slope * value + start, so that it shows HU although the file holds 8 bits.
    image.header.set_slope_inter(slope, start)
    image.header.set_xyzt_units("mm")
    return _packed(image.to_bytes())
