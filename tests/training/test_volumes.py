"""Volumes and stacks as training slices: what serving sees, in any orientation, with their labels in place."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from toy_slices import run_configs

from covsev.anatomy.lungs.box import lung_box
from covsev.inference.slices import SlicePreprocessing
from covsev.lesions.volume import segment_lesions
from covsev.scan import canonical_spacing_mm, to_canonical
from covsev.training.data.transforms import LoadSliced, infection_training, lesion_training
from covsev.training.data.volumes import VolumeSlicing
from covsev.training.evaluation.evaluation import evaluate_records, evaluate_to_csv
from covsev.training.evaluation.metrics import case_metrics

WINDOW = (-1100, 250)
SLICING = VolumeSlicing(WINDOW, 8)


@pytest.fixture
def record(phantom, write_nifti):
    """The phantom with its lesion labels and its lung mask."""
    affine = phantom.scan.affine
    files = {"image": phantom.scan.hu, "lesions": phantom.lesions, "lungs": phantom.lungs}
    paths = {key: str(write_nifti(f"{key}.nii.gz", array, affine)) for key, array in files.items()}
    return {**paths, "group": "p", "fold": 0}


def test_a_volume_gives_the_slices_that_serving_sees(phantom, record):
    slices = SLICING([record])
    lungs, affine = to_canonical(phantom.lungs, phantom.scan.affine), phantom.scan.affine
    levels = np.flatnonzero(lungs.any(axis=(0, 1)))
    box = lung_box(lungs, 8, canonical_spacing_mm(phantom.scan))
    serving = SlicePreprocessing(hu_window=WINDOW, network_size=(64, 64), crop_margin_mm=8)
    served = serving(to_canonical(phantom.scan.hu, affine)[box[0], box[1]][:, :, levels])
    trained = serving.resize((np.stack([item["image"] for item in slices]) / np.float32(255))[:, None])
    assert len(slices) == len(levels)
    torch.testing.assert_close(trained, served, atol=0.5 / 255 + 1e-6, rtol=0)
    lesions = to_canonical(phantom.lesions, affine)[box[0], box[1]]
    for item, level in zip(slices, levels, strict=True):
        np.testing.assert_array_equal(item["lesions"], lesions[:, :, level])
        np.testing.assert_array_equal(item["infection"], np.where(lesions[:, :, level] > 0, 255, 0))
        assert (item["group"], item["fold"], item["name"]) == ("p", 0, f"image_{level:04d}")
        assert "lungs" not in item


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0)])
def test_the_orientation_of_the_file_does_not_matter(phantom, record, tmp_path, axes):
    turned = dict(record)
    for key in ("image", "lesions", "lungs"):
        image = nib.load(record[key])
        orientation = np.array([[axis, (-1) ** (axis + 1)] for axis in axes])
        turned[key] = str(tmp_path / f"turned_{key}.nii.gz")
        nib.save(image.as_reoriented(orientation), turned[key])
    for ours, expected in zip(SLICING([turned]), SLICING([record]), strict=True):
        for key in ("image", "lesions", "infection"):
            np.testing.assert_array_equal(ours[key], expected[key])


def test_without_a_lung_mask_the_lungs_are_segmented(phantom, record):
    del record["lungs"]
    found, given = len(SLICING([record])), np.count_nonzero(phantom.lungs.any(axis=(0, 1)))
    assert abs(found - given) <= 2


def test_a_volume_in_0_to_255_counts_as_windowed(phantom, record, write_nifti):
    grey = ((phantom.scan.hu.astype(np.float32) - WINDOW[0]) * (255 / (WINDOW[1] - WINDOW[0]))).clip(0, 255).round()
    windowed = record | {"image": str(write_nifti("grey.nii.gz", grey.astype(np.uint8), phantom.scan.affine))}
    for ours, expected in zip(SLICING([windowed]), SLICING([record]), strict=True):
        np.testing.assert_allclose(ours["image"], expected["image"].astype(float), atol=1)


def test_only_the_levels_of_a_record_are_cut(record):
    every = SLICING([record])
    last = int(every[-1]["name"].split("_")[-1])
    chosen = SLICING([record | {"levels": [last - 2, last, last + 500]}])
    assert [item["name"] for item in chosen] == [f"image_{last - 2:04d}", f"image_{last:04d}"]
    np.testing.assert_array_equal(chosen[1]["image"], every[-1]["image"])
    assert "levels" not in chosen[0]


def test_a_record_without_infection_has_empty_labels(record):
    del record["lesions"]
    (item, *_) = SLICING([record | {"infected": False}])
    for key, chain in (("infection", infection_training), ("lesions", lesion_training)):
        assert item[key].shape == item["image"].shape
        assert not item[key].any()
        label = chain((64, 64), augment=False)(item)["label"]
        assert label[-1].max() == 0  # no edge
    assert label[0].min() == 1  # background


@pytest.fixture
def stack(write_nifti):
    """Three slices of 20 x 30 in one file, as MedSeg publishes them; label 3 is pleural effusion."""
    hu = np.full((20, 30, 3), -1100, np.int16)
    hu[4:12, 5:25] = -425  # the middle of the window
    lesions = np.zeros(hu.shape, np.uint8)
    lesions[5, 6, :], lesions[6, 6, :], lesions[7, 6, :] = 1, 2, 3
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[4:12, 5:25, 1] = 1
    files = {"image": hu, "lesions": lesions, "lungs": lungs}
    paths = {key: str(write_nifti(f"tr_{key}.nii.gz", array)) for key, array in files.items()}
    return [paths | {"slice": index, "group": index} for index in (0, 1)]


def test_a_stack_gives_its_slices_cropped_to_their_lungs(stack):
    whole, cropped = SLICING(stack)
    assert whole["image"].shape == (20, 30)  # no lung in its mask
    assert cropped["image"].shape == (8, 20)
    assert set(np.unique(cropped["image"])) == {128}
    assert cropped["lesions"][1:4, 1].tolist() == [1, 2, 0]
    assert cropped["infection"][1:4, 1].tolist() == [255, 255, 0]
    assert (whole["name"], cropped["name"]) == ("tr_image_0000", "tr_image_0001")


def test_pictures_stay_as_they_are():
    record = {"image": "a.png", "infection": "b.png"}
    assert SLICING([record]) == [record]
    assert SLICING([record])[0] is not record


def test_a_mask_of_another_grid_is_refused(record, write_nifti, phantom):
    affine = phantom.scan.affine
    smaller = str(write_nifti("smaller.nii.gz", phantom.lesions[:-1], affine))
    with pytest.raises(ValueError, match=r"smaller\.nii\.gz: its grid is not that of .*image\.nii\.gz \(shapes"):
        SLICING([record | {"lesions": smaller}])
    moved = str(write_nifti("moved.nii.gz", phantom.lesions, affine + np.eye(4, k=3) * 5))
    with pytest.raises(ValueError, match=r"moved\.nii\.gz: its grid is not that of"):
        SLICING([record | {"lesions": moved}])


def test_both_chains_take_slices_of_volumes(record):
    item = max(SLICING([record]), key=lambda item: (item["lesions"] == 2).sum())
    infection = infection_training((64, 64))(item)
    lesions = lesion_training((64, 64))(item)
    assert infection["label"].shape == (2, 64, 64)
    assert lesions["label"].shape == (4, 64, 64)
    assert set(infection) == set(lesions) == {"image", "label"}


def test_a_volume_that_was_not_sliced_is_refused_by_name():
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: not a PNG or JPG file; volumes have to go through"):
        LoadSliced("image")({"image": "scan.nii.gz"})


# ---- evaluation and training -----------------------------------------------------------------------------------------


def test_volumes_are_evaluated_as_a_whole(phantom, record, bright_model):
    found = segment_lesions(phantom.scan, phantom.lungs, bright_model).labels > 0
    metrics = evaluate_records(bright_model, [record])
    assert metrics == {"image.nii.gz": {"infection": case_metrics(found, phantom.lesions > 0)}}


def test_slices_and_volumes_are_evaluated_together(record, stack, bright_model, tmp_path, monkeypatch):
    loads = []
    load = VolumeSlicing.load
    monkeypatch.setattr(VolumeSlicing, "load", lambda self, item: loads.append(item["image"]) or load(self, item))
    table = evaluate_to_csv(bright_model, [*stack, record], tmp_path)
    assert table[table["row"] == "case"]["name"].tolist() == ["tr_image_0000", "tr_image_0001", "image.nii.gz"]
    assert not any(name.startswith("infection_legacy") for name in table)
    assert len(loads) == 2, "the stack is read once"


def test_slices_of_a_stack_are_evaluated_one_by_one(stack, bright_model, tmp_path):
    table = evaluate_to_csv(bright_model, stack, tmp_path)
    assert table[table["row"] == "case"]["name"].tolist() == ["tr_image_0000", "tr_image_0001"]


def test_evaluation_refuses_what_a_volume_cannot_give(record, bright_model):
    with pytest.raises(ValueError, match=r"image\.nii\.gz: the true prior is for slices, and this is a volume"):
        evaluate_records(bright_model, [record], true_prior=True)
    del record["lesions"]
    with pytest.raises(ValueError, match=r"image\.nii\.gz: it has no infection labels to compare with"):
        evaluate_records(bright_model, [record])
    with pytest.raises(ValueError, match=r"a\.png: it has no infection labels to compare with"):
        evaluate_records(bright_model, [{"image": "a.png"}])


def test_a_single_network_has_no_true_prior(bright_model):
    with pytest.raises(ValueError, match="the true prior is for a multi network, and this is a single one"):
        evaluate_records(bright_model, [], true_prior=True)


@pytest.mark.slow
def test_train_yaml_trains_on_a_volume_and_a_picture_together(record, tmp_path):
    content = {"training": []}
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (40, 50)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        Image.fromarray(np.where(picture > 200, 255, 0).astype(np.uint8)).save(tmp_path / f"{number}_mask.png")
        content["training"].append(
            {"image": f"{number}.png", "infection": f"{number}_mask.png", "fold": 0, "group": number}
        )
    relative = {key: record[key].removeprefix(f"{tmp_path}/") for key in ("image", "lesions", "lungs")}
    content["training"].append(relative | {"fold": 0, "group": "p"})
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    parser = run_configs(
        "train.yaml",
        dataset_dir=str(tmp_path),
        manifest=str(tmp_path / "manifest.json"),
        output_dir=str(tmp_path / "run"),
        network_size=[32, 32],
        batch_size=8,
        epochs=1,
        scales=[1, 2],
    )
    slices = len(SLICING([record])) + 2
    assert parser.get_parsed_content("train#trainer").state.iteration == slices // 8
    assert (tmp_path / "run" / "model.pt").is_file()
