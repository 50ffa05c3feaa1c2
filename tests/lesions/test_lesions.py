"""The lesion stage: slices in, masks out, bundles read and refused."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from toy_networks import consolidating

from covsev.errors import BundleError, GridMismatchError, LungsNotFoundError
from covsev.inference.slices import SlicePreprocessing
from covsev.labels import CONSOLIDATION_HU
from covsev.lesions.kinds import lesion_labels
from covsev.lesions.model import load_model
from covsev.lesions.picture import segment_slice
from covsev.lesions.volume import segment_lesions
from covsev.options import INFECTION_BUNDLE
from covsev.phantom import make_phantom
from covsev.scan import to_canonical


@pytest.mark.parametrize(
    ("hu", "expected"), [(-1000, 0.0), (-1200, 0.0), (0, 1.0), (300, 1.0), (-500, 0.5), (-250, 0.75)]
)
def test_the_window_maps_hu_to_0_1_and_clips(hu, expected, bright_model):
    batch = bright_model.preprocessing(np.full((40, 50, 3), hu, dtype=np.int16))
    assert batch.shape == (3, 1, 64, 64)
    np.testing.assert_allclose(batch, np.full_like(batch, expected), atol=1e-6)


def test_slices_keep_their_order_and_their_axes():
    volume = np.full((32, 32, 2), -1000, dtype=np.int16)
    volume[:8, :, 1] = 0
    batch = SlicePreprocessing((-1000, 0), (32, 32), 8.0)(volume)
    assert batch[0].max() == 0
    assert batch[1, 0, :7].min() == 1
    assert batch[1, 0, 10:].max() == 0


def test_dense_lung_is_found_and_split_by_hu(phantom, bright_model):
    result = segment_lesions(phantom.scan, phantom.lungs, bright_model)
    assert result.labels.shape == phantom.scan.hu.shape
    assert result.labels.dtype == np.uint8
    core = phantom.lesions > 0
    assert (result.labels[core] > 0).mean() > 0.7
    assert not result.labels[phantom.lungs == 0].any()
    assert (phantom.scan.hu[result.labels == 2] > -200).all()
    assert (phantom.scan.hu[result.labels == 1] <= -200).all()
    assert "-200 HU" in result.method


def test_slices_without_lung_are_not_computed(phantom, bright_model):
    result = segment_lesions(phantom.scan, phantom.lungs, bright_model, restrict_to_lungs=False)
    without = ~phantom.lungs.any(axis=(0, 1))
    assert without.any()
    assert not result.probability[:, :, without].any()


@pytest.mark.parametrize("orientation", ["LPS", "SAR"])
def test_the_probability_lies_where_the_network_looked(bright_model, orientation):
    phantom = make_phantom((6.0, 6.0, 8.0), orientation=orientation)
    result = segment_lesions(phantom.scan, phantom.lungs, bright_model)
    found = to_canonical(result.probability, phantom.scan.affine)
    np.testing.assert_array_equal(found[result.box], result.probability_in_box)
    assert np.count_nonzero(found) == np.count_nonzero(result.probability_in_box)
    assert result.probability_in_box.size < found.size / 2
    np.testing.assert_array_equal((result.probability >= 0.5) & (phantom.lungs > 0), result.labels > 0)


def test_a_scan_in_float32_is_left_as_it_is(bright_model):
    slices = np.moveaxis(np.full((3, 40, 50), -500.0, dtype=np.float32), 0, -1)
    assert bright_model.preprocessing(slices).max() == 0.5
    assert (slices == -500).all()


def test_probabilities_are_smoothed_across_slices_in_millimetres(bright_model, phantom):
    smoothing = dataclasses.replace(bright_model.postprocessing, axial_smoothing_mm=4.0)
    model = dataclasses.replace(bright_model, postprocessing=smoothing)
    plain = segment_lesions(phantom.scan, phantom.lungs, bright_model).probability
    smooth = segment_lesions(phantom.scan, phantom.lungs, model).probability
    occupied = np.flatnonzero(phantom.lungs.any(axis=(0, 1)))
    span = slice(occupied[0], occupied[-1] + 1)
    expected = gaussian_filter1d(plain[:, :, span], 4.0 / phantom.scan.spacing_mm[2], axis=2, mode="nearest")
    np.testing.assert_allclose(smooth[:, :, span], expected, atol=1e-6)
    assert not np.array_equal(plain, smooth)


def test_another_batch_size_gives_the_same_mask(phantom, bright_model):
    first = segment_lesions(phantom.scan, phantom.lungs, bright_model).labels
    other = bright_model.with_slice_network(batch_size=7)
    np.testing.assert_array_equal(segment_lesions(phantom.scan, phantom.lungs, other).labels, first)


def test_lungs_of_another_grid_are_refused(phantom, bright_model):
    with pytest.raises(GridMismatchError, match="the lung label map has shape"):
        segment_lesions(phantom.scan, phantom.lungs[1:], bright_model)


def test_empty_lungs_are_refused(phantom, bright_model):
    with pytest.raises(LungsNotFoundError, match="holds no lung"):
        segment_lesions(phantom.scan, np.zeros_like(phantom.lungs), bright_model)


@pytest.mark.parametrize(("hu", "label"), [(-600, 1), (-200, 1), (-199, 2), (50, 2)])
def test_consolidation_lies_above_minus_200_hu(hu, label):
    assert lesion_labels(np.ones(1, bool), np.array([hu]) > CONSOLIDATION_HU)[0] == label


def test_a_slice_gives_a_mask_of_its_own_size(bright_model):
    grey = np.zeros((70, 45), np.uint8)
    grey[20:50, 10:30] = 200
    mask = segment_slice(grey, bright_model)
    assert mask.shape == grey.shape
    assert mask[25:45, 14:26].all()
    assert not mask[:12].any()


@pytest.mark.parametrize(("bound", "label"), [(0.0, 2), (0.02, 2), (0.5, 1)])
def test_specks_of_consolidation_in_a_slice_are_ground_glass(bright_model, bound, label):
    grey = np.zeros((64, 64), np.uint8)
    grey[20:36, 20:36] = 250
    model = consolidating(bright_model, min_consolidation_share=bound)
    assert (segment_slice(grey, model)[grey > 0] == label).all()
    infected = segment_slice(grey, bright_model) > 0
    np.testing.assert_array_equal(segment_slice(grey, model) > 0, infected)


@pytest.mark.parametrize(("hu", "label"), [(-450, 1), (-401, 1), (-395, 2), (0, 2)])
def test_what_is_half_air_is_no_consolidation_in_a_slice(bright_model, hu, label):
    grey = np.full((64, 64), round(bright_model.preprocessing.grey_of(hu)), np.uint8)
    model = consolidating(bright_model, min_consolidation_hu=-400)
    everywhere = np.ones((64, 64), bool)
    assert (segment_slice(grey, model, prior=everywhere) == label).all()
    free = dataclasses.replace(model, postprocessing=model.postprocessing.unbounded)
    assert (segment_slice(grey, free, prior=everywhere) == 2).all()


def test_what_is_half_air_is_no_consolidation_in_a_volume(phantom, bright_model):
    model = consolidating(bright_model, min_consolidation_hu=-400)
    result = segment_lesions(phantom.scan, phantom.lungs, model)
    assert (phantom.scan.hu[result.labels == 2] > -400).all()
    assert (phantom.scan.hu[result.labels == 1] <= -400).all()
    assert (result.labels == 1).any()
    assert (result.labels == 2).any()
    assert "above -400 HU" in result.method


@pytest.mark.parametrize("grey", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)])
def test_a_slice_that_is_not_8_bit_grey_is_refused(grey, bright_model):
    with pytest.raises(ValueError, match="must be a 2-D uint8 array"):
        segment_slice(grey, bright_model)


def test_the_shipped_bundle_loads_with_its_hash():
    model = load_model(INFECTION_BUNDLE)
    assert model.name == "covid_infection_ct_segmentation"
    assert not load_model(INFECTION_BUNDLE, runtime="torch").network.training
    assert model.preprocessing.hu_window[0] < -1000
    assert len(model.weights) == 64


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a covsev bundle"):
        load_model(tmp_path)


def test_a_prior_is_refused_by_a_bundle_that_has_none(tmp_path):
    with pytest.raises(
        BundleError, match=r"inference\.yaml: it has no prior_checkpoint, so .*model\.pt cannot be used"
    ):
        load_model(INFECTION_BUNDLE, prior_checkpoint=tmp_path / "model.pt")


def _copy_of_bundle(tmp_path):
    shutil.copytree(INFECTION_BUNDLE, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_missing_weights_are_refused(tmp_path):
    bundle = _copy_of_bundle(tmp_path)
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(BundleError, match="no weights there"):
        load_model(bundle)


@pytest.mark.parametrize("content", ["garbage", "other network"])
def test_weights_that_do_not_fit_are_refused(tmp_path, content):
    bundle = _copy_of_bundle(tmp_path)
    path = bundle / "models" / "model.pt"
    path.write_bytes(b"no weights")
    if content == "other network":
        torch.save({"network": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(BundleError, match="weights cannot be used"):
        load_model(bundle)


def test_weights_are_never_unpickled(tmp_path, monkeypatch):
    seen = {}
    load = torch.load

    def spy(*args, **kwargs):
        seen.update(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    load_model(INFECTION_BUNDLE, runtime="torch")  # not one that is kept ready
    assert seen["weights_only"] is True


def test_a_configuration_that_cannot_be_built_is_refused(tmp_path):
    bundle = _copy_of_bundle(tmp_path)
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("backbone: efficientnet_lite0", "backbone: vgg"))
    with pytest.raises(BundleError, match="the model cannot be built"):
        load_model(bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "cannot be read"), ("a: 1", "the model cannot be built")],
    ids=["no YAML", "no model"],
)
def test_a_broken_configuration_is_refused(text, message, tmp_path):
    bundle = _copy_of_bundle(tmp_path)
    (bundle / "configs" / "inference.yaml").write_text(text)
    with pytest.raises(BundleError, match=message):
        load_model(bundle)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "hu_window: [-1000.0, 0.0]",
            "hu_window: [-1000.0, 50.0]",
            r"hu_window is \(-1000.0, 50.0\), but \(-1000.0, 0.0\)",
        ),
        ("network_size: [64, 64]", "network_size: [32, 32]", r"network_size is \(32, 32\), but \(64, 64\)"),
        ("crop_margin_mm: 8.0", "crop_margin_mm: 4.0", "crop_margin_mm is 4.0, but 8.0 in the prior's bundle"),
        ("threshold: 0.5", "threshold: 0.6", "threshold is 0.6, but 0.5 in the prior's bundle; take it from there"),
    ],
)
def test_a_multi_network_that_would_see_other_slices_than_its_prior_is_refused(
    bright_bundle, bright_model, tmp_path, old, new, message
):
    """Each network would get what it was not trained on, without a word."""
    bundle = shutil.copytree(bright_bundle, tmp_path / "bundle")
    config = bundle / "configs" / "inference.yaml"
    text = config.read_text()
    assert old in text
    prior = f"prior: \"$__import__('covsev.lesions.model').lesions.model.load_model('{bright_bundle}')\""
    config.write_text(f"{prior}\n{text.replace(old, new)}  prior: '@prior'\n")
    with pytest.raises(BundleError, match=message):
        load_model(bundle)
