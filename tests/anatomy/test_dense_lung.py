"""Consolidation at the pleura with a flat inner edge, fluid, and chests in which nothing is to be recovered."""

from __future__ import annotations

import numpy as np
import pytest

from covsev.anatomy.lungs.chest_wall import ANGLES, REACH_MM, Rays, chest_centre, side_maps, spread
from covsev.anatomy.lungs.dense_lung import _is_fluid, _without_fat, find_dense_lung
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.scan import make_scan

SHAPE, SPACING_MM = (110, 76, 50), (3.0, 3.0, 5.0)
RIB_HU, TISSUE_HU, LUNG_HU, DENSE_HU = 400, 45, -850, 35


def chest():
    """A cage of ribs about two lungs that touch it everywhere and taper to a thin edge over the diaphragm."""
    x, y, z = (np.indices(SHAPE) * np.array(SPACING_MM)[:, None, None, None]).astype(float)
    x, y = x - 165, y - 114
    cage = np.sqrt((x / 146) ** 2 + (y / 98) ** 2)
    hu = np.where(cage < 1.13, TISSUE_HU, -1000).astype(np.int16)
    hu[(cage > 1.03) & (cage < 1.1) & (np.mod(z + 0.2 * y, 25) < 10)] = RIB_HU
    hu[np.hypot(x, y - 88) < 18] = RIB_HU
    dome = 60 + 50 * np.exp(-(((np.abs(x) - 60) / 55) ** 2) - ((y + 15) / 60) ** 2) - 35 * np.clip(cage - 0.5, 0, 1)
    apex = 225 - 60 * cage**4
    inside = (cage < 1) & (np.abs(x) > 30) & (z > dome) & (z < apex) & (np.hypot(x, y - 88) > 24)
    lungs = np.where(inside, np.where(x < 0, 1, 2), 0).astype(np.uint8)
    hu[inside] = LUNG_HU
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return (hu + noise).astype(np.int16), lungs, (x, y, z)


@pytest.fixture(scope="module")
def whole():
    return chest()


def with_part(whole, part, value=DENSE_HU):
    hu, lungs, _ = whole
    noise = np.random.default_rng(1).normal(0, 8, SHAPE)
    return np.where(part, value + noise, hu).astype(np.int16), np.where(part, 0, lungs).astype(np.uint8)


PARTS = {
    "posterior": lambda x, y, z: y > 50,
    "lateral": lambda x, y, z: np.abs(x) > 110,
    "ball": lambda x, y, z: (np.abs(x) - 110) ** 2 + (y - 30) ** 2 + (z - 130) ** 2 < 45**2,
}


def test_nothing_is_found_in_a_healthy_chest(whole):
    hu, lungs, _ = whole
    found = find_dense_lung(hu, lungs, SPACING_MM)
    assert np.count_nonzero(found.labels) < 0.002 * np.count_nonzero(lungs)
    assert found.possible_effusion_ml == 0


@pytest.mark.parametrize("shape", PARTS)
@pytest.mark.parametrize("side", [1, 2])
def test_consolidation_with_a_flat_edge_is_recovered_and_nothing_else(whole, shape, side):
    _, lungs, mm = whole
    part = (lungs == side) & PARTS[shape](*mm)
    hu, left = with_part(whole, part)
    found = find_dense_lung(hu, left, SPACING_MM)
    assert (found.labels[part] == side).mean() > 0.7
    assert np.count_nonzero((found.labels > 0) & (lungs == 0)) < 0.02 * np.count_nonzero(lungs == side)
    assert not (found.labels == 3 - side).any()


def with_base_gone(whole, side, abdomen_hu):
    """The lung cut off at a level above the dome, over an abdomen of ``abdomen_hu``."""
    _, lungs, (_, y, z) = whole
    part = (lungs == side) & (z < 120)
    changed, left = with_part(whole, part)
    under = (lungs == 0) & (changed > -100) & (changed < 200) & (z < 125) & (y < 60)
    return np.where(under, changed - TISSUE_HU + abdomen_hu, changed).astype(np.int16), left, part


