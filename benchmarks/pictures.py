"""Pictures of the lungs and the lobes of scans, for docs and for looking at them.

    python benchmarks/pictures.py SCAN ... -o FOLDER

``SCAN`` is a file or a DICOM folder. Writes for each scan, named after it:

- ``lungs/<scan>.png``: two axial, two coronal and two sagittal slices; right lung blue, left lung green.
- ``lobes/<scan>.png``: the right lung above, the left lung below, each in four sagittal slices from right to left, the
  front of the chest on the left, and a coronal one; the scan, and beneath it the same with the lobes' borders in red.

The lungs and lobes are those of ``covsev severity``: disease that its networks find is not searched for fissures.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from covsev.anatomy.lobes.segment import segment_lobes
from covsev.anatomy.lungs.box import lung_box
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.assessment import lung_model_for, shipped_model
from covsev.labels import LEFT_LUNG, LOBES, RIGHT_LUNG
from covsev.lesions.volume import segment_lesions
from covsev.options import Options
from covsev.scan import canonical_spacing_mm, load_scan, to_canonical

WIDE_HU, LUNG_HU = (-1150.0, 350.0), (-1000.0, -500.0)  # fissures are faint: a narrow window shows them
SIDE_COLOURS = {RIGHT_LUNG.id: (90, 150, 255), LEFT_LUNG.id: (90, 230, 120)}
RED = (255, 60, 60)
MARGIN_MM, GAP_PX = 10.0, 4
COLOURS = 64  # of a picture, a third of the bytes of all
Labels = NDArray[np.uint8]
Lines = list[tuple[NDArray[np.bool_], tuple[int, int, int]]]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Labels, and which of a slice's pixels are drawn in which colour."""

    labels: Labels
    lines: Callable[[Labels], Lines]


@dataclass(frozen=True, eq=False)
class View:
    """Volumes in canonical axes (left, back, head), cut to the lungs."""

    hu: NDArray[Any]
    sides: Labels
    lobes: Labels
    spacing_mm: tuple[float, ...]

    def tile(
        self, axis: int, level: int, window: tuple[float, float], mm_px: float, drawn: Drawn | None = None
    ) -> Image.Image:
        """One slice, seen from the feet, the front or the left; ``drawn`` is drawn into it."""
        hu = np.take(self.hu, level, axis=axis).T
        x_mm, y_mm = (side for i, side in enumerate(self.spacing_mm) if i != axis)
        low, high = window
        size = (round(hu.shape[1] * x_mm / mm_px), round(hu.shape[0] * y_mm / mm_px))
        grey = Image.fromarray((np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8))
        rgb = np.array(grey.resize(size, Image.Resampling.BILINEAR).convert("RGB"))
        if drawn is not None:
            labels = Image.fromarray(np.ascontiguousarray(np.take(drawn.labels, level, axis=axis).T))
            for mask, colour in drawn.lines(np.array(labels.resize(size, Image.Resampling.NEAREST))):
                rgb[mask] = colour
        return Image.fromarray(rgb if axis == 2 else rgb[::-1])


def outlines(labels: Labels) -> Lines:
    """The pixels of each lung that touch another label, in the lung's colour."""
    return [((labels == side) & binary_dilation(labels != side), colour) for side, colour in SIDE_COLOURS.items()]


def borders(labels: Labels) -> Lines:
    """The pixels of each lobe that touch a lobe of a larger id, in red."""
    return [((labels == lobe.id) & binary_dilation(labels > lobe.id), RED) for lobe in LOBES]


def levels_of(mask: NDArray[np.bool_], axis: int, shares: Sequence[float]) -> list[int]:
    """The slices at ``shares`` of the extent of ``mask`` along ``axis``."""
    occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = int(occupied[0]), int(occupied[-1])
    return [round(first + share * (last - first)) for share in shares]


def lungs_picture(view: View) -> Image.Image:
    """Two slices along each axis with the outlines of both lungs."""
    tiles = [
        view.tile(axis, level, WIDE_HU, 1.2, Drawn(view.sides, outlines))
        for axis, shares in ((2, (0.3, 0.65)), (1, (0.4, 0.7)), (0, (0.25, 0.75)))
        for level in levels_of(view.sides > 0, axis, shares)
    ]
    return stacked([tiles])


def lobes_picture(view: View) -> Image.Image:
    """Each lung without and with the borders of its lobes."""
    rows = []
    for side in (RIGHT_LUNG.id, LEFT_LUNG.id):
        lung = view.sides == side
        if not lung.any():
            continue
        places = [(0, level) for level in levels_of(lung, 0, (0.2, 0.4, 0.6, 0.8))]
        places.append((1, levels_of(lung, 1, (0.55,))[0]))
        divided = Drawn(np.where(lung, view.lobes, np.uint8(0)), borders)
        rows += [[view.tile(axis, level, LUNG_HU, 0.9, drawn) for axis, level in places] for drawn in (None, divided)]
    return stacked(rows)


def stacked(rows: list[list[Image.Image]]) -> Image.Image:
    """Tiles beside each other, rows below each other, on black."""
    widths = [sum(tile.width + GAP_PX for tile in row) for row in rows]
    heights = [max(tile.height for tile in row) + GAP_PX for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights)))
    for number, row in enumerate(rows):
        left, top = 0, sum(heights[:number])
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width + GAP_PX
    return sheet


def view_of(source: Path) -> tuple[str, View]:
    """The scan's name, and its lungs and lobes around the lungs."""
    scan = load_scan(source)
    lungs = segment_lungs(scan, lung_model_for(Options())).labels
    lesions = segment_lesions(scan, lungs, shipped_model(), keep_probability=False).labels
    lobes = segment_lobes(scan, lungs, lesions=lesions).labels
    hu, sides, lobes = (to_canonical(volume, scan.affine) for volume in (scan.hu, lungs, lobes))
    box = lung_box(sides, MARGIN_MM, canonical_spacing_mm(scan))
    return scan.case, View(hu[box], sides[box], lobes[box], canonical_spacing_mm(scan))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    for source in options.scans:
        case, view = view_of(source)
        for kind, picture in (("lungs", lungs_picture(view)), ("lobes", lobes_picture(view))):
            path = options.output / kind / f"{case}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            few = picture.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            few.save(path, optimize=True)
            print(path)


if __name__ == "__main__":
    main()
