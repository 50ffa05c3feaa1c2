"""How well lobes agree with traced lobe maps, the lungs being the traced ones.

    python benchmarks/lobes.py LOBE_MAPS [--workers N]

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
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from covsev.anatomy.lobes.division import divide_lungs
from covsev.anatomy.lobes.fissure_fit import Evidence, expected_surfaces, fit_surfaces
from covsev.anatomy.lobes.fissure_model import FISSURES_OF, LungFrame, load_fissure_model
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
# Radius of the patches that are visible; 0: scattered points; None: no points.
CONDITIONS = {"prior alone": None, "scattered points": 0.0, "patches": 15.0}
Labels = NDArray[np.uint8]
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TracedMap:
    """One map: lobes and lungs (X, Y, Z), the fissures' points by name, and the seed of all that is drawn for it."""

    lobes: Labels
    sides: Labels
    spacing_mm: tuple[float, ...]
    fissures: dict[str, Points]
    seed: int

    @classmethod
    def of(cls, lobes: Labels, spacing_mm: tuple[float, ...], seed: int) -> TracedMap:
        return cls(lobes, lungs_of(lobes), spacing_mm, borders(lobes, spacing_mm), seed)


def read_map(path: Path) -> tuple[Labels, tuple[float, ...]]:
    """Traced lobes (X, Y, Z) in canonical axes, cropped to the lungs, and the spacing."""
    array, affine = from_sitk(sitk.ReadImage(str(path)))
    spacing_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    steps = [max(1, round(SPACING_MM / side)) for side in spacing_mm]
    ids = np.array([TRACED_IDS.get(number, 0) for number in range(256)], dtype=np.uint8)
    traced = to_canonical(ids[array[tuple(slice(None, None, step) for step in steps)] & 255], affine)
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(traced))
    return np.ascontiguousarray(traced[box]), tuple(spacing_mm * steps)


def border(lobes: Labels, spacing_mm: tuple[float, ...], above: list[int], below: list[int]) -> Points:
    """Middles (N, 3) mm of the faces between two groups of lobes."""
    group = np.zeros(len(LOBES) + 1, dtype=np.int8)
    group[above], group[below] = 1, -1
    points, grouped = [], group[lobes]
    for axis in range(3):
        line = np.moveaxis(grouped, axis, 0)
        middles = np.argwhere(np.moveaxis(line[1:] * line[:-1] < 0, 0, axis)).astype(float)
        middles[:, axis] += 0.5
        points.append(middles * spacing_mm)
    return np.concatenate(points)


def borders(lobes: Labels, spacing_mm: tuple[float, ...]) -> dict[str, Points]:
    """Points (N, 3) mm of each fissure, by its name."""
    return {
        name: border(lobes, spacing_mm, above, below)
        for side in FISSURES_OF
        for name, _, above, below in FISSURES[side]
    }


def visible(points: Points, share: float, patch_mm: float, draw: np.random.Generator) -> Points:
    """A share of a fissure's points, scattered, or in patches of radius ``patch_mm``."""
    if patch_mm == 0 or len(points) == 0:
        return points[draw.random(len(points)) < share]
    seen = np.zeros(len(points), dtype=bool)
    while seen.mean() < share:
        centre = points[draw.integers(len(points))]
        seen |= ((points - centre) ** 2).sum(axis=1) < patch_mm**2
    return points[seen]


def simulate(traced: TracedMap, patch_mm: float) -> dict[int, Evidence]:
    """Evidence for each lung."""
    draw, evidence = np.random.default_rng(traced.seed), {}
    for side, fissures in FISSURES.items():
        parts = [visible(traced.fissures[name], share, patch_mm, draw) for name, share, _, _ in fissures]
        points = np.concatenate(parts)
        points = points[draw.permutation(len(points))[:MAX_POINTS]]
        lung = np.argwhere(traced.sides == side)
        if len(lung) == 0:
            continue
        stray = round(len(points) * STRAY_SHARE / (1 - STRAY_SHARE))
        strays = lung[draw.integers(len(lung), size=stray)] * traced.spacing_mm
        evidence[side] = Evidence.of_points(np.concatenate([points, strays]))
    return evidence


def lungs_of(lobes: Labels) -> Labels:
    left = np.isin(lobes, [lobe.id for lobe in LEFT_LOBES])
    return np.where(left, LEFT_LUNG.id, np.where(lobes > 0, RIGHT_LUNG.id, 0)).astype(np.uint8)


def dice(found: Labels, traced: Labels) -> list[float]:
    """Of each lobe; NaN where it is absent in both."""
    counts = np.bincount(6 * traced.ravel().astype(np.intp) + found.ravel(), minlength=36).reshape(6, 6)
    with np.errstate(invalid="ignore"):
        return [float(2 * counts[i, i] / (counts[i].sum() + counts[:, i].sum())) for i in (lobe.id for lobe in LOBES)]


