"""Make ``fissure_model.npz``: the mean fissure surfaces of 100 people in lung-box coordinates.

    python -m covsev.anatomy.build_fissure_model FISSURE_POINTS covsev/anatomy/fissure_model.npz

``FISSURE_POINTS`` is the folder ``Resources/LungLobeAtlasData`` of the Chest Imaging Platform
(acil-bwh/ChestImagingPlatform, BSD-style licence): hand-placed points on the fissures of 100 chest CTs, an affine
transform from each person to a reference, and the reference's lung mask. The numbers made here are averages over
people; the points themselves are not part of covsev.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from covsev.anatomy.lobes import FISSURES, GRID, LungBox
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.scan import from_sitk, replacing, to_canonical

_REFERENCE = "10002K_INSP_STD_BWH_COPD_leftLungRightLung.nrrd"
_REFERENCE_SIDES = {2: RIGHT_LUNG.id, 3: LEFT_LUNG.id}  # the reference's own label ids
_MIN_POINTS = 12
_SMOOTHING = 0.02
_HEIGHT_RANGE = (-0.5, 1.5)


def reference_boxes(path: Path) -> dict[int, LungBox]:
    """Lung boxes of the reference's right and left lung, in its LPS+ world."""
    image = sitk.ReadImage(str(path))
    array, affine = from_sitk(image)
    labels = to_canonical(array, affine)
    origin = np.array(image.GetOrigin())
    boxes = {}
    for own, side in _REFERENCE_SIDES.items():
        boxes[side] = LungBox.around(labels == own, image.GetSpacing()).shifted(origin)
    return boxes


def read_points(path: Path) -> pd.DataFrame:
    """Fissure points of one person: columns ``fissure`` (as in ``FISSURES``), ``x``, ``y``, ``z`` in LPS+ mm."""
    table = pd.read_csv(path).iloc[:, :5]
    table.columns = ["region", "type", "x", "y", "z"]
    side = table["region"].str.upper().str.startswith("LEFT").map({True: "left", False: "right"})
    kind = table["type"].str.upper().str.startswith("OBL").map({True: "oblique", False: "horizontal"})
    return table.assign(fissure=side + "_" + kind)[["fissure", "x", "y", "z"]]


def person_surface(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height w(u, v) of one person's fissure over the grid, a smoothing thin-plate spline through ``points``.

    Args:
        points: (N, 3) box coordinates.
    """
    ground, index = np.unique(points[:, :2].round(4), axis=0, return_index=True)
    spline = RBFInterpolator(ground, points[index, 2], kernel="thin_plate_spline", smoothing=_SMOOTHING)
    u, v = np.meshgrid(GRID, GRID, indexing="ij")
    height = spline(np.stack([u.ravel(), v.ravel()], axis=1)).reshape(u.shape)
    return np.clip(height, *_HEIGHT_RANGE)


def build(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Mean surface of each fissure over all people with enough points."""
    boxes = reference_boxes(folder / _REFERENCE)
    surfaces: dict[str, list[NDArray[np.float64]]] = {fissure: [] for fissure in FISSURES}
    for path in sorted(folder.glob("*_regionAndTypePoints.csv")):
        case = path.name.removesuffix("_regionAndTypePoints.csv")
        transform = next(folder.glob(f"{case}_TO_*_transform.tfm"), None)
        to_reference = sitk.ReadTransform(str(transform)).GetInverse() if transform else sitk.Transform(3, 1)
        for fissure, group in read_points(path).groupby("fissure"):
            box = boxes[LEFT_LUNG.id if str(fissure).startswith("left") else RIGHT_LUNG.id]
            world = np.array([to_reference.TransformPoint(p) for p in group[["x", "y", "z"]].to_numpy().tolist()])
            points = box.to_unit(world)
            points = points[((points > -0.15) & (points < 1.15)).all(axis=1)]
            if len(points) >= _MIN_POINTS:
                surfaces[str(fissure)].append(person_surface(points))
    for fissure, stack in surfaces.items():
        print(f"{fissure}: {len(stack)} people, SD of the height {np.std(stack, axis=0).mean():.3f} of the box")
    return {fissure: np.mean(stack, axis=0).astype(np.float32) for fissure, stack in surfaces.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m covsev.anatomy.build_fissure_model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    surfaces = build(options.folder)
    with replacing(options.output) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **surfaces)


if __name__ == "__main__":
    main()
