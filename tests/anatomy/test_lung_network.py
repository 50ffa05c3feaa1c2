"""The lungs by a network: its probability over slabs, dense borders, parts, fluid, and when it is not believed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from measures import ORIENTATIONS, dice

from covsev.anatomy.images import as_array, as_image
from covsev.anatomy.lungs.airways import gas_beside_lungs
from covsev.anatomy.lungs.border import refine
from covsev.anatomy.lungs.check import why_not_believed
from covsev.anatomy.lungs.dense import far_from_air, fluid_layers, thick_parts
from covsev.anatomy.lungs.model import LungModel, load_lung_model
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.anatomy.lungs.sides import likely_lungs
from covsev.assessment import lung_model_for
from covsev.errors import BundleError, LungsNotFoundError
from covsev.inference.network import SliceNetwork
from covsev.inference.slices import SlicePreprocessing, resize_slices
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.options import Options
from covsev.phantom import make_phantom
from covsev.scan import make_scan, to_canonical

WINDOW = (-1100.0, 400.0)
MM = (2.0, 2.0, 2.0)


class Painted:
    """A runner that knows the answer: it gives the slices of a mask, in their order."""

    def __init__(self, mask, size):
        slices = np.moveaxis(mask, 2, 0).astype(np.float32)[:, None]
        self.answer = 20 * resize_slices(slices, size) - 10
        self.next, self.at_a_time = 0, 1

    def __call__(self, images):
        start, self.next = self.next, self.next + len(images)
        return self.answer[start : self.next]


def knowing(mask, *, slab_mm=0.0, smoothing_mm=0.0, size=(96, 96), field=None):
    """A lung model that answers with ``mask``, in the middle of a square of voxels."""
    side = field or max(mask.shape[:2])
    before = [(side - count) // 2 for count in mask.shape[:2]]
    margins = [(start, side - count - start) for start, count in zip(before, mask.shape[:2], strict=True)]
    mask = np.pad(mask, [*margins, (0, 0)])
    preprocessing = SlicePreprocessing(WINDOW, size, slab_mm=slab_mm)
    network = SliceNetwork(Painted(mask, size), preprocessing, 4, "painted", "0" * 64)
    return LungModel(network, threshold=0.5, axial_smoothing_mm=smoothing_mm, least_field_mm=0.0)


@pytest.fixture(scope="module")
def sick():
    """A chest whose right lung is consolidated at the back, and its true lungs."""
    phantom = make_phantom((3.0, 3.0, 4.0))
    lung = phantom.lungs == RIGHT_LUNG.id
    hu, places = phantom.scan.hu.copy(), np.nonzero(lung)
    at_back = places[1] >= np.quantile(places[1], 0.7)
    part = tuple(axis[at_back] for axis in places)
    hu[part] = 35 + np.random.default_rng(0).normal(0, 15, at_back.sum()).astype(np.int16)
    return make_scan(hu, phantom.scan.affine, case="sick"), phantom.lungs, part


# ---- the network's lungs -------------------------------------------------------------------------------------------


def test_consolidated_lung_is_kept_where_a_threshold_drops_it(sick):
    scan, truth, part = sick
    by_threshold = segment_lungs(scan)
    by_network = segment_lungs(scan, knowing(truth > 0))
    assert (by_threshold.labels[part] > 0).mean() < 0.5
    assert (by_network.labels[part] == RIGHT_LUNG.id).mean() > 0.97
    assert dice(by_network.labels > 0, truth > 0) > 0.97
    assert by_network.flags == ()
    assert by_network.networks == {"painted": "0" * 64}
    assert by_network.method.startswith("painted at probability 0.5")


def test_what_a_threshold_would_have_dropped_is_counted_as_recovered(sick):
    scan, truth, part = sick
    found = segment_lungs(scan, knowing(truth > 0))
    assert found.recovered_mask[part].mean() > 0.9
    assert found.recovered_ml == pytest.approx(np.count_nonzero(found.recovered_mask) * scan.voxel_ml)
    assert not (found.recovered_mask & (found.labels == 0)).any()


def test_airways_are_no_lung_even_if_the_network_says_so(sick):
    scan, truth, _ = sick
    usual = segment_lungs(scan)
    airways = (scan.hu < -950) & (truth == 0)
    found = segment_lungs(scan, knowing((truth > 0) | airways))
    assert usual.airways_ml == found.airways_ml > 20
    trachea = airways & (np.arange(scan.hu.shape[2]) > 0.6 * scan.hu.shape[2])
    assert (found.labels[trachea] > 0).mean() < 0.05


def test_slabs_and_smoothing_change_little():
    phantom = make_phantom((4.0, 4.0, 1.25))
    each = segment_lungs(phantom.scan, knowing(phantom.lungs > 0))
    model = knowing((phantom.lungs > 0)[:, :, 1::4], slab_mm=5.0, smoothing_mm=3.0)
    slabs = segment_lungs(phantom.scan, model)
    assert model.slice_network.runner.next == -(-phantom.scan.hu.shape[2] // 4)
    assert dice(each.labels > 0, slabs.labels > 0) > 0.985


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIL", "SLA"])
def test_orientation_does_not_matter(orientation):
    turned = make_phantom((4.0, 4.0, 4.0), orientation=orientation)
    straight = make_phantom((4.0, 4.0, 4.0))
    found = segment_lungs(turned.scan, knowing(straight.lungs > 0))
    expected = segment_lungs(straight.scan, knowing(straight.lungs > 0))
    assert np.count_nonzero(found.labels) == np.count_nonzero(expected.labels)
    assert dice(found.labels > 0, turned.lungs > 0) > 0.97


@pytest.mark.slow
def test_the_shipped_network_gives_the_same_lungs_in_all_48_orientations():
    model, straight = lung_model_for(Options()), None
    counts = set()
    for orientation in ORIENTATIONS:
        turned = make_phantom((6.0, 6.0, 8.0), orientation=orientation).scan
        labels = to_canonical(segment_lungs(turned, model).labels, turned.affine)
        counts.add((np.count_nonzero(labels == RIGHT_LUNG.id), np.count_nonzero(labels == LEFT_LUNG.id)))
        straight = labels if straight is None else straight
        np.testing.assert_array_equal(labels, straight)
    assert len(counts) == 1


# ---- when it is not believed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda lungs: np.zeros_like(lungs), "the network finds 0 % of the aerated lung"),
        (lambda lungs: np.ones_like(lungs), "of what the network finds lies around the patient"),
        (lambda lungs: np.roll(lungs, 40, axis=1), "of the aerated lung"),
    ],
)
def test_a_network_that_sees_no_lungs_gives_way_to_the_threshold(answer, why):
    phantom = make_phantom((3.0, 3.0, 4.0))
    found = segment_lungs(phantom.scan, knowing(answer(phantom.lungs > 0)))
    assert found.flags == ("lungs_by_threshold",)
    assert why in found.method
    np.testing.assert_array_equal(found.labels, segment_lungs(phantom.scan).labels)


def test_lungs_larger_than_any_patients_are_not_believed():
    coarse = sitk.GetImageFromArray(np.full((100, 200, 200), 40, np.int16))
    coarse.SetSpacing(MM)
    aerated = np.zeros((200, 200, 100), bool)
    aerated[50:60] = True
    mask = np.zeros_like(aerated)
    mask[20:180, 20:180] = True
    assert why_not_believed(mask, aerated & mask, aerated, coarse) == "the network finds 20 litres of lung"
    assert why_not_believed(aerated, aerated, aerated, coarse) == ""


# ---- parts, borders, dense lung ------------------------------------------------------------------------------------


def grid(shape=(60, 60, 30), hu=-850):
    image = sitk.GetImageFromArray(np.full(shape, hu, np.int16).transpose())
    image.SetSpacing(MM)
    return image


def test_small_parts_count_if_they_hold_air():
    image, mask = grid(), np.zeros((60, 60, 30), np.uint8)
    mask[5:30, 5:50, 5:25] = 1  # 180 ml
    mask[40:48, 10:18, 10:18] = 1  # 4 ml of air
    mask[40:48, 40:48, 10:18] = 1  # 4 ml of tissue
    mask[55, 55, 25] = 1  # noise
    hu = as_array(image).copy()
    hu[40:48, 40:48, 10:18] = 40
    parts = as_array(likely_lungs(as_image(hu, image), as_image(mask, image), make_phantom((6.0, 6.0, 6.0)).scan))
    assert [np.count_nonzero(parts == number) for number in (1, 2, 3)] == [25 * 45 * 20, 512, 0]


def test_a_network_that_finds_next_to_nothing_finds_no_lungs():
    image, mask = grid(), np.zeros((60, 60, 30), np.uint8)
    mask[5:15, 5:15, 5:15] = 1
    with pytest.raises(LungsNotFoundError, match="scan phantom: the lung network finds no part larger than 60 ml"):
        likely_lungs(image, as_image(mask, image), make_phantom((6.0, 6.0, 6.0)).scan)


def test_touching_lungs_keep_their_own_voxels():
    """At the border between the lungs neither grows into the other."""
    hu = np.full((40, 40, 40), 40, np.int16)
    hu[6:34, 6:34, 6:34] = -850
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[6:20, 6:34, 6:34], lungs[20:34, 6:34, 6:34] = RIGHT_LUNG.id, LEFT_LUNG.id
    nothing = np.zeros(hu.shape, bool)
    labels, recovered = refine(
        hu, lungs, aerated=lungs > 0, airways=nothing, factors=(1, 1, 1), box=(slice(0, 40),) * 3
    )
    np.testing.assert_array_equal(labels, lungs)
    assert not recovered.any()


def test_the_border_follows_air_and_beside_dense_lung_the_network():
    hu = np.full((20, 20, 12), 40, np.int16)
    hu[4:10, 4:16] = -850
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[5:16, 4:16] = RIGHT_LUNG.id  # a row of air is missed; rows from 10 on are dense
    dense = np.zeros(hu.shape, bool)
    dense[11:16, 4:16] = True
    network = np.zeros(hu.shape[:2], bool)
    network[5:17, 4:16] = True
    none = np.zeros(hu.shape, bool)
    box = tuple(slice(0, side) for side in hu.shape)
    shared = {"aerated": hu < -400, "airways": none, "factors": (1, 1, 1), "box": box}
    with_network, _ = refine(hu, lungs, dense=dense, says_lung=lambda _: network, **shared)
    without, _ = refine(hu, lungs, **shared)
    middle = with_network[:, 9, 6] > 0
    assert np.flatnonzero(middle).tolist() == list(range(4, 17))
    assert np.flatnonzero(without[:, 9, 6] > 0).tolist() == list(range(4, 15))


def test_thin_rims_are_not_thick():
    mask = np.zeros((20, 20, 20), bool)
    mask[:, :, 3] = True
    mask[4:12, 4:12, 8:16] = True
    thick = thick_parts(mask)
    assert not thick[:, :, 3].any()
    assert thick[8, 8, 12]


def test_dense_lung_far_from_air_is_suspected():
    image = grid((60, 60, 30))
    aerated, dense = np.zeros((60, 60, 30), bool), np.zeros((60, 60, 30), bool)
    aerated[:10] = True
    dense[10:40] = True
    far = far_from_air(dense, aerated, image)
    assert np.flatnonzero(far.any(axis=(1, 2))).min() == 22  # 26 mm from the last voxel of air
    assert not far_from_air(np.zeros_like(dense), aerated, image).any()
    np.testing.assert_array_equal(far_from_air(dense, np.zeros_like(dense), image), dense)


def test_gas_of_the_bowel_is_told_from_lung_by_purity_and_by_what_it_joins():
    hu = np.full((40, 40, 40), 40, np.int16)
    lungs, tree, air = (np.zeros(hu.shape, bool) for _ in range(3))
    lungs[4:20, 4:36, 20:36] = True
    bowel, tip, beside = np.zeros_like(air), np.zeros_like(air), np.zeros_like(air)
    bowel[26:34, 8:16, 4:12] = True
    tip[26:34, 24:32, 4:12] = True
    beside[20:24, 10:30, 22:30] = True  # pure, but part of the lung
    for part, density in ((lungs, -850), (bowel, -950), (tip, -700), (beside, -980)):
        hu[part] = density
    air = lungs | bowel | tip | beside
    np.testing.assert_array_equal(gas_beside_lungs(air, lungs, tree, hu), bowel)


# ---- fluid ---------------------------------------------------------------------------------------------------------


def chest_with_layer(mean_hu, grain_hu, *, depth=8, at_back=True):
    """Lung with a layer at its back, or at its front, within tissue."""
    noise = np.random.default_rng(1)
    hu = 45 + noise.normal(0, 12, (60, 70, 40))
    hu[10:50, 10:60, 5:35] = -850
    rows = slice(60 - depth, 60) if at_back else slice(10, 10 + depth)
    layer = np.zeros(hu.shape, bool)
    layer[10:50, rows, 5:35] = True
    hu[layer] = mean_hu + noise.normal(0, grain_hu, layer.sum())
    lungs = np.zeros(hu.shape, bool)
    lungs[10:50, 10:60, 5:35] = True
    return hu.astype(np.int16), lungs, layer


@pytest.mark.parametrize("inside", [True, False])
def test_a_layer_of_fluid_at_the_back_is_found_in_the_mask_and_behind_it(inside):
    hu, lungs, layer = chest_with_layer(6, 15)
    fluid = fluid_layers(lungs if inside else lungs & ~layer, hu, MM)
    assert (fluid & layer).sum() > 0.6 * layer.sum()
    assert not (fluid & ~layer).any()


@pytest.mark.parametrize(
    ("mean_hu", "grain_hu", "at_back"),
    [(40, 15, True), (-80, 15, True), (6, 90, True), (6, 15, False)],
    ids=["consolidation", "half aerated", "grainy", "in front"],
)
def test_what_is_no_fluid_at_the_back_stays(mean_hu, grain_hu, at_back):
    hu, lungs, _ = chest_with_layer(mean_hu, grain_hu, at_back=at_back)
    assert not fluid_layers(lungs, hu, MM).any()


@pytest.mark.parametrize(("gap", "found"), [(0, True), (12, False)])
def test_fatty_muscle_behind_the_ribs_is_no_fluid(gap, found):
    """It has the density of fluid, but it does not begin at the lung."""
    noise = np.random.default_rng(3)
    hu = 60 + noise.normal(0, 10, (60, 70, 40))
    lungs = np.zeros(hu.shape, bool)
    lungs[10:50, 10:30, 5:35] = True
    hu[lungs] = -850
    muscle = hu[10:50, 30 + gap : 44 + gap, 5:35]
    muscle[:] = 5 + noise.normal(0, 10, muscle.shape)
    assert fluid_layers(lungs, hu, MM).any() == found


def test_an_effusion_is_left_out_of_the_lungs_and_counted(sick):
    scan, truth, part = sick
    hu = scan.hu.copy()
    hu[part] = 5 + np.random.default_rng(2).normal(0, 12, len(part[0])).astype(np.int16)
    found = segment_lungs(dataclasses.replace(scan, hu=hu), knowing(truth > 0))
    part_ml = len(part[0]) * scan.voxel_ml
    assert found.possible_effusion_ml > 0.6 * part_ml
    assert (found.labels[part] > 0).mean() < 0.4


# ---- the bundle ----------------------------------------------------------------------------------------------------


def test_a_bundle_of_lesions_is_no_lung_bundle(bright_bundle):
    with pytest.raises(BundleError, match="its model is LesionModel, not a LungModel"):
        load_lung_model(bright_bundle)
