"""Datalists of public datasets, from small folders of the published form."""

from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from covsev.training.data.layouts import LAYOUTS
from covsev.training.data.manifests import load_datalist, main

RADIOPAEDIA = ("10_85902_1", "10_85902_3", "29_86490_1", "29_86491_1", "4_85506_1")


def write_volume(path, array=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.arange(8).reshape(2, 2, 2) if array is None else array
    nib.save(nib.Nifti1Image(content.astype(np.int16), np.eye(4)), path)


def write_slice(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def patients_as_slices(patients, slices_each):
    """(64, 64, n) slices; those of one patient look alike."""
    rng = np.random.default_rng(0)
    anatomy = rng.integers(-1000, 300, (patients, 64, 64))
    stack = np.repeat(anatomy, slices_each, axis=0) + rng.integers(0, 100, (patients * slices_each, 64, 64))
    return np.moveaxis(stack, 0, -1)


@pytest.fixture
def medseg(tmp_path):
    """Three patients with two slices each, two unlabelled slices, and two volumes with lungs."""
    write_volume(tmp_path / "tr_im.nii.gz", patients_as_slices(3, 2))
    write_volume(tmp_path / "tr_mask.nii.gz")
    write_volume(tmp_path / "val_im.nii.gz", patients_as_slices(1, 2))
    for number in (1, 2):
        for folder in ("rp_im", "rp_msk", "rp_lung_msk"):
            write_volume(tmp_path / folder / f"{number}.nii.gz")
    return tmp_path


@pytest.fixture
def covid19_ct_seg_20(tmp_path):
    """Two patients of coronacases with a volume each; three of radiopaedia, two of them with two volumes."""
    for name in ("coronacases_001", "coronacases_010", *(f"radiopaedia_{number}" for number in RADIOPAEDIA)):
        for folder in ("COVID-19-CT-Seg_20cases", "Infection_Mask", "Lung_Mask", "Lung_and_Infection_Mask"):
            write_volume(tmp_path / folder / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def mosmed(tmp_path):
    """A healthy study, two of grade 1 of which one has a mask, and one of grade 4."""
    for grade, number in ((0, 1), (1, 255), (1, 305), (4, 1110)):
        write_volume(tmp_path / "studies" / f"CT-{grade}" / f"study_{number:04}.nii.gz")
    write_volume(tmp_path / "masks" / "study_0255_mask.nii.gz")
    (tmp_path / "dataset_registry.xlsx").touch()
    return tmp_path


@pytest.fixture
def ictcf(tmp_path):
    """Two patients with two slices each; the archive of one lies beside its folder."""
    for patient in (2, 10):
        for number in (1, 2):
            write_slice(tmp_path / f"Patient {patient}" / "CT" / f"IMG-0001-0000{number}.jpg")
    (tmp_path / "Patient 2.zip").touch()
    (tmp_path / "patient.txt").touch()
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """Two patients, one with a slice and a volume, the other with a slice whose mask has another suffix."""
    write_slice(tmp_path / "images" / "a_1.png")
    write_slice(tmp_path / "masks" / "a_1.png")
    write_volume(tmp_path / "images" / "a_2.nii.gz")
    write_volume(tmp_path / "masks" / "a_2.nii.gz")
    write_slice(tmp_path / "images" / "b.jpg")
    write_slice(tmp_path / "masks" / "b.png")
    return tmp_path


@pytest.fixture
def volumes(tmp_path):
    """Scans of two sources with masks beside them, two of one patient."""
    for name in ("own_1", "radiopaedia_4_a", "radiopaedia_4_b", "radiopaedia_7_a"):
        write_volume(tmp_path / f"{name}.nii.gz")
        write_volume(tmp_path / f"{name}_lungs.nii.gz")
    return tmp_path


# ---- all layouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"covid_semiseg"}))
def test_records_are_relative_checksummed_and_split_by_patients(layout, request):
    directory = request.getfixturevalue(layout)
    manifest = LAYOUTS[layout](directory)
    records = manifest["training"] + manifest["unlabelled"]
    assert records
    for record in records:
        assert record["sha256"] == hashlib.sha256((directory / record["image"]).read_bytes()).hexdigest()
    for part in ("training", "unlabelled"):
        pairs = {(record["group"], record["fold"]) for record in manifest[part]}
        assert len(pairs) == len({group for group, _ in pairs}), "a patient lies in one fold"
    assert {"name", "source", "licence", "grouping", "seed"} <= set(manifest)


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"covid_semiseg"}))
def test_command_line_writes_what_load_datalist_reads(layout, request, tmp_path):
    directory = request.getfixturevalue(layout)
    output = tmp_path / "manifest.json"
    main(["build", "--layout", layout, str(directory), "--seed", "2", "-o", str(output)])
    manifest = LAYOUTS[layout](directory, seed=2)
    assert json.loads(output.read_text()) == manifest
    part = "training" if manifest["training"] else "unlabelled"
    records = load_datalist(output, directory, part=part)
    paths = {record[key] for record in records for key in ("image", "infection", "lesions", "lungs") if key in record}
    assert all(path.startswith(str(directory)) for path in paths)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("medseg", r"neither tr_im\.nii\.gz nor rp_im"),
        ("covid19_ct_seg_20", r"no \*\.nii\.gz in .*COVID-19-CT-Seg_20cases"),
        ("mosmed", r"no CT-\*/study_\*\.nii\.gz in .*studies"),
        ("ictcf", "no folders Patient <n> in"),
        ("folder", "no images in .*images"),
    ],
)
def test_a_folder_of_another_form_is_refused(layout, message, tmp_path):
    with pytest.raises(FileNotFoundError, match=message):
        LAYOUTS[layout](tmp_path)


