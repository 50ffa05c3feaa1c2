"""Datalists: paths, groups, folds, refusals, and the one that covsev ships."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib import resources
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from covsev.training.data.folds import FOLDS, assign_folds, same_patient_groups
from covsev.training.data.layouts import build_covid_semiseg
from covsev.training.data.manifests import load_datalist, load_optional_datalist, main

KINDS = ("infection", "edge", "lesions")
PATIENTS, SLICES = 7, 2


@pytest.fixture
def dataset(tmp_path):
    """Seven patients with two slices each, numbered without leading zeros, and three unlabelled slices."""
    rng = np.random.default_rng(0)
    for kind in ("images", *KINDS):
        (tmp_path / "labelled" / kind).mkdir(parents=True)
    (tmp_path / "unlabelled" / "images").mkdir(parents=True)
    for patient in range(PATIENTS):
        anatomy = rng.integers(0, 200, (64, 64))
        for level in range(SLICES):
            number = patient * SLICES + level
            pixels = (anatomy + rng.integers(0, 30, anatomy.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "labelled" / "images" / f"{number}.png")
            for kind in KINDS:
                Image.fromarray(pixels // 200).save(tmp_path / "labelled" / kind / f"{number}.png")
    for number in (1, 10, 2):
        Image.new("L", (8, 8)).save(tmp_path / "unlabelled" / "images" / f"slice_{number}.jpg")
    return tmp_path


# ---- building --------------------------------------------------------------------------------------------------


def test_records_are_relative_in_natural_order_and_checksummed(dataset):
    manifest = build_covid_semiseg(dataset)
    assert [record["image"] for record in manifest["training"]] == [f"labelled/images/{i}.png" for i in range(14)]
    record = manifest["training"][10]
    assert [record[kind] for kind in KINDS] == [f"labelled/{kind}/10.png" for kind in KINDS]
    assert record["sha256"] == hashlib.sha256((dataset / record["image"]).read_bytes()).hexdigest()
    assert manifest["unlabelled"] == [{"image": f"unlabelled/images/slice_{i}.jpg"} for i in (1, 2, 10)]


def test_slices_of_one_patient_share_a_group_and_never_cross_folds(dataset):
    records = build_covid_semiseg(dataset)["training"]
    groups = [record["group"] for record in records]
    assert groups == sorted(list(range(PATIENTS)) * SLICES)
    folds_of = {group: {r["fold"] for r in records if r["group"] == group} for group in groups}
    assert all(len(folds) == 1 for folds in folds_of.values())


def test_seed_decides_the_folds(dataset):
    def folds(seed):
        return [record["fold"] for record in build_covid_semiseg(dataset, seed=seed)["training"]]

    assert folds(0) == folds(0)
    assert folds(0) != folds(1)


def test_groups_do_not_depend_on_the_window():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 64, 64))
    groups = same_patient_groups([first, second, 5 * first**3 + 1])
    assert groups[0] == groups[2] != groups[1]


def test_groups_are_chains_of_similar_slices():
    first, other = np.random.default_rng(0).standard_normal((2, 64, 64))
    turns = np.deg2rad([0, 40, 80])  # neighbours correlate by 0.77, the ends by 0.17
    chain = [np.cos(turn) * first + np.sin(turn) * other for turn in turns]
    assert same_patient_groups(chain[::2]).tolist() == [0, 1]
    assert same_patient_groups(chain).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_nearly_equal_and_keep_groups_together(seed):
    groups = np.repeat(np.arange(9), [5, 1, 1, 2, 3, 1, 1, 4, 2])
    folds = assign_folds(groups, folds=4, seed=seed)
    sizes = np.bincount(folds, minlength=4)
    assert sizes.sum() == 20
    assert np.ptp(sizes) <= 1
    assert all(len(set(folds[groups == group])) == 1 for group in range(9))


def test_a_missing_mask_is_named(dataset):
    (dataset / "labelled" / "edge" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/3\.png has no mask .*edge/3\.png"):
        build_covid_semiseg(dataset)


def test_a_folder_without_slices_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no labelled images in .*labelled/images"):
        build_covid_semiseg(tmp_path)


def test_command_line_writes_what_load_datalist_reads(dataset):
    output = dataset / "manifest.json"
    main(["build", "--layout", "covid_semiseg", str(dataset), "--seed", "3", "-o", str(output)])
    assert json.loads(output.read_text()) == build_covid_semiseg(dataset, seed=3)
    assert len(load_datalist(output, dataset)) == PATIENTS * SLICES


# ---- reading ---------------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(dataset):
    path = dataset / "manifest.json"
    path.write_text(json.dumps(build_covid_semiseg(dataset)))
    return path


def test_training_and_validation_part_the_slices(manifest, dataset):
    everything = [record["image"] for record in load_datalist(manifest, dataset)]
    seen = Counter()
    for fold in range(FOLDS):
        training = {r["image"] for r in load_datalist(manifest, dataset, fold=fold)}
        validation = {r["image"] for r in load_datalist(manifest, dataset, fold=fold, part="validation")}
        assert training | validation == set(everything)
        assert not training & validation
        seen.update(validation)
    assert seen == Counter(everything)


def test_paths_are_absolute_below_the_dataset(manifest, dataset):
    record = load_datalist(manifest, str(dataset))[4]
    assert record["image"] == str(dataset / "labelled/images/4.png")
    assert record["lesions"] == str(dataset / "labelled/lesions/4.png")
    assert set(record) == {"image", *KINDS, "group", "fold", "sha256"}


def test_unlabelled_slices_have_no_folds(manifest, dataset):
    assert len(load_datalist(manifest, dataset, part="unlabelled", fold=2)) == 3


def test_unknown_part_is_refused(manifest, dataset):
    with pytest.raises(ValueError, match="part must be training, validation or unlabelled; got 'test'"):
        load_datalist(manifest, dataset, part="test")


@pytest.mark.parametrize("part", ["training", "validation"])
def test_unknown_fold_is_refused(manifest, dataset, part):
    with pytest.raises(ValueError, match=r"manifest\.json: fold must be one of \[0, 1, 2, 3, 4\]; got 7"):
        load_datalist(manifest, dataset, fold=7, part=part)


def test_empty_part_is_refused(manifest, dataset):
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"unlabelled": []}))
    with pytest.raises(ValueError, match="no records in part 'unlabelled', fold None"):
        load_datalist(manifest, dataset, part="unlabelled")


def test_wrong_dataset_folder_is_named(manifest, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"elsewhere/labelled/images/0\.png is missing; is dataset_dir right"):
        load_datalist(manifest, tmp_path / "elsewhere")


def test_unknown_manifest_is_named(dataset):
    with pytest.raises(FileNotFoundError, match="no_such_manifest"):
        load_datalist("no_such_manifest", dataset)


# ---- the shipped manifest --------------------------------------------------------------------------------------


def test_shipped_covid_semiseg_is_valid():
    content = json.loads((resources.files("covsev.data_manifests") / "covid_semiseg.json").read_text())
    training = content["training"]
    assert (len(training), len(content["unlabelled"])) == (50, 1600)
    assert Counter(record["fold"] for record in training) == dict.fromkeys(range(FOLDS), 10)
    pairs = {(record["group"], record["fold"]) for record in training}
    assert len(pairs) == len({group for group, _ in pairs}), "a group lies in one fold"
    assert len({record["sha256"] for record in training}) == 50
    paths = [record[key] for record in training for key in ("image", *KINDS)]
    paths += [record["image"] for record in content["unlabelled"]]
    assert len(set(paths)) == len(paths)
    assert not [path for path in paths if PurePosixPath(path).is_absolute() or ".." in path or "\\" in path]
    assert {"source", "licence", "seed"} <= set(content)


def test_an_optional_datalist_is_empty_without_a_folder(dataset, manifest):
    assert load_optional_datalist(manifest, None) == []
    assert load_optional_datalist(manifest, dataset) == load_datalist(manifest, dataset)


def test_the_shipped_uninfected_slices_name_their_source():
    shipped = json.loads((resources.files("covsev.data_manifests") / "covid_ct_md_uninfected.json").read_text())
    assert "10.1038/s41597-021-00900-3" in shipped["source"]
    for record in shipped["training"]:
        assert record["infected"] is False
        assert record["levels"] == sorted(set(record["levels"]))
