"""The whole flow on the phantom, with the shipped network."""

from __future__ import annotations

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
from measures import ORIENTATIONS

from covsev import assessment, labels
from covsev.anatomy.lobes.segment import segment_lobes
from covsev.assessment import assess
from covsev.errors import CovsevError
from covsev.options import Options
from covsev.phantom import make_phantom
from covsev.report import outputs
from covsev.report.outputs import write
from covsev.severity import measure

GRID_MM = (4.0, 4.0, 8.0)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(GRID_MM)


@pytest.fixture(scope="module")
def light_reference(bright_model, phantom):
    return assess(phantom.scan, bright_model)


@pytest.fixture(scope="module")
def reference(shipped_model, phantom):
    return assess(phantom.scan, shipped_model, Options(save_probability=True))


def test_fissures_are_not_sought_in_lesion(monkeypatch, bright_model, phantom):
    seen = []

    def spy(scan, lungs, *, lesions):
        seen.append(lesions)
        return segment_lobes(scan, lungs, lesions=lesions)

    monkeypatch.setattr(assessment, "segment_lobes", spy)
    lesions = assess(phantom.scan, bright_model).lesions.labels
    assert lesions.any()
    np.testing.assert_array_equal(seen[0], lesions)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_gives_identical_numbers_and_masks(orientation, bright_model, light_reference):
    _require_identical(orientation, bright_model, light_reference)


@pytest.mark.parametrize("orientation", ["RAS", "SPL", "AIR"])
def test_orientation_does_not_matter_to_the_shipped_network(orientation, shipped_model, reference):
    _require_identical(orientation, shipped_model, reference)


def _require_identical(orientation, model, reference):
    scan = make_phantom(GRID_MM, orientation=orientation).scan
    turned = assess(scan, model)
    assert scan.orientation == orientation
    assert (reference.lesions.labels > 0).any()
    assert turned.report == reference.report
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(reference.scan.affine), nib.io_orientation(scan.affine)
    )
    for name in ("lungs", "lobes", "lesions"):
        expected = nib.apply_orientation(getattr(reference, name).labels, transform)
        np.testing.assert_array_equal(getattr(turned, name).labels, expected)


def test_label_maps_lie_in_memory_as_the_scan_does(bright_model, light_reference, phantom):
    scan = dataclasses.replace(phantom.scan, hu=np.asfortranarray(phantom.scan.hu))
    found = assess(scan, bright_model)
    for name in ("lungs", "lobes", "lesions"):
        label_map = getattr(found, name).labels
        assert label_map.flags.f_contiguous
        np.testing.assert_array_equal(label_map, getattr(light_reference, name).labels)
    assert found.report == light_reference.report


def test_the_probability_is_kept_only_where_it_is_asked_for(light_reference, reference):
    assert reference.lesions.probability.max() > 0.5
    with pytest.raises(CovsevError, match="the infection probability was not kept; ask for it by"):
        _ = light_reference.lesions.probability


def test_true_lesion_mask_gives_exact_millilitres_in_every_region(phantom):
    report = measure(phantom.scan, phantom.lungs, phantom.lobes, phantom.lesions)
    for lobe in labels.LOBES:
        voxels = np.count_nonzero((phantom.lobes == lobe.id) & (phantom.lesions > 0))
        assert report.regions[lobe.name].lesion_ml == pytest.approx(voxels * phantom.scan.voxel_ml, abs=1e-9)
    total = np.count_nonzero(phantom.lesions)
    assert report.regions["both_lungs"].lesion_ml == pytest.approx(total * phantom.scan.voxel_ml, abs=1e-9)


def test_an_oblique_grid_keeps_the_lungs_volume(shipped_model, reference):
    turned = assess(make_phantom(GRID_MM, rotation_deg=12).scan, shipped_model)
    expected = reference.report.regions["both_lungs"].volume_ml
    assert turned.report.regions["both_lungs"].volume_ml == pytest.approx(expected, rel=0.03)


def test_written_masks_lie_on_the_scans_grid(reference, tmp_path):
    options = Options(save_probability=True)
    content = write(reference, tmp_path, options)
    for suffix in (labels.LUNGS_SUFFIX, labels.LOBES_SUFFIX, labels.LESIONS_SUFFIX, labels.PROBABILITY_SUFFIX):
        image = nib.load(tmp_path / f"phantom{suffix}")
        assert image.shape == reference.scan.hu.shape
        np.testing.assert_allclose(image.affine, reference.scan.affine, atol=1e-5)
    assert json.loads((tmp_path / f"phantom{labels.SEVERITY_SUFFIX}").read_text()) == json.loads(json.dumps(content))
    assert content["disclaimer"] == labels.DISCLAIMER
    assert content["weights"] == reference.weights
    assert len(reference.weights) == 64
    single, multi = "covid_infection_ct_segmentation", "covid_lesion_ct_segmentation"
    assert list(content["networks"]) == ["covid_lung_ct_segmentation", single, multi]
    assert content["networks"]["covid_lesion_ct_segmentation"] == reference.weights
    assert (tmp_path / f"phantom{labels.OVERLAY_SUFFIX}").read_bytes().startswith(b"\x89PNG")


def test_nothing_but_the_named_files_is_written(reference, tmp_path):
    write(reference, tmp_path)
    suffixes = {path.name.removeprefix("phantom") for path in tmp_path.iterdir()}
    assert suffixes == {
        labels.LUNGS_SUFFIX,
        labels.LOBES_SUFFIX,
        labels.LESIONS_SUFFIX,
        labels.SEVERITY_SUFFIX,
        labels.OVERLAY_SUFFIX,
        labels.REPORT_SUFFIX,
    }


def test_the_page_can_be_left_out(reference, tmp_path):
    content = write(reference, tmp_path, Options(report=False))
    assert not (tmp_path / f"phantom{labels.REPORT_SUFFIX}").exists()
    assert f"phantom{labels.REPORT_SUFFIX}" not in content["outputs"]


def test_without_its_masks_a_scan_has_no_result(light_reference, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(outputs, "save_labels", fail)
    with pytest.raises(OSError, match="disk full"):
        write(light_reference, tmp_path)
    assert not (tmp_path / f"phantom{labels.SEVERITY_SUFFIX}").exists()


def test_lesions_lie_in_the_lungs_unless_the_restriction_is_off(shipped_model, reference, phantom):
    inside = reference.lesions.labels > 0
    assert inside.any()
    assert (reference.lungs.labels[inside] > 0).all()
    free = assess(phantom.scan, shipped_model, Options(restrict_to_lungs=False)).lesions.labels > 0
    np.testing.assert_array_equal(free & (reference.lungs.labels > 0), inside)
