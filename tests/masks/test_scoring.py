"""covsev score and covsev scores: the command, its files, its exit codes, what it must not import."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from covsev.anatomy.lobes.segments import segment_regions, segments_of
from covsev.assessment import assess
from covsev.commands.main import app
from covsev.labels import DISCLAIMER, SEGMENTS
from covsev.phantom import make_phantom
from covsev.report.outputs import write
from covsev.scan import save_labels
from covsev.severity import SCORES

runner = CliRunner()


@pytest.fixture(scope="module")
def files(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    for name in ("lungs", "lobes", "lesions"):
        save_labels(getattr(phantom, name), phantom.scan, folder / f"a_{name}.nii.gz")
    nib.save(nib.Nifti1Image(phantom.scan.hu, phantom.scan.affine), folder / "a.nii.gz")
    return folder


def arguments(files, output, *kinds, case="a"):
    paths = [part for kind in kinds for part in (f"--{kind}", str(files / f"{case}_{kind}.nii.gz"))]
    return ["score", *paths, "-o", str(output)]


def run(*args):
    return runner.invoke(app, list(args), env={"COLUMNS": "200"})


def test_score_writes_json_and_csv_and_prints_the_scores(files, tmp_path):
    result = run(*arguments(files, tmp_path, "lesions", "lungs", "lobes"), "--scan", str(files / "a.nii.gz"))
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"a_severity.json", "severity.csv"}
    content = json.loads((tmp_path / "a_severity.json").read_text())
    assert content["method"]["lungs"].endswith("a_lungs.nii.gz, labels of covsev")
    assert content["weights"] == "none"
    for score in SCORES:
        assert score.id in result.output
    assert "Finding: " in result.output
    assert DISCLAIMER in result.output


def test_score_gives_the_numbers_of_severity_for_the_same_masks(phantom, bright_model, files, tmp_path):
    made = write(assess(phantom.scan, bright_model), tmp_path / "severity")
    folder = tmp_path / "severity"
    result = run(
        *arguments(folder, tmp_path / "score", "lesions", "lungs", "lobes", case="phantom"),
        "--scan",
        str(files / "a.nii.gz"),
    )
    assert result.exit_code == 0, result.output
    scored = json.loads((tmp_path / "score" / "phantom_severity.json").read_text())
    for key in ("scores", "regions", "subregions", "finding", "noise_floor_ml"):
        assert scored[key] == json.loads(json.dumps(made[key])), key


def test_rows_of_other_scans_stay_in_the_table(files, tmp_path):
    for case in ("first", "second", "first"):
        assert run(*arguments(files, tmp_path, "lesions", "lungs"), "--case", case).exit_code == 0
    with (tmp_path / "severity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["second", "first"]
    assert {row["po_chaganti2020"] for row in rows} == {rows[0]["po_chaganti2020"]}
    assert rows[0]["ctss25_pan2020"] == ""  # no lobes: empty, not 0


def test_a_table_with_a_byte_order_mark_is_continued(files, tmp_path):
    table = tmp_path / "severity.csv"
    table.write_text("case,po_chaganti2020\nfirst,1\n", encoding="utf-8-sig")
    assert run(*arguments(files, tmp_path, "lesions", "lungs"), "--case", "second").exit_code == 0
    with table.open(newline="") as stream:
        assert [row["case"] for row in csv.DictReader(stream)] == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"case,po_chaganti2020,comment\nfirst,1,seen\n", "it has the column 'comment'"),
        (b"case;po_chaganti2020\nfirst;1\n", "it has the column 'case;po_chaganti2020'"),
        (b"case,po_chaganti2020\nfirst,1,2\n", "it has the column 'more than its header'"),
        (b"po_chaganti2020\n1\n", "it has no column 'case'"),
        (b"", "it has no column 'case'"),
        (b"case\nM\xfcller\n", "codec can't decode byte 0xfc"),
    ],
)
def test_a_table_of_something_else_is_not_written_over(content, reason, files, tmp_path):
    (tmp_path / "severity.csv").write_bytes(content)
    result = run(*arguments(files, tmp_path, "lesions", "lungs"))
    assert result.exit_code == 2, result.output
    assert reason in " ".join(result.output.split())
    assert "move it, or choose another folder" in " ".join(result.output.split())
    assert (tmp_path / "severity.csv").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["severity.csv"]


@pytest.mark.parametrize("case", ["../outside", "a/b", ".."])
def test_a_case_that_is_a_path_is_refused(case, files, tmp_path):
    for more in ((), ("--scan", str(files / "a.nii.gz"))):
        result = run(*arguments(files, tmp_path / "out", "lesions", "lungs"), "--case", case, *more)
        assert result.exit_code == 2
        assert "must not be a path" in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
@pytest.mark.parametrize("command", [["score", "--lesions", "x.nii.gz"], ["severity", "."]])
def test_a_noise_floor_is_a_number_from_0_on(command, value, tmp_path):
    result = run(*command, "-o", str(tmp_path / "out"), "--noise-floor-ml", value)
    assert result.exit_code == 2
    assert "Invalid value for '--noise-floor-ml'" in result.output
    assert not (tmp_path / "out").exists()


def test_a_failed_check_stops_the_scores_and_exits_with_1(phantom, files, tmp_path):
    save_labels(np.where(phantom.lungs > 0, 3 - phantom.lungs, 0), phantom.scan, tmp_path / "swapped_lungs.nii.gz")
    result = run(*arguments(files, tmp_path, "lesions"), "--lungs", str(tmp_path / "swapped_lungs.nii.gz"))
    assert result.exit_code == 1
    assert "fail: sides_swapped" in result.output
    content = json.loads((tmp_path / "a_severity.json").read_text())
    assert {score["value"] for score in content["scores"].values()} == {None}
    assert content["scores"]["po_chaganti2020"]["reason"].startswith("quality check failed: sides_swapped")
    assert content["regions"]["both_lungs"]["volume_ml"] > 1000
    assert content["finding"]["state"] == "uncertain"


def test_bad_input_exits_with_2_and_one_line(files, tmp_path):
    result = run(*arguments(files, tmp_path, "lesions"))
    assert result.exit_code == 2
    assert result.output.count("error:") == 1
    assert "give --lungs or --lobes too" in " ".join(result.output.split())
    assert run("score", "--lesions", "missing.nii.gz", "-o", str(tmp_path)).exit_code == 2


def test_score_imports_neither_torch_nor_monai(files, tmp_path):
    args = [*arguments(files, tmp_path, "lesions", "lungs", "lobes"), "--scan", str(files / "a.nii.gz")]
    heavy = ("torch", "monai", "SimpleITK", "skimage", "pandas", "scipy.ndimage")
    code = (
        "import sys; from typer.testing import CliRunner; from covsev.commands.main import app; "
        f"assert CliRunner().invoke(app, {args!r}).exit_code == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_scores_prints_every_score_with_its_bands_and_source():
    result = run("scores")
    assert result.exit_code == 0
    for score in SCORES:
        assert score.id in result.output
        assert score.source in result.output
        assert score.rule in result.output
        assert (score.approximate or "") in result.output


def test_segments_from_a_sample_are_nearly_those_of_the_full_grid():
    fine = make_phantom((1.0, 1.0, 4.0))
    sampled, full = segments_of(fine.lobes, fine.scan.affine), segment_regions(fine.lobes, fine.scan.affine)
    lobe_of = np.array([0, *(segment.lobe.id for segment in SEGMENTS)], np.uint8)
    assert ((sampled > 0) <= (lobe_of[sampled] == fine.lobes)).all()
    inside = fine.lobes > 0
    assert (sampled[inside] == 0).mean() < 0.001
    assert (sampled[inside] == full[inside]).mean() > 0.97
    assert np.array_equal(segments_of(np.asfortranarray(fine.lobes), fine.scan.affine), sampled)