@pytest.mark.parametrize(
    ("layout", "removed", "message"),
    [
        ("medseg", "tr_mask.nii.gz", r"tr_im\.nii\.gz has no mask .*tr_mask\.nii\.gz"),
        ("medseg", "rp_msk/2.nii.gz", r"rp_im/2\.nii\.gz has no mask .*rp_msk/2\.nii\.gz"),
        ("medseg", "rp_lung_msk/1.nii.gz", r"rp_im/1\.nii\.gz has no mask .*rp_lung_msk/1\.nii\.gz"),
        (
            "covid19_ct_seg_20",
            "Lung_Mask/coronacases_010.nii.gz",
            r"20cases/coronacases_010\.nii\.gz has no mask .*Lung_Mask/coronacases_010\.nii\.gz",
        ),
        ("mosmed", "masks/study_0255_mask.nii.gz", r"no study_\*_mask\.nii\.gz in .*masks"),
        (
            "mosmed",
            "studies/CT-1/study_0255.nii.gz",
            r"masks/study_0255_mask\.nii\.gz has no study .*studies/CT-\*/study_0255\.nii\.gz",
        ),
        ("folder", "masks/b.png", r"images/b\.jpg has no mask .*masks/b"),
    ],
)
def test_a_missing_file_is_named(layout, removed, message, request):
    directory = request.getfixturevalue(layout)
    (directory / removed).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        LAYOUTS[layout](directory)


def test_command_line_says_what_is_missing_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["build", "--layout", "mosmed", str(tmp_path), "-o", str(tmp_path / "manifest.json")])
    assert capsys.readouterr().err.startswith("error: no CT-*/study_*.nii.gz in ")
    assert not (tmp_path / "manifest.json").exists()


# ---- one by one --------------------------------------------------------------------------------------------------


def test_medseg_slices_are_grouped_by_likeness(medseg):
    manifest = LAYOUTS["medseg"](medseg)
    slices, volumes = manifest["training"][:6], manifest["training"][6:]
    assert [record["slice"] for record in slices] == list(range(6))
    assert [record["group"] for record in slices] == [f"tr_im_{patient}" for patient in (0, 0, 1, 1, 2, 2)]
    assert {(record["image"], record["lesions"]) for record in slices} == {("tr_im.nii.gz", "tr_mask.nii.gz")}
    assert volumes[1] | {"fold": 0, "sha256": ""} == {
        "image": "rp_im/2.nii.gz",
        "lesions": "rp_msk/2.nii.gz",
        "lungs": "rp_lung_msk/2.nii.gz",
        "group": "volume_2",
        "fold": 0,
        "sha256": "",
    }
    assert [(record["image"], record["slice"]) for record in manifest["unlabelled"]] == [
        ("val_im.nii.gz", 0),
        ("val_im.nii.gz", 1),
    ]


