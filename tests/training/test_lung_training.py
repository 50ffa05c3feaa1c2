"""Training of the lung network: scans in folds, whole slices, pasted consolidation, and how it is measured."""

from __future__ import annotations

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from covsev.phantom import make_phantom
from covsev.training.data.lung_slices import NOT_LABELLED, DrawnFromEachScan, LungSlicing, lung_training
from covsev.training.data.manifests import load_datalist
from covsev.training.data.sick_lungs import RandConsolidationd
from covsev.training.data.volume_layout import build_labelled_volumes
from covsev.training.evaluation.lungs import evaluate_lungs, lung_agreement, summarise_lungs

WINDOW = (-1100, 400)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Four small scans of two sources; the second and third are one patient; one has slices without labels."""
    folder = tmp_path_factory.mktemp("scans")
    phantom = make_phantom((6.0, 6.0, 10.0))
    lungs = (phantom.lungs > 0).astype(np.uint8)
    partly = lungs.copy()
    partly[:, :, ::2] = NOT_LABELLED
    (folder / "b").mkdir()
    cases = {"own_1": partly, "b/radiopaedia_4_a": lungs, "b/radiopaedia_4_b": lungs, "b/radiopaedia_7_a": lungs}
    for name, mask in cases.items():
        nib.save(nib.Nifti1Image(phantom.scan.hu, phantom.scan.affine), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(mask, phantom.scan.affine), folder / f"{name}_lungs.nii.gz")
    nib.save(nib.Nifti1Image(phantom.lesions, phantom.scan.affine), folder / "own_1_lesions.nii.gz")
    (folder / "manifest.json").write_text(json.dumps(build_labelled_volumes(folder)))
    return folder


# ---- the manifest --------------------------------------------------------------------------------------------------


def test_scans_are_found_with_their_masks_and_patients_stay_together(scans):
    records = json.loads((scans / "manifest.json").read_text())["training"]
    assert [record["image"] for record in records] == [
        "b/radiopaedia_4_a.nii.gz",
        "b/radiopaedia_4_b.nii.gz",
        "b/radiopaedia_7_a.nii.gz",
        "own_1.nii.gz",
    ]
    assert records[3]["lesions"] == "own_1_lesions.nii.gz"
    assert "lesions" not in records[0]
    assert records[0]["group"] == records[1]["group"] == "radiopaedia_4"
    assert records[0]["fold"] == records[1]["fold"] != records[2]["fold"]
    assert len(records[0]["sha256"]) == 64


def test_a_folder_without_lung_masks_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no scan with a lung mask <case>_lungs"):
        build_labelled_volumes(tmp_path)


def test_the_shipped_manifest_holds_back_what_judges_the_weights():
    from importlib import resources

    content = json.loads((resources.files("covsev.data_manifests") / "labelled_lungs.json").read_text())
    cases = [record["image"].split("/")[-1].removesuffix(".nii.gz") for record in content["training"]]
    assert len(cases) == 21
    held_back = ("coronacases_002", "coronacases_003", "coronacases_008", "radiopaedia_27", "radiopaedia_36")
    assert not [case for case in cases if case.startswith(held_back)]
    assert set(Counter(record["fold"] for record in content["training"])) == {0, 1, 2}
    of_group = {}
    for record in content["training"]:
        assert of_group.setdefault(record["group"], record["fold"]) == record["fold"]


# ---- slices --------------------------------------------------------------------------------------------------------


def test_whole_slices_are_cut_and_those_without_labels_left_out(scans):
    records = load_datalist(scans / "manifest.json", scans)
    slices = LungSlicing(WINDOW, (64, 64))(records)
    counts = Counter(item["name"] for item in slices)
    depth = nib.load(scans / "own_1.nii.gz").shape[2]
    assert counts["radiopaedia_4_a"] == depth
    assert counts["own_1"] == depth // 2
    assert all(item["image"].shape == item["lungs"].shape == (64, 64) for item in slices)
    assert all(item["image"].dtype == item["lungs"].dtype == np.uint8 for item in slices)
    middle = slices[depth // 2]
    dark = middle["image"][middle["lungs"] == 255]
    assert np.median(dark) == pytest.approx(255 * (-850 + 1100) / 1500, abs=4)


def test_a_scan_without_a_lung_mask_or_of_another_shape_is_refused(scans, tmp_path):
    image = str(scans / "own_1.nii.gz")
    with pytest.raises(ValueError, match=r"own_1\.nii\.gz: it has no lung mask to learn from"):
        LungSlicing(WINDOW, (64, 64))([{"image": image}])
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.diag([-6.0, -6.0, 10.0, 1.0])), small)
    with pytest.raises(ValueError, match=r"small\.nii\.gz: its shape is not that of"):
        LungSlicing(WINDOW, (64, 64))([{"image": image, "lungs": str(small)}])


def test_every_scan_gives_as_many_slices_an_epoch():
    slices = [{"name": "long"}] * 50 + [{"name": "short"}] * 3
    torch.manual_seed(0)
    sampler = DrawnFromEachScan(slices, 5)
    first, second = list(sampler), list(sampler)
    assert len(first) == len(sampler) == 8
    assert Counter(slices[index]["name"] for index in first) == {"long": 5, "short": 3}
    assert len(set(first)) == 8
    assert sorted(first) != sorted(second)
    with pytest.raises(ValueError, match="per_scan must be 1 or more; got 0"):
        DrawnFromEachScan(slices, 0)


def test_the_training_chain_gives_image_lungs_and_edge(scans):
    slices = LungSlicing(WINDOW, (64, 64))(load_datalist(scans / "manifest.json", scans))
    chain = lung_training(WINDOW).set_random_state(0)
    for item in slices[::7]:
        ready = chain(item)
        assert ready["image"].shape == (1, 64, 64)
        assert ready["label"].shape == (2, 64, 64)
        assert 0 <= ready["image"].min() <= ready["image"].max() <= 1
        assert set(np.unique(ready["label"])) <= {0.0, 1.0}


# ---- consolidation ---------------------------------------------------------------------------------------------------


def pasted(seed, prob=1.0):
    image = torch.full((1, 64, 64), 0.76)  # soft tissue
    lungs = torch.zeros(1, 64, 64)
    lungs[:, 8:28, 10:54] = lungs[:, 36:56, 10:54] = 1
    image[lungs > 0] = 0.17
    transform = RandConsolidationd("image", "lungs", WINDOW, prob)
    transform.set_random_state(seed)
    return image, lungs, transform({"image": image.clone(), "lungs": lungs})


@pytest.mark.parametrize("seed", range(8))
def test_consolidation_is_pasted_into_the_lungs_only_and_the_mask_stays(seed):
    image, lungs, result = pasted(seed)
    changed = result["image"] != image
    assert changed[lungs > 0].any()
    assert not changed[lungs == 0].any()  # the wall is no mixed voxel
    assert result["lungs"] is lungs
    dense = result["image"][(lungs > 0) & changed]
    assert dense.max() > (-150 + 1100) / 1500 - 0.05


def test_mixed_voxels_beside_it_become_tissue():
    image, lungs, _ = pasted(0)
    image[:, 7, 10:54] = 0.4  # a dark line around the lung would give its outline away
    transform = RandConsolidationd("image", "lungs", WINDOW, 1.0)
    transform.set_random_state(3)
    result = transform({"image": image.clone(), "lungs": lungs})["image"]
    sick = (result[0, 8, 10:54] > 0.55).nonzero().ravel()
    assert len(sick) > 0
    assert (result[0, 7, 10:54][sick] > 0.55).all()


def test_without_luck_or_lungs_nothing_changes():
    image, _, result = pasted(0, prob=0.0)
    assert torch.equal(result["image"], image)
    transform = RandConsolidationd("image", "lungs", WINDOW, 1.0)
    empty = transform({"image": image, "lungs": torch.zeros(1, 64, 64)})
    assert torch.equal(empty["image"], image)


# ---- how it is measured ----------------------------------------------------------------------------------------------


def test_lesion_outside_the_radiologists_lungs_does_not_count():
    truth, lungs, lesions = (np.zeros(10, bool) for _ in range(3))
    truth[:6] = lungs[1:6] = lesions[4:8] = True
    found = lung_agreement(lungs, truth, lesions)
    assert found.kept_pct == 100
    assert found.true_share_pct == pytest.approx(100 * 2 / 6)
    assert found.share_pct == pytest.approx(100 * 2 / 5)
    assert lung_agreement(lungs, truth).kept_pct is None
    assert lung_agreement(lungs, truth, np.zeros(10, bool)).true_share_pct is None
    assert lung_agreement(np.zeros(10, bool), truth, lesions).share_pct == 0
    with pytest.raises(ValueError, match="neither mask holds lung"):
        lung_agreement(np.zeros(10, bool), np.zeros(10, bool))


def test_scans_are_measured_where_lungs_were_drawn(scans):
    records = load_datalist(scans / "manifest.json", scans)
    table = evaluate_lungs(None, records)
    assert table["case"].tolist() == ["radiopaedia_4_a", "radiopaedia_4_b", "radiopaedia_7_a", "own_1"]
    assert (table["dice"] > 0.9).all()
    assert table["kept_pct"].notna().tolist() == [False, False, False, True]


def test_the_summary_names_the_worst_scan():
    table = pd.DataFrame(
        {
            "dice": [0.99, 0.97, 0.95],
            "kept_pct": [100.0, 90.0, None],
            "true_share_pct": [10.0, 20.0, None],
            "share_pct": [11.0, 18.0, None],
        }
    )
    assert summarise_lungs(table) == (
        "2 scans with lesion: Dice 0.9800 (least 0.9700); lesion kept 95.00 % (least 90.00); infected share off by "
        "1.50 points (most 2.00); 1 scans without lesion: Dice 0.9500 (least 0.9500)"
    )
