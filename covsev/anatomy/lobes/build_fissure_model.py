"""Make ``fissure_model.npz``: a statistical model of the fissures of 100 people in the frames of their lungs.

    python -m covsev.anatomy.lobes.build_fissure_model FISSURE_POINTS covsev/anatomy/lobes/fissure_model.npz

``FISSURE_POINTS`` is the folder ``Resources/LungLobeAtlasData`` of the Chest Imaging Platform
(acil-bwh/ChestImagingPlatform, BSD-style licence): hand-placed points on the fissures of 100 chest CTs, an affine
transform between each person and a reference, and the reference's lung mask. The numbers made here are statistics
over people; the points themselves are not part of covsev.

A person's lungs are known only as the affine image of the reference's. So the points are brought to the reference,
into the frames of its lungs, and the sizes that the affine gives the frames are the person's lung shape. The spline
coefficients c of a person with lung shape s are taken as normal, c ~ N(mean + A s, C), and the heights of the points
as splines at their places, with Student's t noise, since some points are misplaced. Expectation maximisation finds
mean, A, C and the noise; people need not have points everywhere. C is pulled towards smooth surfaces.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.anatomy.lobes.fissure_model import FISSURES, FISSURES_OF, SPLINES, LungFrame, spline_centres, splines
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.scan import from_sitk, replacing, to_canonical

MODES = 12
_REFERENCE = "10002K_INSP_STD_BWH_COPD_leftLungRightLung.nrrd"
_REFERENCE_SIDES = {2: RIGHT_LUNG.id, 3: LEFT_LUNG.id}  # the reference's own label ids
_UNIT_RANGE = (-0.15, 1.15)  # points outside are misplaced or of the other lung
_ITERATIONS = 20
_DEGREES_OF_FREEDOM = 3.0
_FIRST_NOISE = 0.02  # of the frame's height
_SMOOTH_PEOPLE = 30.0  # people's worth of weight for the smooth covariance
_TILT_SD, _BEND_SD, _BEND_LENGTH = 0.06, 0.03, 0.6  # the smooth covariance: planes and bends, in frame units
_MEAN_SD, _MEAN_LENGTH = 0.5, 0.5
_RIDGE = 0.3
_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Person:
    """One person's points as linear equations on the spline coefficients, D = 3 x 8 x 8.

    Attributes:
        design: (N, D) value of each spline at each point.
        heights: (N,) frame coordinate z of each point.
        fissure: (N,) index of its fissure.
        shape: (6,) log sizes of the lungs relative to the reference.
    """

    design: _Array
    heights: _Array
    fissure: NDArray[np.intp]
    shape: _Array


def read_points(path: Path) -> pd.DataFrame:
    """Fissure points of one person: columns ``fissure`` (as in ``FISSURES``), ``x``, ``y``, ``z`` in LPS+ mm."""
    table = pd.read_csv(path).iloc[:, :5]
    table.columns = ["region", "type", "x", "y", "z"]
    side = table["region"].str.upper().str.startswith("LEFT").map({True: "left", False: "right"})
    kind = table["type"].str.upper().str.startswith("OBL").map({True: "oblique", False: "horizontal"})
    return table.assign(fissure=side + "_" + kind)[["fissure", "x", "y", "z"]]


def reference_lungs(path: Path) -> tuple[dict[int, LungFrame], dict[int, _Array]]:
    """Frames, in the LPS+ world, and covariances (3, 3) mm2 of the reference's lungs, by lung id."""
    image = sitk.ReadImage(str(path))
    array, affine = from_sitk(image)
    labels = to_canonical(array, affine)
    frames, covariances = {}, {}
    for own, side in _REFERENCE_SIDES.items():
        frame = LungFrame.around(labels == own, image.GetSpacing())
        frames[side] = LungFrame(frame.centre_mm + image.GetOrigin(), frame.size_mm)
        covariances[side] = np.cov((np.argwhere(labels == own)[::16] * image.GetSpacing()).T)
    return frames, covariances


def read_person(path: Path, frames: dict[int, LungFrame], covariances: dict[int, _Array]) -> Person:
    """One person's equations; the transform to the reference is the identity where there is none."""
    case = path.name.removesuffix("_regionAndTypePoints.csv")
    file = next(path.parent.glob(f"{case}_TO_*_transform.tfm"), None)
    from_reference = sitk.ReadTransform(str(file)) if file else sitk.AffineTransform(3)
    to_reference = from_reference.GetInverse()
    table = read_points(path)
    world = np.array([to_reference.TransformPoint(p) for p in table[["x", "y", "z"]].to_numpy().tolist()])
    designs, heights, indices = [], [], []
    for side, names in FISSURES_OF.items():
        units = frames[side].to_unit(world)
        inside = ((units > _UNIT_RANGE[0]) & (units < _UNIT_RANGE[1])).all(axis=1)
        for name in names:
            points = units[inside & (table["fissure"] == name).to_numpy()]
            designs.append(_design(points, FISSURES.index(name)))
            heights.append(points[:, 2])
            indices.append(np.full(len(points), FISSURES.index(name)))
    matrix = np.array(from_reference.GetParameters()[:9]).reshape(3, 3)
    shape = [_log_sizes(matrix, covariances[side]) for side in (RIGHT_LUNG.id, LEFT_LUNG.id)]
    return Person(np.concatenate(designs), np.concatenate(heights), np.concatenate(indices), np.concatenate(shape))


def _design(points: _Array, fissure: int) -> _Array:
    one = splines(points[:, 0])[:, :, None] * splines(points[:, 1])[:, None, :]
    design = np.zeros((len(points), len(FISSURES), SPLINES**2))
    design[:, fissure] = one.reshape(len(points), -1)
    return design.reshape(len(points), -1)


