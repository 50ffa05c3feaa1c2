"""One picture a scan: axial and coronal slices with lobes outlined and lesions tinted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from covsev.labels import DISCLAIMER, LESIONS, LOBES, LUNG_WINDOW_HU, Label
from covsev.scan import Scan, canonical_spacing_mm, replacing, to_canonical

_TILE_PX = 300
_AXIAL, _CORONAL = 6, 2
_COLUMNS = 4
_CAPTION_PX = 48
_TEXT_PX = 13
_LESION_OPACITY = 0.45
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

    Slices are shown as radiologists see them: the patient's right at the left, marked R, the front or the head at the
    top. Each says its number, counted from the feet (axial) or from the front (coronal), as on the page.

    Args:
        scan: the scan.
        lungs, lobes, lesions: labels on its grid; slices are chosen by the lungs.
        path: ``.png``.
        caption: first line under the picture; the disclaimer is the second.
    """
    hu, lung_map, lobe_map, lesion_map = (to_canonical(a, scan.affine) for a in (scan.hu, lungs, lobes, lesions))
    x_mm, y_mm, z_mm = canonical_spacing_mm(scan)
    axial = _levels(lung_map, lesion_map, axis=2, count=_AXIAL)
    coronal = _levels(lung_map, lesion_map, axis=1, count=_CORONAL)
    tiles = [_tile(hu[:, :, z], lobe_map[:, :, z], lesion_map[:, :, z], (x_mm, y_mm)) for z in axial]
    tiles += [_tile(hu[:, y, ::-1], lobe_map[:, y, ::-1], lesion_map[:, y, ::-1], (x_mm, z_mm)) for y in coronal]
    names = [f"axial {z + 1} of {hu.shape[2]}" for z in axial] + [f"coronal {y + 1} of {hu.shape[1]}" for y in coronal]
    picture = _sheet(tiles, names, caption)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _levels(lungs: NDArray[np.uint8], lesions: NDArray[np.uint8], *, axis: int, count: int) -> list[int]:
    """Evenly spread slices through the lungs; the nearest one is moved to where most lesion is."""
    others = tuple(a for a in range(3) if a != axis)
    occupied = np.flatnonzero((lungs > 0).any(axis=others))
    levels = np.linspace(occupied[0], occupied[-1], count + 2)[1:-1].round().astype(int)
    burden = np.count_nonzero(lesions, axis=others)
    if burden.any():
        worst = int(burden.argmax())
        levels[np.abs(levels - worst).argmin()] = worst
    return sorted(levels.tolist())


def _tile(
    hu: NDArray[Any], lobes: NDArray[np.uint8], lesions: NDArray[np.uint8], spacing_mm: tuple[float, float]
) -> Image.Image:
    """One slice (columns, rows) as an RGB square: lesions tinted, lobes outlined."""
    low, high = LUNG_WINDOW_HU
    grey = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1) * 255
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    for label in LESIONS:
        inside = lesions == label.id
        rgb[inside] = (1 - _LESION_OPACITY) * rgb[inside] + _LESION_OPACITY * np.array(label.rgb)
    for label in LOBES:
        lobe = lobes == label.id
        rgb[lobe & ~binary_erosion(lobe, border_value=1)] = label.rgb
    image = Image.fromarray(rgb.astype(np.uint8).transpose(1, 0, 2))
    width, height = (n * side for n, side in zip(hu.shape, spacing_mm, strict=True))
    scale = _TILE_PX / max(width, height)
    image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (_TILE_PX, _TILE_PX))
    square.paste(image, ((_TILE_PX - image.width) // 2, (_TILE_PX - image.height) // 2))
    return square


def _sheet(tiles: Sequence[Image.Image], names: Sequence[str], caption: str) -> Image.Image:
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE_PX, rows * _TILE_PX + _CAPTION_PX))
    draw = ImageDraw.Draw(sheet)
    draw.font = ImageFont.load_default(_TEXT_PX)
    for i, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        left, top = i % _COLUMNS * _TILE_PX, i // _COLUMNS * _TILE_PX
        sheet.paste(tile, (left, top))
        for place, text in (((left + 6, top + 4), name), ((left + 6, top + _TILE_PX // 2 - 8), "R")):
            draw.text(place, text, fill=_WHITE, stroke_width=2, stroke_fill=_BLACK)  # read on any grey
    top = rows * _TILE_PX + 5
    line = f"{caption}   {DISCLAIMER}".encode("latin-1", "replace").decode("latin-1")
    font = draw.font if line.isascii() else ImageFont.load_default_imagefont()  # which has all of Latin-1
    draw.text((8, top), line, fill=_WHITE, font=font)
    left = 8
    for label in (*LOBES, *LESIONS):
        left = _legend(draw, label, left, top + 21)
    return sheet


def _legend(draw: ImageDraw.ImageDraw, label: Label, left: int, top: int) -> int:
    draw.rectangle((left, top + 3, left + 10, top + 13), fill=label.rgb)
    draw.text((left + 15, top), label.text, fill=_WHITE)
    return left + 34 + round(draw.textlength(label.text))
