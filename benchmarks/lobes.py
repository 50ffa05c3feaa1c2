"""How well lobes agree with traced lobe maps, the lungs being the traced ones.

    python benchmarks/lobes.py LOBE_MAPS

``LOBE_MAPS`` holds the ``*.nrrd`` of Tang et al. 2019 (arXiv 1903.09879), read at about 1.5 mm. They come without CT,
so the fissures that a scan would show are simulated on the traced borders: 30 % of the oblique and 15 % of the
horizontal fissures' points are visible, and 30 % of all points lie anywhere in the lung. Scattered: the visible points
lie all over the fissure. Patches: they fill patches of 15 mm radius, and the rest of the fissure shows nothing.

Printed for the prior alone and for both fits: Dice of each lobe; median distance of the traced to the found fissures;
and by how many percentage points the infected share of each lobe is off, in the mean over maps, for 20 synthetic
lesions of 10 to 35 mm radius at the pleura of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from covsev.anatomy.fissure_fit import Evidence, Surfaces, expected_surfaces, fit_surfaces
from covsev.anatomy.fissure_model import FISSURES_OF, LungFrame, load_fissure_model
from covsev.anatomy.lobes import divide_lungs
from covsev.labels import (
    LEFT_LOBES,
    LEFT_LOWER,
    LEFT_LUNG,
    LEFT_UPPER,
    LOBES,
    RIGHT_LOWER,
    RIGHT_LUNG,
    RIGHT_MIDDLE,
    RIGHT_UPPER,
)
from covsev.scan import from_sitk, to_canonical

TRACED_IDS = {4: RIGHT_UPPER.id, 5: RIGHT_MIDDLE.id, 6: RIGHT_LOWER.id, 7: LEFT_UPPER.id, 8: LEFT_LOWER.id}
SPACING_MM = 1.5
MAX_POINTS = 1500  # of a lung
STRAY_SHARE = 0.3
# Fissure, its visible share, and the lobes on its sides.
FISSURES = {
    LEFT_LUNG.id: [("left oblique", 0.30, [LEFT_UPPER.id], [LEFT_LOWER.id])],
    RIGHT_LUNG.id: [
        ("right oblique", 0.30, [RIGHT_UPPER.id, RIGHT_MIDDLE.id], [RIGHT_LOWER.id]),
        ("right horizontal", 0.15, [RIGHT_UPPER.id], [RIGHT_MIDDLE.id]),
    ],
}
LESIONS, LESION_RADIUS_MM = 20, (10.0, 35.0)
Labels = NDArray[np.uint8]
Points = NDArray[np.float64]


def read_map(path: Path) -> tuple[Labels, tuple[float, ...]]:
    """Traced lobes (X, Y, Z) in canonical axes, cropped to the lungs, and the spacing."""
    array, affine = from_sitk(sitk.ReadImage(str(path)))
    spacing_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    steps = [max(1, round(SPACING_MM / side)) for side in spacing_mm]
    ids = np.array([TRACED_IDS.get(number, 0) for number in range(256)], dtype=np.uint8)
    traced = to_canonical(ids[array[tuple(slice(None, None, step) for step in steps)] & 255], affine)
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(traced))
    return np.ascontiguousarray(traced[box]), tuple(spacing_mm * steps)


def border(traced: Labels, spacing_mm: tuple[float, ...], above: list[int], below: list[int]) -> Points:
    """Middles (N, 3) mm of the faces between two groups of lobes."""
    points = []
    for axis in range(3):
        first = np.take(traced, range(traced.shape[axis] - 1), axis)
        second = np.take(traced, range(1, traced.shape[axis]), axis)
        faces = np.isin(first, above) & np.isin(second, below) | np.isin(first, below) & np.isin(second, above)
        middles = np.argwhere(faces).astype(float)
        middles[:, axis] += 0.5
        points.append(middles * spacing_mm)
    return np.concatenate(points)


def visible(points: Points, share: float, patch_mm: float, draw: np.random.Generator) -> Points:
    """A share of a fissure's points, scattered, or in patches of radius ``patch_mm``."""
    if patch_mm == 0 or len(points) == 0:
        return points[draw.random(len(points)) < share]
    seen = np.zeros(len(points), dtype=bool)
    while seen.mean() < share:
        centre = points[draw.integers(len(points))]
        seen |= ((points - centre) ** 2).sum(axis=1) < patch_mm**2
    return points[seen]


def simulate(traced: Labels, spacing_mm: tuple[float, ...], patch_mm: float, seed: int) -> dict[int, Evidence]:
    """Evidence for each lung."""
    draw, evidence = np.random.default_rng(seed), {}
    for side, fissures in FISSURES.items():
        parts = [visible(border(traced, spacing_mm, a, b), share, patch_mm, draw) for _, share, a, b in fissures]
        points = np.concatenate(parts)
        points = points[draw.permutation(len(points))[:MAX_POINTS]]
        lung = np.argwhere(lungs_of(traced) == side)
        if len(lung) == 0:
            continue
        stray = round(len(points) * STRAY_SHARE / (1 - STRAY_SHARE))
        points = np.concatenate([points, lung[draw.integers(len(lung), size=stray)] * spacing_mm])
        evidence[side] = Evidence.of_points(points)
    return evidence


