"""Make ``fissure_model.npz``, a statistical model of the fissures of 100 people in the frames of their lungs.

    python -m covsev.anatomy.lobes.build_fissure_model FISSURE_POINTS covsev/anatomy/lobes/fissure_model.npz

``FISSURE_POINTS`` is the folder ``Resources/LungLobeAtlasData`` of the Chest Imaging Platform
(acil-bwh/ChestImagingPlatform, BSD-style licence). It holds hand-placed points on the fissures of 100 chest CTs, an
affine transform between each person and a reference, and the reference's lung mask. The numbers made here are
statistics over people. The points themselves are not part of covsev.

A person's lungs are known only as the affine image of the reference's. So the points are brought to the reference, into
the frames of its lungs. The sizes that the affine gives the frames are the person's lung shape.

The model: the spline coefficients c of a person with lung shape s are normal, c ~ N(mean + A s, C). The heights of the
points are the splines at their places, with Student's t noise, since some points are misplaced. Expectation
maximisation finds mean, A, C and the noise. People need not have points everywhere. C is pulled to smooth surfaces.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from covsev.anatomy.lobes.fissure_model import (
    FISSURES,
    FISSURES_OF,
    SPLINE_DOMAIN,
    SPLINES,
    LungFrame,
    spline_centres,
    splines,
)
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.scan import from_sitk, replacing, to_canonical

MODES = 12
"""Number of modes that are kept. They hold 96 % of what the lungs' shape does not explain (docs/lobes.md)."""
_REFERENCE = "10002K_INSP_STD_BWH_COPD_leftLungRightLung.nrrd"
_REFERENCE_SIDES = {2: RIGHT_LUNG.id, 3: LEFT_LUNG.id}  # the reference's own label ids
_UNIT_RANGE = SPLINE_DOMAIN  # points outside are misplaced or of the other lung
_ITERATIONS = 20
# Of Student's t: the fewer, the less a misplaced point counts. With many it would draw surfaces as normal noise does.
_DEGREES_OF_FREEDOM = 3.0
_FIRST_NOISE = 0.02  # of the frame's height, about 5 mm; each iteration estimates it anew
# The smooth covariance: standard deviations of random planes and of bends, and the length of a bend, in frame units. It
# counts as much as so many people. 100 people do not determine the covariance of 192 coefficients: without it, the
# modes would be rough where few points are. It was chosen among ten settings with traced maps in view (docs/lobes.md).
_TILT_SD, _BEND_SD, _BEND_LENGTH = 0.06, 0.03, 0.6
_SMOOTH_PEOPLE = 30.0
# The same for the first mean. It is wide, so that the points decide wherever there are any.
_MEAN_SD, _MEAN_LENGTH = 0.5, 0.5
_RIDGE = 0.3  # pulls the change by lung shape towards none: sizes of lungs go together, and cannot be told apart well
_FIRST_SPREAD = 4  # the first covariance, in smooth ones: wide, so that people may differ before it is known how much
_JITTER = 1e-6  # added to a covariance's diagonal: planes and long bends alone would leave it singular
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
    """Frames, in the LPS+ world, and covariances (3, 3) mm2 of the reference's lungs, by lung id.

    Args:
        path: of the reference's lung mask.
    """
    image = sitk.ReadImage(str(path))
    array, affine = from_sitk(image)
    labels = to_canonical(array, affine)
    frames, covariances = {}, {}
    for own, side in _REFERENCE_SIDES.items():
        frame = LungFrame.around(labels == own, image.GetSpacing())
        frames[side] = LungFrame(frame.centre_mm + image.GetOrigin(), frame.size_mm)
        places_mm = np.argwhere(labels == own)[::16] * image.GetSpacing()  # every 16th voxel is plenty for a covariance
        covariances[side] = np.cov(places_mm.T)
    return frames, covariances


def read_person(path: Path, frames: dict[int, LungFrame], covariances: dict[int, _Array]) -> Person:
    """One person's equations.

    Args:
        path: of the person's points. The transform to the reference is the file beside it that is named after the case;
            where there is none, it is the identity.
        frames, covariances: from :func:`reference_lungs`.
    """
    case = path.name.removesuffix("_regionAndTypePoints.csv")
    file = next(path.parent.glob(f"{case}_TO_*_transform.tfm"), None)
    from_reference = sitk.ReadTransform(str(file)) if file else sitk.AffineTransform(3)
    to_reference = from_reference.GetInverse()
    table = read_points(path)
    points_mm = table[["x", "y", "z"]].to_numpy().tolist()
    world = np.array([to_reference.TransformPoint(point_mm) for point_mm in points_mm])
    designs, heights, indices = [], [], []
    for side, names in FISSURES_OF.items():
        units = frames[side].to_unit(world)
        above, below = units > _UNIT_RANGE[0], units < _UNIT_RANGE[1]
        inside = (above & below).all(axis=1)
        for name in names:
            points = units[inside & (table["fissure"] == name).to_numpy()]
            designs.append(_design(points, FISSURES.index(name)))
            heights.append(points[:, 2])
            indices.append(np.full(len(points), FISSURES.index(name)))
    # An affine's first nine parameters are its matrix; where it moves the lungs is no part of their shape.
    matrix = np.array(from_reference.GetParameters()[:9]).reshape(3, 3)
    shape = [_log_sizes(matrix, covariances[side]) for side in (RIGHT_LUNG.id, LEFT_LUNG.id)]
    parts = (designs, heights, indices, shape)
    return Person(*(np.concatenate(part) for part in parts))


