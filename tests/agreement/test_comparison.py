"""covsev compare: pairs, tables, figures, the clinical class, and what it refuses."""

from __future__ import annotations

import builtins
import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from covsev.agreement.comparison import compare, read_classes, read_scores, write_comparison
from covsev.commands.main import app
from covsev.errors import CovsevError, GridMismatchError
from covsev.masks.reading import read_masks
from covsev.masks.scoring import score_masks, write_scored
from covsev.scan import save_labels

runner = CliRunner()


def save(folder, phantom, name, array):
    folder.mkdir(parents=True, exist_ok=True)
    save_labels(array.astype(np.uint8), phantom.scan, folder / name)
    return folder / name


def rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def results(phantom, tmp_path_factory):
    """Two directories of five scans: the reference's lesions, and half of each removed or not."""
    folder = tmp_path_factory.mktemp("results")
    for number in range(5):
        grown = phantom.lesions * (np.arange(phantom.lesions.shape[2]) < 25 + 8 * number)
        for side, lesions in (
            ("ref", grown),
            ("pred", np.where(np.arange(len(grown))[:, None, None] % 5 > 0, grown, 0)),
        ):
            paths = {
                name: save(folder / side, phantom, f"p{number}_{name}.nii.gz", array)
                for name, array in (("lungs", phantom.lungs), ("lobes", phantom.lobes), ("lesions", lesions))
            }
            write_scored(score_masks(read_masks(**paths)), folder / side)
    return folder


def test_directories_are_paired_by_name(results, tmp_path):
    found = compare(results / "ref", results / "pred")
    assert len(found.masks) == 5 * (3 + 6 + 3)
    assert not found.unpaired
    one = {row["structure"]: row for row in found.masks if row["case"] == "p4" and row["kind"] == "lesions"}
    assert set(one) == {"infection", "ground_glass", "consolidation"}
    assert 0.8 < one["infection"]["dice"] < 1
    assert one["infection"]["tolerance_mm"] == 3
    lungs = [row for row in found.masks if row["kind"] == "lungs"]
    assert {row["dice"] for row in lungs} == {1}
    assert {row["tolerance_mm"] for row in lungs} == {1}


def test_scores_of_directories_are_compared(results):
    found = {row["score"]: row for row in compare(results / "ref", results / "pred").scores}
    opacity, points = found["po_chaganti2020"], found["ctss25_pan2020"]
    assert (opacity["pairs"], opacity["left_out"], opacity["unit"]) == (5, 0, "%")
    assert opacity["bias"] < 0
    assert opacity["pearson_r"] > 0.95
    assert opacity["kappa"] is None
    assert points["within_one"] is not None
    assert "pho_chaganti2020" not in found  # no CT, so neither side has it