def lungs_of(lobes: Labels) -> Labels:
    left = np.isin(lobes, [lobe.id for lobe in LEFT_LOBES])
    return np.where(left, LEFT_LUNG.id, np.where(lobes > 0, RIGHT_LUNG.id, 0)).astype(np.uint8)


def dice(found: Labels, traced: Labels) -> list[float]:
    """Of each lobe; NaN where it is absent in both."""
    counts = np.bincount(6 * traced.ravel().astype(np.intp) + found.ravel(), minlength=36).reshape(6, 6)
    with np.errstate(invalid="ignore"):
        return [float(2 * counts[i, i] / (counts[i].sum() + counts[:, i].sum())) for i in (lobe.id for lobe in LOBES)]


def fissure_distances_mm(found: Labels, traced: Labels, spacing_mm: tuple[float, ...]) -> list[float]:
    """Median distance of each traced fissure's points to the found fissure."""
    distances = []
    for _, _, above, below in (fissure for side in FISSURES_OF for fissure in FISSURES[side]):
        mine, theirs = border(found, spacing_mm, above, below), border(traced, spacing_mm, above, below)
        both = len(mine) > 0 and len(theirs) > 0
        distances.append(float(np.median(cKDTree(mine).query(theirs)[0])) if both else np.nan)
    return distances


def infected_errors_pct(found: Labels, traced: Labels, spacing_mm: tuple[float, ...], seed: int) -> Points:
    """Mean absolute error (5,) of each lobe's infected percentage over the synthetic lesions."""
    draw, lung = np.random.default_rng(seed), np.argwhere(traced > 0) * spacing_mm
    mine, theirs = (labels[traced > 0] for labels in (found, traced))
    pleura = lung[border_voxels(traced)[traced > 0]]
    errors = []
    for _ in range(LESIONS):
        centre, radius = pleura[draw.integers(len(pleura))], draw.uniform(*LESION_RADIUS_MM)
        lesion = ((lung - centre) ** 2).sum(axis=1) < radius**2
        errors.append([abs(infected_pct(lesion, mine == b.id) - infected_pct(lesion, theirs == b.id)) for b in LOBES])
    return np.mean(errors, axis=0)


def border_voxels(traced: Labels) -> NDArray[np.bool_]:
    """Lung voxels that touch something else than lung."""
    lung = np.pad(traced > 0, 1)
    inner = np.logical_and.reduce([np.roll(lung, step, axis) for axis in range(3) for step in (-1, 1)])
    return (lung & ~inner)[1:-1, 1:-1, 1:-1]


def infected_pct(lesion: NDArray[np.bool_], lobe: NDArray[np.bool_]) -> float:
    return 100 * np.count_nonzero(lesion & lobe) / max(1, np.count_nonzero(lobe))


def surfaces_of(frames: dict[int, LungFrame], evidence: dict[int, Evidence]) -> Surfaces:
    model = load_fissure_model()
    return fit_surfaces(model, frames, evidence) if evidence else expected_surfaces(model, frames)


def rows(folder: Path, patch_mm: float | None) -> Iterator[list[float]]:
    """Dice, distances and errors of each map; ``patch_mm`` None is the prior alone."""
    for seed, path in enumerate(sorted(folder.glob("*.nrrd"))):
        traced, spacing_mm = read_map(path)
        sides = lungs_of(traced)
        frames = {side: LungFrame.around(sides == side, spacing_mm) for side in FISSURES_OF if (sides == side).any()}
        evidence = {} if patch_mm is None else simulate(traced, spacing_mm, patch_mm, seed)
        found = divide_lungs(sides, spacing_mm, surfaces_of(frames, evidence))
        errors = infected_errors_pct(found, traced, spacing_mm, seed)
        yield [*dice(found, traced), *fissure_distances_mm(found, traced, spacing_mm), *errors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    names = [fissure[0] for side in FISSURES_OF for fissure in FISSURES[side]]
    for title, patch_mm in (("prior alone", None), ("scattered points", 0.0), ("patches", 15.0)):
        table = np.array(list(rows(folder, patch_mm)))
        print(f"{title}: {len(table)} maps", flush=True)
        for i, lobe in enumerate(LOBES):
            lowest, error = np.nanmin(table[:, i]), table[:, 8 + i].mean()
            print(
                f"  {lobe.text}: Dice {np.nanmean(table[:, i]):.3f}, lowest {lowest:.3f}; infected off by {error:.2f}"
            )
        for i, name in enumerate(names):
            print(f"  {name} fissure: median distance {np.nanmedian(table[:, 5 + i]):.1f} mm")


if __name__ == "__main__":
    main()