def _design(points: _Array, fissure: int) -> _Array:
    """Values (N, 3 x 8 x 8) of all fissures' splines at points (N, 3) of one fissure; those of the others are 0."""
    along_x, along_y = splines(points[:, 0]), splines(points[:, 1])
    one = along_x[:, :, None] * along_y[:, None, :]
    design = np.zeros((len(points), len(FISSURES), SPLINES**2))
    design[:, fissure] = one.reshape(len(points), -1)
    return design.reshape(len(points), -1)


def _log_sizes(matrix: _Array, covariance: _Array) -> _Array:
    """Log of the factors (3,) by which a linear map stretches a lung's standard deviations along the axes."""
    stretched = matrix @ covariance @ matrix.T
    ratios = np.diag(stretched) / np.diag(covariance)
    return np.asarray(np.log(ratios) / 2)  # half the logarithm: of variances, it is that of standard deviations


def smooth_covariance(*, tilt_sd: float, bend_sd: float, bend_length: float) -> _Array:
    """Covariance (D, D) of the coefficients of random smooth surfaces: planes plus bends. Fissures are independent.

    Args:
        tilt_sd: standard deviation of a plane's height in the middle of the frame, and of what its tilt along x or y
            adds at the frame's ends.
        bend_sd: standard deviation of the bends.
        bend_length: distance over which heights are bent alike, in frame units.
    """
    centres = spline_centres() - 0.5
    grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    apart = grid[:, None] - grid[None]
    square = (apart**2).sum(axis=-1)
    planes = tilt_sd**2 * (1 + 4 * grid @ grid.T)
    width2 = 2 * bend_length**2
    bends = bend_sd**2 * np.exp(-square / width2)
    one = planes + bends + _JITTER * np.eye(len(grid))
    return np.kron(np.eye(len(FISSURES)), one)


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
    covariance, noise = _FIRST_SPREAD * smooth, np.full(len(FISSURES), _FIRST_NOISE)
    weights = [np.ones(len(person.heights)) for person in people]
    counts = np.bincount(np.concatenate([p.fissure for p in people]), minlength=len(FISSURES))
    for _ in range(iterations):
        # Expectation: each person's coefficients, and what they say of the noise and of each point's trust.
        precision = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        centres, spread = np.zeros((len(people), len(mean))), np.zeros_like(covariance)
        squares = np.zeros(len(FISSURES))
        for i, person in enumerate(people):
            expected, noise2 = mean + shapes[i] @ by_shape, noise[person.fissure] ** 2
            centres[i], own = _posterior(person, expected, precision, weights[i] / noise2)
            error = (person.heights - person.design @ centres[i]) ** 2
            # The coefficients are not known exactly, which adds to the error that is expected.
            error += np.einsum("nd,nd->n", person.design @ own, person.design)
            weights[i] = (_DEGREES_OF_FREEDOM + 1) / (_DEGREES_OF_FREEDOM + error / noise2)
            squares += np.bincount(person.fissure, weights[i] * error, len(FISSURES))
            spread += own
        # Maximisation: the parameters that make these coefficients most probable.
        mean = centres.mean(axis=0)
        gram = shapes.T @ shapes + _RIDGE * np.eye(shapes.shape[1])
        by_shape = np.linalg.solve(gram, shapes.T @ (centres - mean))
        rest = centres - mean - shapes @ by_shape
        pulled = spread + rest.T @ rest + _SMOOTH_PEOPLE * smooth
        covariance = pulled / (len(people) + _SMOOTH_PEOPLE)
        noise = np.sqrt(squares / counts)
    return Estimate(mean, by_shape, covariance, noise)


def _first_mean(people: list[Person]) -> _Array:
    """Coefficients through all people's points at once, smooth where there are none."""
    smooth = smooth_covariance(tilt_sd=0.0, bend_sd=_MEAN_SD, bend_length=_MEAN_LENGTH)
    gram = sum((p.design.T @ p.design for p in people), np.zeros_like(smooth))
    # Heights are taken from the frame's middle, to which the mean falls back where there are no points.
    by_people = (person.design.T @ (person.heights - 0.5) for person in people)
    right = sum(by_people, np.zeros(len(smooth)))
    matrix = gram + _FIRST_NOISE**2 * np.linalg.inv(smooth)
    return np.asarray(0.5 + np.linalg.solve(matrix, right))


def _posterior(person: Person, expected: _Array, precision: _Array, weights: _Array) -> tuple[_Array, _Array]:
    """Mean (D,) and covariance (D, D) of a person's coefficients, given the points."""
    weighted = person.design.T * weights
    covariance = np.asarray(np.linalg.inv(precision + weighted @ person.design), dtype=np.float64)
    surprise = person.heights - person.design @ expected
    return expected + covariance @ (weighted @ surprise), covariance


def build(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of :class:`covsev.anatomy.lobes.fissure_model.FissureModel`."""
    frames, covariances = reference_lungs(folder / _REFERENCE)
    paths = sorted(folder.glob("*_regionAndTypePoints.csv"))
    people = [read_person(path, frames, covariances) for path in paths]
    found = estimate(people)
    # The eigenvectors of the covariance, one standard deviation long. Rounding may bring the smallest values below 0.
    values, vectors = np.linalg.eigh(found.covariance)
    scaled = vectors * np.sqrt(np.maximum(values, 0))
    modes = scaled.T[::-1][:MODES]  # eigh sorts from the smallest
    largest = values[::-1][:MODES]
    share = largest.sum() / values.sum()
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
    return {name: array.astype(np.float32) for name, array in arrays.items()}  # half the size, and precise enough


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