def test_either_medseg_dataset_does_alone(medseg):
    write_volume(medseg / "tr_lungmasks_updated.nii.gz")
    for path in (*medseg.glob("rp_*/*"), *medseg.glob("rp_*")):
        path.unlink() if path.is_file() else path.rmdir()
    slices = LAYOUTS["medseg"](medseg)["training"]
    assert {record["lungs"] for record in slices} == {"tr_lungmasks_updated.nii.gz"}
    (medseg / "tr_im.nii.gz").unlink()
    write_volume(medseg / "rp_im" / "1.nii.gz")
    write_volume(medseg / "rp_msk" / "1.nii.gz")
    (volume,) = LAYOUTS["medseg"](medseg)["training"]
    assert set(volume) == {"image", "lesions", "group", "fold", "sha256"}


def test_an_empty_medseg_folder_is_refused(tmp_path):
    (tmp_path / "rp_im").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \*\.nii\.gz in .*rp_im"):
        LAYOUTS["medseg"](tmp_path)


def test_radiopaedia_volumes_of_one_case_are_one_patient(covid19_ct_seg_20):
    records = LAYOUTS["covid19_ct_seg_20"](covid19_ct_seg_20)["training"]
    assert [record["group"] for record in records] == [
        "coronacases_001",
        "coronacases_010",
        "radiopaedia_4",
        "radiopaedia_10",
        "radiopaedia_10",
        "radiopaedia_29",
        "radiopaedia_29",
    ]
    assert records[0]["infection"] == "Infection_Mask/coronacases_001.nii.gz"
    assert records[0]["lungs"] == "Lung_Mask/coronacases_001.nii.gz"


def test_mosmed_studies_without_masks_are_unlabelled_but_graded(mosmed):
    manifest = LAYOUTS["mosmed"](mosmed)
    (labelled,) = manifest["training"]
    assert (labelled["image"], labelled["infection"], labelled["severity"]) == (
        "studies/CT-1/study_0255.nii.gz",
        "masks/study_0255_mask.nii.gz",
        "CT-1",
    )
    graded = [(record["group"], record["severity"]) for record in manifest["unlabelled"]]
    assert graded == [("study_0001", "CT-0"), ("study_0305", "CT-1"), ("study_1110", "CT-4")]


def test_ictcf_slices_are_unlabelled_and_grouped_by_patients(ictcf):
    manifest = LAYOUTS["ictcf"](ictcf)
    assert manifest["training"] == []
    assert [record["group"] for record in manifest["unlabelled"]] == ["Patient 2"] * 2 + ["Patient 10"] * 2
    assert manifest["unlabelled"][0]["image"] == "Patient 2/CT/IMG-0001-00001.jpg"


def test_an_ictcf_patient_without_slices_is_named(ictcf):
    (ictcf / "Patient 7").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no slices in .*Patient 7/CT"):
        LAYOUTS["ictcf"](ictcf)


def test_own_folder_takes_the_patient_from_the_name(folder):
    records = LAYOUTS["folder"](folder)["training"]
    assert [(record["image"], record["infection"], record["group"]) for record in records] == [
        ("images/a_1.png", "masks/a_1.png", "a"),
        ("images/a_2.nii.gz", "masks/a_2.nii.gz", "a"),
        ("images/b.jpg", "masks/b.png", "b"),
    ]


def test_own_folder_takes_the_patient_from_a_table(folder):
    (folder / "patients.csv").write_text("image,patient\na_1,x\na_2,y\nb,x\n")
    manifest = LAYOUTS["folder"](folder)
    assert [record["group"] for record in manifest["training"]] == ["x", "y", "x"]
    assert manifest["grouping"] == "patients.csv"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,patient\na_1,x\nb,x\n", r"patients\.csv has no image a_2"),
        ("name,patient\na_1,x\n", r"patients\.csv needs the columns image and patient; it has \['name', 'patient'\]"),
        ("", r"patients\.csv needs the columns image and patient; it has None"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, message, folder):
    (folder / "patients.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        LAYOUTS["folder"](folder)


def test_two_images_of_one_name_are_refused(folder):
    write_slice(folder / "images" / "b.png")
    with pytest.raises(ValueError, match=r"images/b\.jpg and .*images/b\.png have one name"):
        LAYOUTS["folder"](folder)


@pytest.mark.parametrize("path", ["tr_im.nii.gz", "val_im.nii.gz"])
def test_checksum_follows_the_file(path, medseg):
    def digests():
        manifest = LAYOUTS["medseg"](medseg)
        return {r["sha256"] for r in manifest["training"] + manifest["unlabelled"] if r["image"] == path}

    (before,) = digests()
    write_volume(medseg / path, patients_as_slices(2, 1))
    (after,) = digests()
    assert before != after
