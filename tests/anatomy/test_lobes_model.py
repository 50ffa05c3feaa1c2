"""The fissure model, the fit to points, the search and the sheets, each on small cases of known truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covsev.anatomy.lobes import fissure_finding
from covsev.anatomy.lobes.fissure_fit import (
    Evidence,
    Surfaces,
    expected_surfaces,
    fit_surfaces,
    lung_of,
    surfaces_through,
)
from covsev.anatomy.lobes.fissure_model import (
    FISSURES,
    SPLINES,
    LungFrame,
    load_fissure_model,
    spline_centres,
    splines,
)
from covsev.anatomy.lobes.fissure_search import search_modes
from covsev.anatomy.lobes.fissureness import (
    TILTS,
    WIDE_STRIDE,
    find_sheets,
    large_sheets,
    sheet_contrast,
    support,
    unfold,
)
from covsev.labels import RIGHT_LOWER, RIGHT_LUNG, RIGHT_MIDDLE

FRAMES = {
    1: LungFrame(np.array([90.0, 100.0, 120.0]), np.array([105.0, 160.0, 240.0])),
    2: LungFrame(np.array([230.0, 100.0, 120.0]), np.array([100.0, 155.0, 235.0])),
}


def brick(shape, *limits):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*limit) for limit in limits)] = True
    return mask


# ---- frames ----------------------------------------------------------------------------------------------------


def test_frame_of_a_brick_has_its_middle_and_spread():
    frame = LungFrame.around(brick((20, 20, 20), (2, 12), (5, 9), (0, 20)), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(frame.centre_mm, (6.5, 13, 28.5))
    expected = [4 * side * np.sqrt((n**2 - 1) / 12) for side, n in ((1, 10), (2, 4), (3, 20))]
    np.testing.assert_allclose(frame.size_mm, expected)


def test_a_spur_hardly_moves_the_frame():
    mask = brick((60, 20, 20), (20, 30), (5, 15), (5, 15))
    expected = LungFrame.around(mask, (1.0, 1.0, 1.0))
    mask[30:34, 10, 10] = True
    np.testing.assert_allclose(LungFrame.around(mask, (1.0, 1.0, 1.0)).size_mm, expected.size_mm, rtol=0.06)


def test_a_flat_mask_has_a_frame_of_finite_size():
    frame = LungFrame.around(brick((9, 9, 9), (4, 5), (4, 5), (4, 5)), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(frame.size_mm, (2, 4, 6))


def test_frame_coordinates_and_millimetres_undo_each_other():
    frame = LungFrame(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    points = np.array([[1.0, 2.0, 3.0], [3.0, 4.5, 6.0]])
    unit = frame.to_unit(points)
    np.testing.assert_allclose(unit, [[0.5, 0.5, 0.5], [1, 1, 1]])
    np.testing.assert_allclose(frame.height_mm(unit[:, 2]), points[:, 2])
    np.testing.assert_allclose(frame.axis_to_unit(points[:, 1], 1), unit[:, 1])


# ---- splines -----------------------------------------------------------------------------------------------------


@given(st.floats(-0.15, 1.149))
def test_splines_sum_to_one_and_reproduce_lines(place):
    values = splines(np.array([place]))
    assert values.shape == (1, SPLINES)
    assert values.sum() == pytest.approx(1)
    assert (values @ spline_centres())[0] == pytest.approx(place, abs=1e-9)
    assert (splines(np.array([place]), derivative=1) @ spline_centres())[0] == pytest.approx(1)


def test_beyond_their_domain_splines_stay_as_at_its_end():
    np.testing.assert_allclose(splines(np.array([9.0])), splines(np.array([1.15])))


# ---- the model ---------------------------------------------------------------------------------------------------


def test_the_shipped_model_is_sound():
    model = load_fissure_model()
    assert model.mean.shape == (3, SPLINES, SPLINES)
    assert model.modes.shape == (12, 3, SPLINES, SPLINES)
    assert model.by_shape.shape == (6, 3, SPLINES, SPLINES)
    for array in vars(model).values():
        assert np.isfinite(array).all()


@pytest.mark.parametrize("fissure", ["left_oblique", "right_oblique"])
def test_oblique_fissures_climb_to_the_back(fissure):
    frame = FRAMES[lung_of(fissure)]
    y = np.array([0.2, 0.8]) * frame.size_mm[1] + frame.centre_mm[1] - frame.size_mm[1] / 2
    front, back = expected_surfaces(load_fissure_model(), FRAMES).height_mm(fissure, frame.centre_mm[:1], y)[0]
    assert back > front + 40


def test_a_missing_lung_is_taken_as_its_pair_and_no_lung_is_refused():
    model = load_fissure_model()
    both = model.shape_of({1: FRAMES[1], 2: FRAMES[1]})
    np.testing.assert_allclose(model.shape_of({1: FRAMES[1]}), both)
    with pytest.raises(ValueError, match="frames is empty"):
        model.shape_of({})


# ---- the fit -----------------------------------------------------------------------------------------------------


def truth_and_points(seed, number=300):
    """Surfaces two modes away from the expected ones, and points on them."""
    model = load_fissure_model()
    weights = np.zeros(len(model.modes))
    weights[:3] = 1.2, -1.0, 0.8
    truth = Surfaces(FRAMES, model.expected(FRAMES) + np.tensordot(weights, model.modes, axes=1), {})
    draw, evidence = np.random.default_rng(seed), {}
    for side, names in ((1, FISSURES[1:]), (2, FISSURES[:1])):
        parts = []
        for name in names:
            xy = FRAMES[side].centre_mm[:2] + draw.uniform(-0.35, 0.35, (number, 2)) * FRAMES[side].size_mm[:2]
            heights = [truth.height_mm(name, x[None], y[None])[0, 0] for x, y in xy]
            parts.append(np.column_stack([xy, heights]))
        above = truth.height_mm("right_oblique", parts[-1][:, 0], parts[-1][:, 1]).diagonal() < parts[-1][:, 2]
        parts[-1] = parts[-1][above] if side == 1 else parts[-1]
        evidence[side] = np.concatenate(parts)
    return model, truth, evidence


def errors_mm(found, truth, fissure):
    frame = FRAMES[lung_of(fissure)]
    x, y = (frame.centre_mm[a] + np.linspace(-0.3, 0.3, 9) * frame.size_mm[a] for a in (0, 1))
    return np.abs(found.height_mm(fissure, x, y) - truth.height_mm(fissure, x, y))


def test_the_fit_finds_surfaces_among_strays():
    model, truth, points = truth_and_points(0)
    draw = np.random.default_rng(1)
    evidence = {}
    for side, own in points.items():
        stray = FRAMES[side].centre_mm + draw.uniform(-0.5, 0.5, (len(own) // 2, 3)) * FRAMES[side].size_mm
        evidence[side] = Evidence.of_points(np.concatenate([own, stray]))
    found = fit_surfaces(model, FRAMES, evidence)
    for name in FISSURES[:2]:
        assert (
            np.median(errors_mm(found, truth, name))
            < 1.5
            < np.median(errors_mm(expected_surfaces(model, FRAMES), truth, name))
        )
    belonging = found.belonging["left_oblique"]
    own = len(points[2])
    assert belonging[:own].mean() > 0.7 > 0.3 > belonging[own:].mean()


def test_points_whose_normals_disagree_hardly_count():
    model, _, points = truth_and_points(0, number=100)
    sideways = np.tile([1.0, 0.0, 0.0], (len(points[2]), 1))
    odd = Evidence(points[2], sideways, np.ones(len(points[2])))
    found, blind = (fit_surfaces(model, FRAMES, {2: part}) for part in (odd, Evidence.of_points(points[2])))
    assert found.belonging["left_oblique"].mean() < 0.5 * blind.belonging["left_oblique"].mean()


def test_without_points_the_fit_is_the_expected_surface():
    model = load_fissure_model()
    found = fit_surfaces(model, FRAMES, {2: Evidence.of_points(np.zeros((0, 3)))})
    for name in FISSURES:
        assert errors_mm(found, expected_surfaces(model, FRAMES), name).max() < 1e-6


def test_surfaces_through_points_pass_near_them_and_leave_the_other_fissures():
    model, truth, points = truth_and_points(0)
    found = surfaces_through(model, FRAMES, {"left_oblique": points[2][:60]})
    assert np.median(errors_mm(found, truth, "left_oblique")) < 2
    assert errors_mm(found, expected_surfaces(model, FRAMES), "right_oblique").max() < 1e-6


def test_moved_surfaces_are_as_high_above_the_moved_lung():
    surfaces = expected_surfaces(load_fissure_model(), FRAMES)
    moved = surfaces.moved(np.array([3.0, -2.0, 5.0]))
    places = np.array([80.0, 95.0])
    heights = surfaces.height_mm("right_oblique", places, places)
    np.testing.assert_allclose(moved.height_mm("right_oblique", places + 3, places - 2), heights + 5)


def test_evidence_is_thinned_evenly_and_nothing_can_be_joined():
    many = Evidence.of_points(np.arange(30.0).reshape(10, 3))
    np.testing.assert_array_equal(many.thinned(4).points_mm, many.points_mm[::3])
    assert many.thinned(10).points_mm.shape == (10, 3)
    assert Evidence.joined([]).points_mm.shape == (0, 3)


def test_refining_changes_no_surface_and_other_numbers_are_refused():
    surfaces = expected_surfaces(load_fissure_model(), FRAMES)
    fine = surfaces.refined(13)
    assert fine.coefficients.shape == (3, 13, 13)
    assert errors_mm(fine, surfaces, "left_oblique").max() < 1e-6
    assert surfaces.refined(SPLINES) is surfaces
    with pytest.raises(ValueError, match="count is 9; 8 splines can be refined to 13"):
        surfaces.refined(9)


# ---- sheets ------------------------------------------------------------------------------------------------------

SPACING_MM = (2.0, 2.0, 2.0)
SHAPE = (60, 100, 120)


def lung_with_sheet(rise_mm, contrast_hu=60.0, noise_hu=20.0):
    """HU of a right lung that fills the volume, with a sheet ``rise_mm`` above its expected oblique fissure."""
    frame = {1: LungFrame(np.array([60.0, 100.0, 120.0]), FRAMES[1].size_mm)}
    surfaces = expected_surfaces(load_fissure_model(), frame)
    x, y, z = (np.arange(n) * side for n, side in zip(SHAPE, SPACING_MM, strict=True))
    distance = z - (surfaces.height_mm("right_oblique", x, y) + rise_mm)[:, :, None]
    hu = np.random.default_rng(0).normal(-850, noise_hu, SHAPE) + contrast_hu * np.exp(-((distance / 2) ** 2))
    return hu.astype(np.float32), np.ones(SHAPE, dtype=bool), surfaces


def test_a_faint_sheet_has_its_contrast_and_support_where_it_lies():
    hu, mask, surfaces = lung_with_sheet(0.0)
    on = unfold(hu, mask, SPACING_MM, surfaces, "right_oblique", 6)
    contrast = sheet_contrast(on)
    assert contrast.shape[:2] == (len(TILTS), len(TILTS))
    level = contrast[2, 2][on.lung_mask]
    middle = contrast[2, 2, :, :, on.hu.shape[2] // 2][on.lung_mask[..., on.hu.shape[2] // 2]]
    assert np.median(middle) > 15 > 5 > np.median(level)
    assert support(on)[on.lung_mask[..., on.hu.shape[2] // 2]].mean() > 0.9


def test_noise_has_no_support():
    hu, mask, surfaces = lung_with_sheet(0.0, contrast_hu=0.0)
    off = unfold(hu, mask, SPACING_MM, surfaces, "right_oblique", 6)
    assert support(off).mean() < 0.05


def test_points_lie_on_the_sheet_with_its_normals():
    hu, mask, surfaces = lung_with_sheet(3.0)
    evidence = find_sheets(unfold(hu, mask, SPACING_MM, surfaces, "right_oblique", 8))
    x, y, z = evidence.points_mm.T
    heights = np.array([surfaces.height_mm("right_oblique", a[None], b[None])[0, 0] for a, b in zip(x, y, strict=True)])
    assert np.median(np.abs(z - heights - 3)) < 1.5
    np.testing.assert_allclose(np.linalg.norm(evidence.normals, axis=1), 1)
    assert ((evidence.weights > 0) & (evidence.weights <= 1)).all()


def test_a_far_sheet_is_the_largest():
    hu, mask, surfaces = lung_with_sheet(25.0)
    unfolded = unfold(hu, mask, SPACING_MM, surfaces, "right_oblique", 36)
    sheets = large_sheets(unfolded, sheet_contrast(unfolded, WIDE_STRIDE))
    sizes = [len(sheet.weights) for sheet in sheets]
    assert sizes == sorted(sizes, reverse=True)
    x, y, z = sheets[0].points_mm.T
    heights = np.array([surfaces.height_mm("right_oblique", a[None], b[None])[0, 0] for a, b in zip(x, y, strict=True)])
    assert np.median(np.abs(z - heights - 25)) < 2


def test_no_lung_has_no_sheets():
    hu, mask, surfaces = lung_with_sheet(0.0)
    empty = unfold(hu, np.zeros_like(mask), SPACING_MM, surfaces, "right_oblique", 6)
    assert len(find_sheets(empty).points_mm) == 0
    assert large_sheets(empty, sheet_contrast(empty, WIDE_STRIDE)) == []
    assert not support(empty).any()


def test_the_search_finds_a_sheet_far_from_the_expected_surface():
    hu, mask, surfaces = lung_with_sheet(18.0)
    model, frame = load_fissure_model(), surfaces.frames[1]
    parts = {"right_oblique": unfold(hu, mask, SPACING_MM, surfaces, "right_oblique", 30)}
    contrast_hu = {name: sheet_contrast(part, WIDE_STRIDE) for name, part in parts.items()}
    best, other = search_modes(model, frame, parts, contrast_hu, count=2)
    again = search_modes(model, frame, parts, contrast_hu, count=2)[0]
    np.testing.assert_array_equal(best, again)
    assert (best != other).any()
    x, y = (frame.centre_mm[a] + np.linspace(-0.25, 0.25, 7) * frame.size_mm[a] for a in (0, 1))
    moved = Surfaces(surfaces.frames, surfaces.coefficients + np.tensordot(best, model.modes, axes=1), {})
    rise = moved.height_mm("right_oblique", x, y) - surfaces.height_mm("right_oblique", x, y)
    assert np.median(np.abs(rise - 18)) < 5


@pytest.mark.parametrize(
    ("middle_pct", "mean_support", "believed"),
    [
        (5, 0.49, False),
        (5, 0.5, True),
        (3, 0.9, False),
        (7, 0.1, True),
        (25, 0.49, False),
        (25, 0.5, True),
        (31, 0.9, False),
    ],
)
def test_a_middle_lobe_of_rare_size_is_believed_where_its_fissures_are_seen(
    monkeypatch, middle_pct, mean_support, believed
):
    lobes = np.where(np.arange(100) < middle_pct, RIGHT_MIDDLE.id, RIGHT_LOWER.id)
    monkeypatch.setattr(fissure_finding, "divide_lungs", lambda *_: lobes)
    chest = SimpleNamespace(sides=np.ones((4, 4, 4), np.uint8), spacing_mm=(2.0, 2.0, 2.0))
    assert fissure_finding._plausible(chest, None, RIGHT_LUNG.id, mean_support) is believed
