"""Public datasets as their owners publish them, each read into a MONAI datalist.

Every ``build_*`` takes the folder into which the dataset was unpacked and returns ``{"training": [...],
"unlabelled": [...]}`` and where the data comes from. A record holds paths relative to the folder under ``image``
and the published labels (``infection``, ``lesions``, ``lungs``, ``edge``), the patient as ``group``, its ``fold``,
and the ``sha256`` of the image file. A group never crosses folds. Label numbers are the publishers': see
``data_manifests/README.md``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from covsev.training.data.folds import SAME_PATIENT_CORRELATION, same_patient_groups
from covsev.training.data.records import (
    SUFFIXES,
    make_records,
    mask_of,
    natural_order,
    picture_thumbnail,
    pictures,
    some,
    stacked_slices,
    stem_of,
)
from covsev.training.data.volume_layout import build_labelled_volumes

# Written into the manifests: a reader has to know how far apart the folds are.
_BY_CORRELATION = f"rank correlation of 64 x 64 thumbnails >= {SAME_PATIENT_CORRELATION}, connected"

Datalist = dict[str, Any]


def build_covid_semiseg(folder: Path, *, seed: int = 0) -> Datalist:
    """Datalist of COVID-SemiSeg (Fan et al. 2020): 50 labelled and 1,600 unlabelled slices.

    Args:
        folder: holds ``labelled/{images,infection,edge,lesions}`` and ``unlabelled/images``.
        seed: of the assignment of groups to folds.

    Returns:
        the datalist; unlabelled records have their image only, since their patients are unknown.

    Raises:
        FileNotFoundError: if ``folder`` has no labelled images, or one lacks its mask.
    """
    labelled = folder / "labelled"
    images = some(pictures(labelled / "images"), f"labelled images in {labelled / 'images'}")
    groups = same_patient_groups([picture_thumbnail(path) for path in images])
    cases: list[dict[str, Any]] = []
    for path, group in zip(images, groups, strict=True):
        masks = {kind: mask_of(path, labelled / kind / f"{path.stem}.png") for kind in ("infection", "edge", "lesions")}
        cases.append({"image": path} | masks | {"group": int(group)})
    unlabelled = [path.relative_to(folder) for path in pictures(folder / "unlabelled" / "images")]
    return {
        "name": "COVID-SemiSeg",
        "source": "https://github.com/DengPingFan/Inf-Net, doi 10.1109/TMI.2020.2996645",
        "licence": "non-commercial",
        "grouping": _BY_CORRELATION,
        "seed": seed,
        "training": make_records(cases, folder, seed=seed),
        "unlabelled": [{"image": path.as_posix()} for path in unlabelled],
    }


def build_medseg(folder: Path, *, seed: int = 0) -> Datalist:
    """Datalist of the two MedSeg COVID-19 CT datasets: 100 slices stacked in one file, and 9 volumes.

    One record a slice of ``tr_im.nii.gz``, with its index along the third axis as ``slice``, and one a volume of
    ``rp_im``. Which slices share a patient is not published: they are grouped as COVID-SemiSeg's, which are the
    same pictures, but the threshold could not be checked on these files. One volume is taken as one patient.

    Args:
        folder: holds ``tr_im.nii.gz`` and ``tr_mask.nii.gz`` (first dataset), or ``rp_im`` and ``rp_msk`` (second),
            or both. ``val_im.nii.gz`` (unlabelled), ``tr_lungmasks_updated.nii.gz`` and ``rp_lung_msk`` are read
            if there.
        seed: of the assignment of groups to folds.

    Raises:
        FileNotFoundError: if neither dataset is there, or an image lacks its mask.
    """
    stack, volumes, unlabelled = folder / "tr_im.nii.gz", folder / "rp_im", folder / "val_im.nii.gz"
    if not stack.is_file() and not volumes.is_dir():
        raise FileNotFoundError(f"{folder} has neither tr_im.nii.gz nor rp_im")
    cases = []
    # Either dataset is of use without the other, and lung masks are published for some files only.
    if stack.is_file():
        labels = {"lesions": mask_of(stack, folder / "tr_mask.nii.gz")}
        lungs = folder / "tr_lungmasks_updated.nii.gz"
        cases += stacked_slices(stack, labels | ({"lungs": lungs} if lungs.is_file() else {}))
    if volumes.is_dir():
        kinds = {"lesions": "rp_msk"} | ({"lungs": "rp_lung_msk"} if (folder / "rp_lung_msk").is_dir() else {})
        for path in some(natural_order(volumes.glob("*.nii.gz")), f"*.nii.gz in {volumes}"):
            masks = {kind: mask_of(path, folder / name / path.name) for kind, name in kinds.items()}
            # The prefix keeps a volume apart from a group of slices with the same number.
            cases.append({"image": path} | masks | {"group": f"volume_{stem_of(path)}"})
    return {
        "name": "MedSeg COVID-19 CT",
        "source": "https://medicalsegmentation.com/covid19, doi 10.6084/m9.figshare.13521488 and 13521509",
        "licence": "CC0 1.0",
        "grouping": f"slices: {_BY_CORRELATION}; volumes: one patient each",
        "seed": seed,
        "training": make_records(cases, folder, seed=seed),
        "unlabelled": make_records(stacked_slices(unlabelled, {}) if unlabelled.is_file() else [], folder, seed=seed),
    }


def build_covid19_ct_seg_20(folder: Path, *, seed: int = 0) -> Datalist:
    """Datalist of the COVID-19 CT Lung and Infection Segmentation Dataset (Ma et al. 2020): 20 volumes.

    ``radiopaedia_<case>_<study>_<series>`` of one case are one patient, so that there are 18. The ten
    ``radiopaedia`` volumes are windowed to 0-255, the ten ``coronacases`` volumes are in HU.

    Args:
        folder: holds ``COVID-19-CT-Seg_20cases``, ``Lung_Mask`` and ``Infection_Mask``, each zip file unpacked
            into a folder of its name. ``Lung_and_Infection_Mask`` says the same again and is not read.
        seed: of the assignment of patients to folds.

    Raises:
        FileNotFoundError: if there are no volumes, or one lacks a mask.
    """
    images = folder / "COVID-19-CT-Seg_20cases"
    # The group of radiopaedia_10_85902_1 is radiopaedia_10: without study and series, all scans of a patient are one.
    cases = [
        {
            "image": path,
            "infection": mask_of(path, folder / "Infection_Mask" / path.name),
            "lungs": mask_of(path, folder / "Lung_Mask" / path.name),
            "group": re.sub(r"^(radiopaedia_\d+)_.*", r"\1", stem_of(path)),
        }
        for path in some(natural_order(images.glob("*.nii.gz")), f"*.nii.gz in {images}")
    ]
    return {
        "name": "COVID-19-CT-Seg_20cases",
        "source": "https://zenodo.org/record/3757476, doi 10.5281/zenodo.3757476",
        "licence": "see the Zenodo record",
        "grouping": "coronacases: one patient a volume; radiopaedia: one patient a case number",
        "seed": seed,
        "training": make_records(cases, folder, seed=seed),
        "unlabelled": [],
    }


def build_mosmed(folder: Path, *, seed: int = 0) -> Datalist:
    """Datalist of MosMedData COVID19_1110 (Morozov et al. 2020): 1,110 volumes, 50 of them with infection masks.

    Every record has the published grade, ``CT-0`` to ``CT-4``, as ``severity``. One study is taken as one patient,
    as the publishers number them; ``dataset_registry.xlsx`` is not read. Checksums read all 30 GB.

    Args:
        folder: holds ``studies/CT-0`` to ``CT-4`` with ``study_<n>.nii.gz``, and ``masks/study_<n>_mask.nii.gz``.
        seed: of the assignment of studies to folds.

    Raises:
        FileNotFoundError: if there are no studies, no masks, or a mask has no study.
    """
    studies, ending = folder / "studies", "_mask.nii.gz"
    scans = some(natural_order(studies.glob("CT-[0-4]/study_*.nii.gz")), f"CT-*/study_*.nii.gz in {studies}")
    masks = some(natural_order((folder / "masks").glob(f"study_*{ending}")), f"study_*{ending} in {folder / 'masks'}")
    infection = {path.name.removesuffix(ending): path for path in masks}  # what is left at the end has no study
    labelled, unlabelled = [], []
    for path in scans:
        mask = infection.pop(stem_of(path), None)
        case = {"image": path, "severity": path.parent.name, "group": stem_of(path)}
        if mask is None:
            unlabelled.append(case)
        else:
            labelled.append(case | {"infection": mask})
    for study, mask in infection.items():
        raise FileNotFoundError(f"{mask} has no study {studies / 'CT-*' / study}.nii.gz")
    return {
        "name": "MosMedData COVID19_1110",
        "source": "https://mosmed.ai/datasets/covid19_1110, arXiv 2005.06465",
        "licence": "CC BY-NC-ND 3.0",
        "grouping": "one patient a study",
        "seed": seed,
        "training": make_records(labelled, folder, seed=seed),
        "unlabelled": make_records(unlabelled, folder, seed=seed),
    }


def build_ictcf(folder: Path, *, seed: int = 0) -> Datalist:
    """Datalist of iCTCF / HUST-19 (Ning et al. 2020): 8-bit slices of some 1,300 patients, without masks.

    The form was learnt from public code that reads it, not from the data. The publishers' site offers one
    ``Patient <n>.zip`` a patient, which unpacks to ``Patient <n>/CT/IMG-0001-00001.jpg`` and so on. Two things are
    left out: ``patient.txt``, the clinical features in an undocumented form, and the slices sorted into ``pCT``,
    ``nCT`` and ``NiCT``, which name no patient and so cannot be split by patients.

    Args:
        folder: holds ``Patient 1``, ``Patient 2``, ...
        seed: of the assignment of patients to folds.

    Returns:
        the datalist; all slices are ``unlabelled``.

    Raises:
        FileNotFoundError: if there are no slices, or a patient has none.
    """
    # Sorted, so that the folds do not depend on the order in which a file system lists folders.
    patients = some(
        natural_order(path for path in folder.glob("Patient *") if path.is_dir()), f"folders Patient <n> in {folder}"
    )
    cases = [
        {"image": path, "group": patient.name}
        for patient in patients
        for path in some(pictures(patient / "CT"), f"slices in {patient / 'CT'}")
    ]
    return {
        "name": "iCTCF (HUST-19)",
        "source": "https://ngdc.cncb.ac.cn/ictcf, doi 10.1038/s41551-020-00633-5",
        "licence": "see the publishers' site",
        "grouping": "one patient a folder",
        "seed": seed,
        "training": [],
        "unlabelled": make_records(cases, folder, seed=seed),
    }


def build_folder(folder: Path, *, seed: int = 0) -> Datalist:
    """Datalist of your own data: volumes or slices, and infection masks of equal names.

    Args:
        folder: holds ``images`` and ``masks``; only the suffixes of an image and its mask may differ. The patient is
            the name up to the first ``_``, or, if there is a ``patients.csv`` with the columns ``image`` (without
            suffix) and ``patient``, what that says.
        seed: of the assignment of patients to folds.

    Raises:
        FileNotFoundError: if there are no images, or one lacks its mask.
        ValueError: if two files have one name, or ``patients.csv`` lacks a column or an image.
    """
    images = _by_stem(folder / "images")
    masks = _by_stem(folder / "masks")
    some(list(images), f"images in {folder / 'images'}")
    patients = _patients(folder / "patients.csv", list(images))
    # A missing mask is looked for under the image's stem, so that the message names a path to put it at.
    cases = [
        {"image": path, "infection": mask_of(path, masks.get(stem, folder / "masks" / stem)), "group": patients[stem]}
        for stem, path in images.items()
    ]
    return {
        "name": folder.resolve().name,
        "source": "own",
        "licence": "own",
        "grouping": "patients.csv" if (folder / "patients.csv").is_file() else "name up to the first _",
        "seed": seed,
        "training": make_records(cases, folder, seed=seed),
        "unlabelled": [],
    }


# The names that ``manifests build --layout`` takes.
LAYOUTS: dict[str, Callable[..., Datalist]] = {
    "covid_semiseg": build_covid_semiseg,
    "medseg": build_medseg,
    "covid19_ct_seg_20": build_covid19_ct_seg_20,
    "mosmed": build_mosmed,
    "ictcf": build_ictcf,
    "folder": build_folder,
    "volumes": build_labelled_volumes,
}
"""Name of a layout, to the function ``(folder, *, seed)`` that reads it."""


def _by_stem(folder: Path) -> dict[str, Path]:
    """Images in ``folder`` by their names without suffix."""
    found: dict[str, Path] = {}
    for path in natural_order(path for path in folder.glob("*") if path.name.lower().endswith(SUFFIXES)):
        # a.png and a.nii.gz have one stem, and a mask would fit both.
        other = found.setdefault(stem_of(path), path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name")
    return found


def _patients(table: Path, stems: Sequence[str]) -> dict[str, str]:
    """Patient of each image, from ``table`` where there is one."""
    if not table.is_file():
        return {stem: stem.partition("_")[0] for stem in stems}
    # -sig: Excel begins its CSV files with a byte-order mark, which would become part of the first column's name.
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"image", "patient"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table} needs the columns image and patient; it has {reader.fieldnames}")
        patients = {row["image"]: row["patient"] for row in reader}
    for stem in stems:
        if stem not in patients:
            raise ValueError(f"{table} has no image {stem}")
    return patients
