"""Which series of a study is assessed: a table of small cases, and what is said of the others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dicom_series import CORONAL, UID, ct_series, ct_slice, enhanced, save
from typer.testing import CliRunner

from covsev.commands.main import app
from covsev.labels import SEVERITY_SUFFIX
from covsev.scan import find_scans
from covsev.scan.dicom.choice import choose_series, sharpness_of

FLAT = np.zeros((20, 24, 24), np.int16)


def series(number, *, kernel="B30f", thickness_mm=1.0, slices=24, description="", study=f"{UID}.9", **kwargs):
    datasets = ct_series(FLAT[:, :, :slices], uid=f"{UID}.{number}", **kwargs)
    for dataset in datasets:
        dataset.StudyInstanceUID, dataset.SeriesDescription = study, description
        if kernel:
            dataset.ConvolutionKernel = kernel
        if thickness_mm:
            dataset.SliceThickness = thickness_mm
    return datasets


def chosen(folder):
    kept, candidates = choose_series(find_scans(folder))
    return [source.series_uid for source in kept], {c.source.series_uid[-1]: c.reason for c in candidates}


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        ({}, {"kernel": "B70f"}, "a sharper kernel"),
        ({}, {"kernel": ""}, "a sharper kernel"),
        ({"kernel": ["Br40d", "3"]}, {"kernel": ["Bl64d", "3"]}, "a sharper kernel"),
        ({"kernel": ""}, {"kernel": "LUNG"}, "a sharper kernel"),
        ({}, {"thickness_mm": 2.0}, "thicker slices"),
        ({"kernel": "LUNG"}, {"thickness_mm": 5.0}, "thicker slices"),
        ({"thickness_mm": 3.0}, {"thickness_mm": 1.0, "kernel": "BONE"}, "a sharper kernel"),
        ({"thickness_mm": 5.0}, {"thickness_mm": 8.0}, "thicker slices"),
        ({"thickness_mm": 2.0}, {"thickness_mm": None}, "thicker slices"),
        ({}, {"slices": 22}, "fewer slices"),
        ({"thickness_mm": 8.0}, {"slices": 10}, "only 10 slices"),
        ({"thickness_mm": 8.0}, {"orientation": CORONAL}, "not axial"),
        ({"thickness_mm": 8.0}, {"description": "Lung MIP 10 mm"}, "a projection of several slices"),
        ({}, {}, "equal to the chosen one"),
    ],
)
def test_the_better_series_is_chosen_whatever_its_place(tmp_path, better, worse, reason):
    swapped = reason != "equal to the chosen one"
    for folder, first, second in (("a", better, worse), *([("b", worse, better)] if swapped else [])):
        save(series(1, **first), tmp_path / folder / "x")
        save(series(2, **second), tmp_path / folder / "y")
        number = 1 if folder == "a" else 2
        assert chosen(tmp_path / folder) == (
            [f"{UID}.{number}"],
            {str(number): "best of 2", str(3 - number): reason},
        )


def test_each_study_keeps_one(tmp_path):
    save(series(1), tmp_path / "p", "a{}.dcm")
    save(series(2, kernel="B70f"), tmp_path / "p", "b{}.dcm")
    save(series(3, kernel="B70f", study=f"{UID}.10"), tmp_path / "q")
    kept, reasons = chosen(tmp_path)
    assert kept == [f"{UID}.1", f"{UID}.3"]
    assert reasons == {"1": "best of 2", "2": "a sharper kernel", "3": "the only one"}


def test_what_is_no_ct_series_stays(tmp_path, write_nifti):
    write_nifti("n.nii.gz", FLAT)
    save(series(1), tmp_path / "ct")
    magnetic = ct_slice(FLAT[:, :, 0], (0, 0, 0), uid=f"{UID}.5")
    magnetic.Modality = "MR"
    save([magnetic], tmp_path / "mr")
    odd = series(6)
    odd[0].ImageOrientationPatient = None
    save(odd[:1], tmp_path / "odd")
    assert len(find_scans(tmp_path)) == 4
    kept, reasons = chosen(tmp_path)
    assert set(kept) == {f"{UID}.1", f"{UID}.5", None, f"{UID}.6"}
    assert reasons == {"1": "the only one"}


def test_headers_that_cannot_be_understood_stay(tmp_path):
    save(series(1), tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert b"\x18\x00\x50\x00DS\x04\x001.0 " in content
        path.write_bytes(content.replace(b"\x18\x00\x50\x00DS\x04\x001.0 ", b"\x18\x00\x50\x00DS\x04\x001,0 "))
    assert chosen(tmp_path) == ([f"{UID}.1"], {})


def test_enhanced_files_take_part(tmp_path):
    save([enhanced(series(1))], tmp_path / "a")
    save(series(2, thickness_mm=2.0), tmp_path / "b")
    assert chosen(tmp_path)[1]["2"] == "thicker slices"


@pytest.mark.parametrize(
    ("kernel", "sharpness"),
    [
        *((name, "soft") for name in ("B31f", "Br40", "I30f", "Qr40d", "STANDARD", "soft", "B", "C", "FC08", "FC13-H")),
        *((name, "sharp") for name in ("B50f", "B70s", "Bl57d", "LUNG", "BONEPLUS", "YA", "L", "FC51", "FC30")),
        *((name, "unknown") for name in ("", "CUSTOM", "CHST", "B3", "1234")),
    ],
)
def test_kernels_by_name(kernel, sharpness):
    assert sharpness_of(kernel) == sharpness


@pytest.mark.slow
def test_the_command_assesses_and_reports_the_choice(tmp_path, bright_bundle):
    from dicom_series import phantom_series

    from covsev.phantom import make_phantom

    scan = make_phantom((5.0, 5.0, 10.0)).scan
    for number, kernel in ((1, "LUNG"), (2, "STANDARD")):
        datasets = phantom_series(scan, uid=f"{UID}.{number}")
        for dataset in datasets:
            dataset.ConvolutionKernel = kernel
        save(datasets, tmp_path / "study", f"{number}-{{}}.dcm")
    out = tmp_path / "out"
    arguments = ["severity", tmp_path / "study", "-o", out, "--best-series", "--bundle", bright_bundle]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "assessing study_2: best of 2" in result.output
    assert "leaving out study_1: a sharper kernel" in result.output
    assert [path.name for path in out.glob(f"*{SEVERITY_SUFFIX}")] == [f"study_2{SEVERITY_SUFFIX}"]
    rows = json.loads((out / "series.json").read_text())["series"]
    assert [(row["case"], row["chosen"], row["kernel"]) for row in rows] == [
        ("study_2", True, "STANDARD"),
        ("study_1", False, "LUNG"),
    ]
    assert UID not in (out / "series.json").read_text()