def _log_sizes(matrix: _Array, covariance: _Array) -> _Array:
    """Log of the factors (3,) by which a linear map stretches a lung's standard deviations along the axes."""
    stretched = matrix @ covariance @ matrix.T
    return np.asarray(np.log(np.diag(stretched) / np.diag(covariance)) / 2)


def smooth_covariance(*, tilt_sd: float, bend_sd: float, bend_length: float) -> _Array:
    """Covariance (D, D) of coefficients of random planes plus random bends of a given length, fissures independent."""
    centres = spline_centres() - 0.5
    grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    square = ((grid[:, None] - grid[None]) ** 2).sum(axis=-1)
    planes = tilt_sd**2 * (1 + 4 * grid @ grid.T)
    bends = bend_sd**2 * np.exp(-square / (2 * bend_length**2))
    return np.kron(np.eye(len(FISSURES)), planes + bends + 1e-6 * np.eye(len(grid)))


@dataclass(frozen=True, eq=False)
class Estimate:
    """Result of :func:`estimate`; see the module's text.

    Attributes:
        mean, by_shape, covariance: (D,), (6, D), (D, D).
        noise: (3,) scale of the points' noise on each fissure, in frame units.
    """

    mean: _Array
    by_shape: _Array
    covariance: _Array
    noise: _Array


def estimate(people: list[Person], iterations: int = _ITERATIONS) -> Estimate:
    """Expectation maximisation over people."""
    smooth = smooth_covariance(tilt_sd=_TILT_SD, bend_sd=_BEND_SD, bend_length=_BEND_LENGTH)
    shapes = np.array([person.shape for person in people])
    shapes = shapes - shapes.mean(axis=0)
    mean = _first_mean(people)
    by_shape = np.zeros((shapes.shape[1], len(mean)))
    covariance, noise = 4 * smooth, np.full(len(FISSURES), _FIRST_NOISE)
    weights = [np.ones(len(person.heights)) for person in people]
    for _ in range(iterations):
        precision = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        centres, spread = np.zeros((len(people), len(mean))), np.zeros_like(covariance)
        squares = np.zeros(len(FISSURES))
        for i, person in enumerate(people):
            expected = mean + shapes[i] @ by_shape
            centres[i], own = _posterior(person, expected, precision, weights[i] / noise[person.fissure] ** 2)
            error = (person.heights - person.design @ centres[i]) ** 2
            error += np.einsum("nd,nd->n", person.design @ own, person.design)
            weights[i] = (_DEGREES_OF_FREEDOM + 1) / (_DEGREES_OF_FREEDOM + error / noise[person.fissure] ** 2)
            squares += np.bincount(person.fissure, weights[i] * error, len(FISSURES))
            spread += own
        mean = centres.mean(axis=0)
        by_shape = np.linalg.solve(shapes.T @ shapes + _RIDGE * np.eye(shapes.shape[1]), shapes.T @ (centres - mean))
        rest = centres - mean - shapes @ by_shape
        covariance = (spread + rest.T @ rest + _SMOOTH_PEOPLE * smooth) / (len(people) + _SMOOTH_PEOPLE)
        noise = np.sqrt(squares / np.bincount(np.concatenate([p.fissure for p in people]), minlength=len(FISSURES)))
    return Estimate(mean, by_shape, covariance, noise)


def _first_mean(people: list[Person]) -> _Array:
    """Coefficients through all people's points at once, smooth where there are none."""
    smooth = smooth_covariance(tilt_sd=0.0, bend_sd=_MEAN_SD, bend_length=_MEAN_LENGTH)
    gram = sum((p.design.T @ p.design for p in people), np.zeros_like(smooth))
    right = sum((p.design.T @ (p.heights - 0.5) for p in people), np.zeros(len(smooth)))
    return np.asarray(0.5 + np.linalg.solve(gram + _FIRST_NOISE**2 * np.linalg.inv(smooth), right))


def _posterior(person: Person, expected: _Array, precision: _Array, weights: _Array) -> tuple[_Array, _Array]:
    """Mean (D,) and covariance (D, D) of a person's coefficients, given the points."""
    weighted = person.design.T * weights
    covariance = np.asarray(np.linalg.inv(precision + weighted @ person.design), dtype=np.float64)
    return expected + covariance @ (weighted @ (person.heights - person.design @ expected)), covariance


def build(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of :class:`covsev.anatomy.lobes.fissure_model.FissureModel`."""
    frames, covariances = reference_lungs(folder / _REFERENCE)
    paths = sorted(folder.glob("*_regionAndTypePoints.csv"))
    people = [read_person(path, frames, covariances) for path in paths]
    found = estimate(people)
    values, vectors = np.linalg.eigh(found.covariance)
    modes = (vectors * np.sqrt(np.maximum(values, 0))).T[::-1][:MODES]
    share = values[::-1][:MODES].sum() / values.sum()
    print(f"{len(people)} people; {MODES} modes hold {100 * share:.1f} % of what the lungs' shape does not explain")
    for name, noise in zip(FISSURES, found.noise, strict=True):
        print(f"{name}: noise of the points {noise:.4f} of the frame's height")
    shape = (len(FISSURES), SPLINES, SPLINES)
    arrays = {
        "mean": found.mean.reshape(shape),
        "by_shape": found.by_shape.reshape(-1, *shape),
        "shape_mean": np.mean([person.shape for person in people], axis=0),
        "modes": modes.reshape(-1, *shape),
        "reference_mm": np.array([frames[side].size_mm for side in (RIGHT_LUNG.id, LEFT_LUNG.id)]),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m covsev.anatomy.lobes.build_fissure_model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    arrays = build(options.folder)
    with replacing(options.output) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