@pytest.mark.parametrize("side", [1, 2])
def test_a_cut_off_base_is_recovered_where_the_density_shows_the_diaphragm(whole, side):
    hu, left, part = with_base_gone(whole, side, abdomen_hu=65)
    found = find_dense_lung(hu, left, SPACING_MM)
    lung = whole[1] == side
    assert (found.labels[part] == side).mean() > 0.6
    assert np.count_nonzero((found.labels > 0) & (whole[1] == 0)) < 0.05 * np.count_nonzero(lung)
    added_ml = np.count_nonzero(found.labels) * np.prod(SPACING_MM) / 1000
    assert found.leak_suspected_ml > 0.8 * added_ml


def test_a_cut_off_base_over_tissue_of_the_same_density_is_not_guessed(whole):
    hu, left, part = with_base_gone(whole, 1, abdomen_hu=DENSE_HU)
    found = find_dense_lung(hu, left, SPACING_MM).labels
    assert (found[part] == 1).mean() < 0.2
    assert np.count_nonzero((found > 0) & (whole[1] == 0)) < 0.005 * np.count_nonzero(whole[1] == 1)


def test_fluid_is_measured_and_is_not_lung(whole):
    _, lungs, mm = whole
    part = (lungs == 1) & PARTS["posterior"](*mm)
    hu, left = with_part(whole, part, value=5)
    found = find_dense_lung(hu, left, SPACING_MM)
    assert not found.labels.any()
    part_ml = np.count_nonzero(part) * np.prod(SPACING_MM) / 1000
    assert found.possible_effusion_ml == pytest.approx(part_ml, rel=0.25)


def test_fat_beside_the_lung_is_not_lung(whole):
    _, lungs, mm = whole
    part = (lungs == 1) & PARTS["posterior"](*mm)
    hu, left = with_part(whole, part, value=-95)
    found = find_dense_lung(hu, left, SPACING_MM)
    assert not found.labels.any()


@pytest.mark.parametrize(
    ("dense_hu", "mixed_share", "fluid"),
    [(5, 0, True), (5, 0.3, True), (30, 0, False), (30, 0.48, False), (0, 0.7, False)],
    ids=["fluid", "fluid, mixed border", "disease", "disease, its median that of fluid", "ground glass"],
)
def test_fluid_is_told_by_what_is_denser_than_fat(dense_hu, mixed_share, fluid):
    noise = np.random.default_rng(3)
    mixed = noise.random(4000) < mixed_share
    hu = np.where(mixed, noise.uniform(-300, -60, 4000), noise.normal(dense_hu, 12, 4000))
    assert _is_fluid(hu) == fluid


def with_fat_below(whole, value):
    """Nearly two thirds of the posterior part are fat, the upper third has ``value``."""
    _, lungs, mm = whole
    part = (lungs == 1) & PARTS["posterior"](*mm)
    fat = part & (mm[2] < 145)
    hu, left = with_part(whole, part, value)
    hu[fat] += -95 - value
    return hu, left, fat, part & ~fat


def test_disease_above_more_fat_stays(whole):
    hu, left, fat, disease = with_fat_below(whole, DENSE_HU)
    found = find_dense_lung(hu, left, SPACING_MM).labels
    assert (found[disease] == 1).mean() > 0.7
    assert (found[fat] == 1).mean() < 0.05


def test_fluid_above_more_fat_is_measured_and_is_not_lung(whole):
    hu, left, _, fluid = with_fat_below(whole, 5)
    found = find_dense_lung(hu, left, SPACING_MM)
    fluid_ml = np.count_nonzero(fluid) * np.prod(SPACING_MM) / 1000
    assert not found.labels.any()
    assert 0.5 * fluid_ml < found.possible_effusion_ml < 1.1 * fluid_ml


def test_only_parts_that_are_mostly_fat_lose_it():
    hu = np.full((20, 20, 20), 40)
    part = np.zeros(hu.shape, dtype=bool)
    part[2:18, 2:18, 2:18] = True
    for fat_layers, stays in ((6, True), (10, False)):
        some = hu.copy()
        some[:, :, 2 : 2 + fat_layers] = -100
        kept = _without_fat(part, some, np.zeros_like(part), (2.0, 2.0, 2.0))
        assert np.array_equal(kept, part if stays else part & (some > -50))
    airy = np.where(np.arange(20) < 11, -300, np.where(np.arange(20) < 17, -100, 40)) + np.zeros_like(hu)
    assert np.array_equal(_without_fat(part, airy, np.zeros_like(part), (2.0, 2.0, 2.0)), part)


