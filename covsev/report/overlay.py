"""One picture a scan: axial and coronal slices with lobes outlined and lesions tinted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from covsev.labels import DISCLAIMER, LESIONS, LOBES, Label
from covsev.report.views import lung_grey, move_to_worst
from covsev.scan import Scan, canonical_spacing_mm, replacing, to_canonical
from covsev.scan.boxes import occupied

_TILE_PX = 300
"""Side of the square that each slice is fitted into."""
_AXIAL, _CORONAL = 6, 2
_COLUMNS = 4
"""Tiles in a row. The eight slices fill two rows, without a gap."""
_CAPTION_PX = 48
"""Height of the strip below the tiles. It holds two lines: the caption with the disclaimer, and the legend."""
_TEXT_PX = 13
_LESION_OPACITY = 0.45
"""Part of the label's colour in a lesion's pixels. The rest is CT, so that the density can still be seen."""
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def write_overlay(
    scan: Scan,
    lungs: NDArray[np.uint8],
    lobes: NDArray[np.uint8],
    lesions: NDArray[np.uint8],
    path: Path,
    *,
    caption: str,
) -> None:
    """Write a PNG of axial slices, the one with most lesion among them, and coronal slices.

    Slices are shown as radiologists see them. The patient's right is at the left, marked R. The front or the head is
    at the top. Each slice says its number, counted from the feet (axial) or from the front (coronal), as on the page.

    Args:
        scan: the scan.
        lungs, lobes, lesions: labels on its grid. The lungs choose the slices.
        path: ``.png``.
        caption: first words of the line under the picture. The disclaimer follows.
    """
    hu, lung_map, lobe_map, lesion_map = (to_canonical(a, scan.affine) for a in (scan.hu, lungs, lobes, lesions))
    shown = (hu, lobe_map, lesion_map)
    x_mm, y_mm, z_mm = canonical_spacing_mm(scan)
    axial = _levels(lung_map, lesion_map, axis=2, count=_AXIAL)
    coronal = _levels(lung_map, lesion_map, axis=1, count=_CORONAL)
    axial_slices = [[volume[:, :, z] for volume in shown] for z in axial]
    # z grows to the head and a picture's rows grow downwards: reversed, the head is at the top.
    coronal_slices = [[volume[:, y, ::-1] for volume in shown] for y in coronal]
    tiles = [_tile(*arrays, spacing_mm=(x_mm, y_mm)) for arrays in axial_slices]
    tiles += [_tile(*arrays, spacing_mm=(x_mm, z_mm)) for arrays in coronal_slices]
    names = [f"axial {z + 1} of {hu.shape[2]}" for z in axial]
    names += [f"coronal {y + 1} of {hu.shape[1]}" for y in coronal]
    picture = _sheet(tiles, names, caption)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _levels(lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], *, axis: int, count: int) -> list[int]:
    """Evenly spread slices through the lungs, the one with most lesion among them."""
    with_lung = occupied(lungs, axis)
    spread = np.linspace(with_lung[0], with_lung[-1], count + 2)
    # Without the first and the last: these only touch the ends of the lungs.
    levels = spread[1:-1].round().astype(int)
    move_to_worst(levels, lesions, axis)
    return sorted(levels.tolist())


def _tile(
    hu: NDArray[Any], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8], *, spacing_mm: tuple[float, float]
) -> Image.Image:
    """One slice (columns, rows) as an RGB square: lesions tinted, lobes outlined."""
    rgb = np.repeat(lung_grey(hu)[:, :, None], 3, axis=2)
    for label in LESIONS:
        inside = lesions == label.id
        tint = _LESION_OPACITY * np.array(label.rgb)
        rgb[inside] = (1 - _LESION_OPACITY) * rgb[inside] + tint
    # Outlines after the tint, so that a lesion does not cover the border of its lobe.
    for label in LOBES:
        lobe = lobes == label.id
        # Beyond the slice counts as lobe: no line along an edge of the picture that cuts a lobe.
        inner = binary_erosion(lobe, border_value=1)
        rgb[lobe & ~inner] = label.rgb
    image = Image.fromarray(rgb.astype(np.uint8).transpose(1, 0, 2))  # Pillow wants rows first
    return _fitted(image, spacing_mm)


def _fitted(image: Image.Image, spacing_mm: tuple[float, float]) -> Image.Image:
    """A slice in the middle of a black square, in its true proportions."""
    sizes_mm = [pixels * side_mm for pixels, side_mm in zip(image.size, spacing_mm, strict=True)]
    scale = _TILE_PX / max(sizes_mm)
    # At least one pixel, also of a scan with one thin row.
    width, height = (max(1, round(size_mm * scale)) for size_mm in sizes_mm)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (_TILE_PX, _TILE_PX))
    left, top = (_TILE_PX - width) // 2, (_TILE_PX - height) // 2
    square.paste(image, (left, top))
    return square


def _sheet(tiles: Sequence[Image.Image], names: Sequence[str], caption: str) -> Image.Image:
    rows = -(-len(tiles) // _COLUMNS)  # rounded up
    sheet = Image.new("RGB", (_COLUMNS * _TILE_PX, rows * _TILE_PX + _CAPTION_PX))
    draw = ImageDraw.Draw(sheet)
    draw.font = ImageFont.load_default(_TEXT_PX)
    for i, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        row, column = divmod(i, _COLUMNS)
        left, top = column * _TILE_PX, row * _TILE_PX
        sheet.paste(tile, (left, top))
        _mark(draw, (left + 6, top + 4), name)
        middle = top + _TILE_PX // 2
        _mark(draw, (left + 6, middle - 8), "R")
    top = rows * _TILE_PX + 5
    # Case names may hold any character. What Pillow's own fonts lack becomes a question mark.
    line = f"{caption}   {DISCLAIMER}".encode("latin-1", "replace").decode("latin-1")
    font = draw.font if line.isascii() else ImageFont.load_default_imagefont()  # which has all of Latin-1
    draw.text((8, top), line, fill=_WHITE, font=font)
    left = 8
    for label in (*LOBES, *LESIONS):
        left = _legend(draw, label, left, top + 21)
    return sheet


def _mark(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Write white with a black edge, which can be read on any grey."""
    draw.text(place, text, fill=_WHITE, stroke_width=2, stroke_fill=_BLACK)


def _legend(draw: ImageDraw.ImageDraw, label: Label, left: int, top: int) -> int:
    """Draw a label's colour and text; returns where the next label begins."""
    draw.rectangle((left, top + 3, left + 10, top + 13), fill=label.rgb)
    draw.text((left + 15, top), label.text, fill=_WHITE)
    return left + 34 + round(draw.textlength(label.text))
