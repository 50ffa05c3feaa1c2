"""``benchmarks/pictures.py``: the pictures in the docs."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_modules import load_benchmark

from covsev.anatomy.lobes.segment import LobeSegmentation
from covsev.anatomy.lungs.segment import LungSegmentation
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.phantom import Phantom
from covsev.scan import canonical_spacing_mm, to_canonical

pictures = load_benchmark("pictures")


@pytest.fixture(scope="module")
def view(phantom: Phantom, phantom_lungs: LungSegmentation, phantom_lobes: LobeSegmentation):
    scan = phantom.scan
    maps = (to_canonical(volume, scan.affine) for volume in (scan.hu, phantom_lungs.labels, phantom_lobes.labels))
    return pictures.View(*maps, canonical_spacing_mm(scan))


def _columns(picture, colour):
    return np.flatnonzero((np.array(picture) == colour).all(axis=2).any(axis=0))


def test_an_axial_slice_is_seen_from_the_feet(view):
    level = pictures.levels_of(view.sides > 0, 2, (0.5,))[0]
    tile = view.tile(2, level, pictures.WIDE_HU, 1.2, pictures.Drawn(view.sides, pictures.outlines))
    right, left = (_columns(tile, pictures.SIDE_COLOURS[side.id]) for side in (RIGHT_LUNG, LEFT_LUNG))
    assert right.max() < left.min()  # the right lung lies on the left of the picture


@pytest.mark.parametrize("axis", [0, 1])
def test_the_head_is_above(view, axis):
    lungs = view.sides > 0
    tile = view.tile(axis, pictures.levels_of(lungs, axis, (0.3,))[0], pictures.WIDE_HU, 1.2)
    turned = pictures.View(view.hu[:, :, ::-1], view.sides, view.lobes, view.spacing_mm)
    upside_down = turned.tile(axis, pictures.levels_of(lungs, axis, (0.3,))[0], pictures.WIDE_HU, 1.2)
    assert np.array_equal(np.array(tile), np.array(upside_down)[::-1])
    assert (
        np.array(tile)[: tile.height // 4].mean() < np.array(tile)[-tile.height // 4 :].mean()
    )  # the abdomen is bright


def test_the_front_is_on_the_left_of_a_sagittal_slice(view):
    level = pictures.levels_of(view.sides > 0, 0, (0.3,))[0]
    tile = np.array(view.tile(0, level, pictures.WIDE_HU, 1.2))
    backward = pictures.View(view.hu[:, ::-1], view.sides, view.lobes, view.spacing_mm)
    assert np.array_equal(tile, np.array(backward.tile(0, level, pictures.WIDE_HU, 1.2))[:, ::-1])
    by_depth = view.hu[level].mean(axis=1)  # from the front to the back
    assert (
        np.corrcoef(
            np.interp(np.arange(tile.shape[1]), np.linspace(0, tile.shape[1], len(by_depth)), by_depth),
            tile[..., 0].mean(axis=0),
        )[0, 1]
        > 0.9
    )


def test_a_scan_with_one_lung_gets_the_rows_of_that_lung(view):
    alone = pictures.View(view.hu, np.where(view.sides == LEFT_LUNG.id, view.sides, 0), view.lobes, view.spacing_mm)
    assert pictures.lobes_picture(alone).height < pictures.lobes_picture(view).height
    assert pictures.lungs_picture(alone).width > 0


def test_lobes_are_divided_by_red_lines_in_every_second_row(view):
    picture = np.array(pictures.lobes_picture(view))
    red = (picture == pictures.RED).all(axis=2).sum(axis=1)
    rows = [part.sum() for part in np.array_split(red, 4)]
    assert rows[0] == rows[2] == 0
    assert rows[1] > 50
    assert rows[3] > 50


def test_the_outline_of_the_lungs_is_not_red(view):
    whole = np.where(view.sides > 0, np.uint8(1), np.uint8(0))
    assert not any(mask.any() for mask, _ in pictures.borders(whole[:, :, whole.shape[2] // 2]))


def test_both_pictures_are_written(tmp_path, monkeypatch, view):
    monkeypatch.setattr(pictures, "view_of", lambda source: (source.stem, view))
    monkeypatch.setattr("sys.argv", ["pictures.py", "chest.nii", "-o", str(tmp_path)])
    pictures.main()
    assert sorted(path.parent.name for path in tmp_path.rglob("chest.png")) == ["lobes", "lungs"]