def test_tables_and_figures_are_written(results, tmp_path):
    clinical = tmp_path / "clinical.csv"
    classes = ("Mild", "regular", "Severe", "Critically ill", "Suspected")
    clinical.write_text("case,class\n" + "".join(f"p{i},{name}\n" for i, name in enumerate(classes)))
    written = write_comparison(compare(results / "ref", results / "pred", clinical=clinical), tmp_path / "out")
    names = {"mask_agreement.csv", "score_agreement.csv", "bland_altman.png", "clinical.csv", "clinical.png"}
    assert {path.name for path in written} == names == {path.name for path in (tmp_path / "out").iterdir()}
    found = {row["score"]: row for row in rows(tmp_path / "out" / "clinical.csv")}
    assert (found["po_chaganti2020"]["cases"], found["po_chaganti2020"]["severe"]) == ("4", "2")
    assert found["po_chaganti2020"]["auc"] == "1"
    assert found["pho_chaganti2020"]["auc"] == ""
    for name in ("bland_altman.png", "clinical.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 500
    assert rows(tmp_path / "out" / "mask_agreement.csv")[0]["case"] == "p0"


def test_what_lies_on_one_side_only_is_named(results, phantom, tmp_path):
    save(tmp_path / "ref", phantom, "a_lungs.nii.gz", phantom.lungs)
    save(tmp_path / "ref", phantom, "b_lungs.nii.gz", phantom.lungs)
    save(tmp_path / "pred", phantom, "a_lungs.nii.gz", phantom.lungs)
    (tmp_path / "pred" / "a_severity.json").write_text('{"case": "a", "scores": {}}')
    assert compare(tmp_path / "ref", tmp_path / "pred").unpaired == ["lungs of b", "scores of a"]


def test_a_reference_of_another_name_and_convention(phantom, tmp_path):
    """JunMa's map beside our lesions: kinds are not told apart there, so infection alone is compared."""
    merged = np.where(phantom.lesions > 0, 3, np.array([0, 2, 1])[phantom.lungs])
    reference = save(tmp_path, phantom, "coronacases_001.nii.gz", merged)
    reference = reference.rename(tmp_path / "plain.nii.gz")
    predicted = save(tmp_path, phantom, "p_lesions.nii.gz", phantom.lesions)
    (row,) = compare(reference, predicted, reference_labels=["covid19-ct-seg"]).masks
    assert (row["case"], row["structure"], row["dice"]) == ("p", "infection", 1)


def test_directories_of_plain_names_need_the_kind(phantom, tmp_path):
    for side in ("ref", "pred"):
        save(tmp_path / side, phantom, "x.nii.gz", phantom.lobes)
    with pytest.raises(CovsevError, match="nothing to compare"):
        compare(tmp_path / "ref", tmp_path / "pred")
    found = compare(tmp_path / "ref", tmp_path / "pred", kind="lobes")
    assert [row["structure"] for row in found.masks][:2] == ["all_lobes", "left_upper"]
    with pytest.raises(CovsevError, match=r"x.nii.gz: the name does not say what it shows; give --kind"):
        compare(tmp_path / "ref" / "x.nii.gz", tmp_path / "pred" / "x.nii.gz")


@pytest.mark.parametrize(("side", "option"), [("ref", "--ref-labels"), ("pred", "--pred-labels")])
def test_an_ambiguous_map_is_refused_with_the_option_of_its_side(phantom, tmp_path, side, option):
    for folder in ("ref", "pred"):
        save(tmp_path / folder, phantom, "a.nii.gz" if folder == side else "a_lesions.nii.gz", phantom.lesions > 0)
    with pytest.raises(CovsevError, match=rf"say which with {option} lesions=NAME"):
        compare(tmp_path / "ref", tmp_path / "pred", kind="lesions")


def test_another_grid_is_refused(phantom, tmp_path):
    reference = save(tmp_path / "ref", phantom, "a_lungs.nii.gz", phantom.lungs)
    other = phantom.scan.affine.copy()
    other[0, 3] += 1
    scan = type(phantom.scan)(phantom.scan.hu, other, "a", phantom.scan.source)
    (tmp_path / "pred").mkdir()
    save_labels(phantom.lungs, scan, tmp_path / "pred" / "a_lungs.nii.gz")
    with pytest.raises(GridMismatchError, match="another grid than its reference"):
        compare(reference, tmp_path / "pred" / "a_lungs.nii.gz")


def test_a_file_and_a_directory_are_refused(results):
    with pytest.raises(CovsevError, match="compare two files or two directories"):
        compare(results / "ref", results / "pred" / "p0_lungs.nii.gz")


# ---- reading scores -----------------------------------------------------------------------------------------------


def test_scores_come_from_json_from_a_table_and_from_a_directory(results, tmp_path):
    of_json = read_scores(results / "ref" / "p2_severity.json")["p2"]
    of_table = read_scores(results / "ref" / "severity.csv")["p2"]
    of_folder = read_scores(results / "ref")
    assert list(of_folder) == [f"p{i}" for i in range(5)]
    assert of_folder["p2"] == of_json
    for id_, value in of_json.items():
        assert of_table[id_] == (None if value is None else pytest.approx(value, rel=1e-5))


def test_a_radiologists_table_may_hold_one_score(results, tmp_path):
    table = tmp_path / "reader.csv"
    table.write_text("case,ctss25_pan2020\np0,1\np1,\np2,4\np3,5\np4,6\n")
    (row,) = [
        row for row in compare(table, results / "pred" / "severity.csv").scores if row["score"] == "ctss25_pan2020"
    ]
    assert (row["pairs"], row["left_out"]) == (4, 1)


def test_a_spreadsheets_table_with_a_byte_order_mark_is_read(tmp_path):
    table = tmp_path / "reader.csv"
    table.write_text("case,ctss25_pan2020\np0,1\n", encoding="utf-8-sig")
    assert read_scores(table) == {"p0": {"ctss25_pan2020": 1}}


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "{"), ("a.json", '{"case": 1}'), ("a.csv", "case,po_chaganti2020\nx,many\n"), ("a.csv", "name\nx\n")],
)
def test_what_is_no_result_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(CovsevError, match="not a result of covsev"):
        read_scores(tmp_path / name)


# ---- the clinical class -------------------------------------------------------------------------------------------


def test_unknown_classes_are_left_out(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("case,class,age\na,Mild,3\nb,Suspected,4\nc, Critically ill ,5\n", encoding="utf-8-sig")
    assert read_classes(path) == {"a": "mild", "c": "critically ill"}


def test_a_clinical_table_without_columns_or_classes_is_refused(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("patient,class\na,Mild\n")
    with pytest.raises(CovsevError, match="expected the columns case and class, got"):
        read_classes(path)
    path.write_text("case,class\na,unwell\n")
    with pytest.raises(CovsevError, match="no known class; expected one of control, mild"):
        read_classes(path)


def test_classes_of_other_cases_are_refused(results, tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("case,class\nsomeone,Mild\n")
    with pytest.raises(CovsevError, match="no case has both scores and a clinical class"):
        compare(results / "ref", results / "pred", clinical=path)


# ---- the command --------------------------------------------------------------------------------------------------


def test_compare_prints_and_writes(results, tmp_path):
    args = ["compare", str(results / "ref"), str(results / "pred"), "-o", str(tmp_path)]
    result = runner.invoke(app, args, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for text in ("infection", "po_chaganti2020", "bland_altman.png", "kappa"):
        assert text in "".join(result.output.split())  # paths wrap


def test_compare_of_nothing_exits_with_2(tmp_path):
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
    result = runner.invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "o")])
    assert result.exit_code == 2
    assert "nothing to compare" in " ".join(result.output.split())
    result = runner.invoke(app, ["compare", "a", "b", "-o", "o", "--kind", "liver"])
    assert result.exit_code == 2
    assert "lungs, lobes, lesions" in " ".join(result.output.split())


def test_figures_without_matplotlib_say_what_to_install(results, tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    found = compare(results / "ref", results / "pred")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CovsevError, match=r"figures need matplotlib; install covsev\[agreement\]"):
        write_comparison(found, tmp_path)
    assert json.loads(json.dumps(rows(tmp_path / "score_agreement.csv")))  # tables are there all the same