def fissure_distances_mm(found: Labels, traced: TracedMap) -> list[float]:
    """Median distance of each traced fissure's points to the found fissure; NaN where either is absent."""
    distances = []
    for name, mine in borders(found, traced.spacing_mm).items():
        theirs = traced.fissures[name]
        both = len(mine) > 0 and len(theirs) > 0
        distances.append(float(np.median(cKDTree(mine).query(theirs)[0])) if both else np.nan)
    return distances


def infected_errors_pct(found: Labels, traced: TracedMap) -> Points:
    """Mean absolute error (5,) of each lobe's infected percentage over the synthetic lesions."""
    draw, inside = np.random.default_rng(traced.seed), traced.lobes > 0
    lung = np.argwhere(inside) * traced.spacing_mm
    mine, theirs = found[inside], traced.lobes[inside]
    pleura = lung[border_voxels(traced.lobes)[inside]]
    errors = []
    for _ in range(LESIONS):
        centre, radius = pleura[draw.integers(len(pleura))], draw.uniform(*LESION_RADIUS_MM)
        lesion = ((lung - centre) ** 2).sum(axis=1) < radius**2
        errors.append(np.abs(infected_pct(lesion, mine) - infected_pct(lesion, theirs)))
    return np.mean(errors, axis=0)


def border_voxels(traced: Labels) -> NDArray[np.bool_]:
    """Lung voxels that touch something else than lung."""
    lung = np.pad(traced > 0, 1)
    inner = np.logical_and.reduce([np.roll(lung, step, axis) for axis in range(3) for step in (-1, 1)])
    return (lung & ~inner)[1:-1, 1:-1, 1:-1]


def infected_pct(lesion: NDArray[np.bool_], lobes: Labels) -> Points:
    """Percentage (5,) of each lobe's voxels that are lesion; 0 where a lobe is absent."""
    sizes, infected = (np.bincount(some, minlength=len(LOBES) + 1)[1:] for some in (lobes, lobes[lesion]))
    return 100 * infected / np.maximum(1, sizes)


def measure(found: Labels, traced: TracedMap) -> list[float]:
    """Dice of each lobe, distance of each fissure and error of each lobe's infected percentage."""
    return [
        *dice(found, traced.lobes),
        *fissure_distances_mm(found, traced),
        *infected_errors_pct(found, traced),
    ]


def measure_map(seed: int, path: Path) -> list[list[float]]:
    """What :func:`measure` says of one map, for each of ``CONDITIONS``."""
    traced = TracedMap.of(*read_map(path), seed)
    frames = {
        side: LungFrame.around(traced.sides == side, traced.spacing_mm)
        for side in FISSURES_OF
        if (traced.sides == side).any()
    }
    model, rows = load_fissure_model(), []
    for patch_mm in CONDITIONS.values():
        evidence = {} if patch_mm is None else simulate(traced, patch_mm)
        surfaces = fit_surfaces(model, frames, evidence) if evidence else expected_surfaces(model, frames)
        rows.append(measure(divide_lungs(traced.sides, traced.spacing_mm, surfaces), traced))
    return rows


def measure_maps(folder: Path, workers: int) -> Points:
    """(maps, conditions, 13) over all maps, by processes of one thread each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = sorted(folder.glob("*.nrrd"))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return np.array(list(pool.map(measure_map, range(len(paths)), paths)))


def describe(table: Points) -> str:
    """Markdown table of one condition's (maps, 13) values."""
    count, names = len(LOBES), [name for side in FISSURES_OF for name, *_ in FISSURES[side]]
    scores, distances_mm, errors = np.split(table, [count, count + len(names)], axis=1)
    lines = [
        ["", *(lobe.text for lobe in LOBES)],
        ["---"] * (count + 1),
        ["Dice, mean", *(f"{value:.3f}" for value in np.nanmean(scores, axis=0))],
        ["Dice, lowest", *(f"{value:.3f}" for value in np.nanmin(scores, axis=0))],
        ["infected share off by, points", *(f"{value:.2f}" for value in errors.mean(axis=0))],
    ]
    medians = zip(names, np.nanmedian(distances_mm, axis=0), strict=True)
    return "\n".join(
        [
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            "Median distance: " + ", ".join(f"{name} {value:.1f} mm" for name, value in medians) + ".",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args()
    tables = measure_maps(options.folder, options.workers)
    for i, title in enumerate(CONDITIONS):
        print(f"{title}, {len(tables)} maps\n\n{describe(tables[:, i])}\n")


if __name__ == "__main__":
    main()