def test_disease_of_many_densities_about_that_of_fat_is_lung(whole):
    _, lungs, mm = whole
    part = (lungs == 1) & PARTS["posterior"](*mm)
    hu, left = with_part(whole, part)
    hu[part] = np.random.default_rng(2).uniform(-340, 30, np.count_nonzero(part))
    found = find_dense_lung(hu, left, SPACING_MM)
    assert (found.labels[part] == 1).mean() > 0.7


def test_what_shape_alone_bounds_is_reported(whole):
    _, lungs, mm = whole
    part = (lungs == 1) & (mm[1] > 30)
    hu, left = with_part(whole, part)
    found = find_dense_lung(hu, left, SPACING_MM)
    added_ml = np.count_nonzero(found.labels) * np.prod(SPACING_MM) / 1000
    assert 0 < found.leak_suspected_ml < 0.6 * added_ml


def test_one_lung_alone_is_no_reason_to_find_the_other(whole):
    hu, lungs, _ = whole
    hu, left = with_part(whole, lungs == 2)
    found = find_dense_lung(hu, left, SPACING_MM)
    assert not (found.labels == 2).any()


def test_without_ribs_nothing_is_found(whole):
    _, lungs, mm = whole
    hu, left = with_part(whole, (lungs == 1) & PARTS["posterior"](*mm))
    found = find_dense_lung(np.minimum(hu, 100), left, SPACING_MM)
    assert not found.labels.any()


def test_recovered_lung_is_reported_on_the_scan_s_grid(whole):
    _, lungs, mm = whole
    part = (lungs == 2) & PARTS["posterior"](*mm)
    hu, _ = with_part(whole, part)
    scan = make_scan(hu[::-1, :, ::-1], np.diag([3.0, -3.0, -5.0, 1.0]), case="turned")
    found = segment_lungs(scan)
    labels, recovered = found.labels[::-1, :, ::-1], found.recovered_mask[::-1, :, ::-1]
    assert (labels[part] == 2).mean() > 0.75
    assert recovered[part & (labels == 2)].mean() > 0.95
    assert not recovered[labels == 0].any()
    assert found.recovered_ml == pytest.approx(np.count_nonzero(recovered) * scan.voxel_ml)


# ---- the geometry ----------------------------------------------------------------------------------------------


def test_painting_undoes_sampling():
    shape = (40, 30, 3)
    rays = Rays(shape, (2.0, 2.0, 5.0), (19.5, 14.5))
    side = np.where(np.arange(40)[:, None, None] < 20, 1, 2) * np.ones(shape, np.uint8)
    painted = np.zeros(shape, np.uint8)
    for number in (0, 1):
        along = rays.sample(side == number + 1, number, outside=False)
        assert along.shape == (ANGLES, REACH_MM, 3)
        rays.paint(painted, along, number, number + 1)
    assert (painted == side).mean() > 0.97


def test_the_chest_s_centre_is_the_spine_s_even_if_one_lung_is_missing(whole):
    hu, lungs, _ = whole
    both = chest_centre(hu, lungs, SPACING_MM)
    right_lateral_gone = np.where(np.arange(SHAPE[0])[:, None, None] < 30, 0, lungs).astype(np.uint8)
    assert chest_centre(hu, right_lateral_gone, SPACING_MM)[0] == pytest.approx(both[0], abs=1)


def test_the_wall_of_a_healthy_chest_is_where_its_lung_ends(whole):
    hu, lungs, _ = whole
    rays = Rays(hu.shape, SPACING_MM, chest_centre(hu, lungs, SPACING_MM))
    for side in side_maps(hu, lungs, rays):
        error_mm = (side.wall - side.last)[side.contact]
        assert side.contact.sum() > 500
        assert abs(np.median(error_mm)) < 1.5


def test_spread_keeps_what_is_known_and_weighs_near_values_more():
    values, known = np.zeros((1, 41)), np.zeros((1, 41), bool)
    values[0, 5], values[0, 35], known[0, [5, 35]] = 1.0, 3.0, True
    filled = spread(values, known)[0]
    assert filled[5] == pytest.approx(1, abs=0.05)
    assert filled[35] == pytest.approx(3, abs=0.05)
    assert filled[20] == pytest.approx(2, abs=0.05)
    assert filled[12] < filled[28]
    assert not spread(values, np.zeros_like(known)).any()
