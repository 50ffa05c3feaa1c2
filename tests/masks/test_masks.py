"""Masks of other tools give the numbers of our own, to the digit; what is ambiguous is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from covsev.errors import GridMismatchError, LabelError, ScanError
from covsev.masks.conventions import CONVENTIONS, TOTALSEGMENTATOR_FILES
from covsev.masks.reading import read_masks
from covsev.masks.recognition import LabelFile, parse_choices, recognise, translate, values_in
from covsev.masks.scoring import score_masks
from covsev.phantom import make_phantom
from covsev.scan import read_labels, save_labels

LPS = np.diag([-3.0, -3.0, 4.0, 1.0])


@pytest.fixture
def save(tmp_path, phantom):
    """A function that writes an array on the phantom's grid, without a word on where it comes from."""

    def write(name, array, affine=None, names=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(array, phantom.scan.affine if affine is None else affine)
        if names:
            table = "".join(f'<Label Key="{k}" Red="1"><![CDATA[{v}]]></Label>\n' for k, v in names.items())
            image.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode()))
        nib.save(image, path)
        return path

    return write


@pytest.fixture
def ours(tmp_path, phantom):
    """Our own files of the phantom's truth."""
    paths = {name: tmp_path / "ours" / f"phantom_{name}.nii.gz" for name in ("lungs", "lobes", "lesions")}
    (tmp_path / "ours").mkdir()
    for name, path in paths.items():
        save_labels(getattr(phantom, name), phantom.scan, path)
    return paths


def numbers(masks):
    """Everything measured and found, but for the scan's name."""
    scored = score_masks(masks)
    report = asdict(scored.report)
    report.pop("case")
    return report, [asdict(flag) for flag in scored.flags]


def lut(array, table):
    mapped = np.zeros(256, np.uint8)
    for old, new in table.items():
        mapped[old] = new
    return mapped[array]


TOTAL_V2 = {1: 10, 2: 11, 3: 12, 4: 13, 5: 14}
TOTAL_V1 = {1: 13, 2: 14, 3: 15, 4: 16, 5: 17}
LEFT_FIRST = {1: 2, 2: 1}
LOBE_NAMES = {id_: name for name, id_ in TOTALSEGMENTATOR_FILES.items()}


@pytest.fixture
def ct(save, phantom):
    return save("ct/phantom.nii.gz", phantom.scan.hu)


@pytest.mark.parametrize("labels", [(), ("lungmask", "lesions=covsev")])
def test_lungmask(save, ours, phantom, ct, labels):
    """R231 and LTRCLobes have our ids; lesions of 1 and 2 that cover little of the lungs can only be ours."""
    lungs, lobes = save("r231.nii.gz", phantom.lungs), save("ltrc.nii.gz", phantom.lobes)
    lesions = save("lesions.nii.gz", phantom.lesions)
    foreign = read_masks(lesions, lungs=lungs, lobes=lobes, scan=ct, labels=labels)
    assert numbers(foreign) == numbers(read_masks(**ours, scan=ct))


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        (TOTAL_V2, ("lobes=totalsegmentator",)),
        (TOTAL_V2, ()),
        (TOTAL_V1, ("lobes=totalsegmentator-v1",)),
        (TOTAL_V1, ()),
    ],
)
def test_totalsegmentator_multilabel(save, ours, phantom, table, labels):
    """A multilabel map holds other organs too; here a stomach and a trachea of both versions' numbers."""
    organs = lut(phantom.lobes, table)
    free = np.argwhere(organs == 0)
    organs[tuple(free[:50].T)], organs[tuple(free[-50:].T)] = 6, 43
    foreign = read_masks(ours["lesions"], lobes=save("total.nii.gz", organs), labels=labels)
    own = read_masks(ours["lesions"], lobes=ours["lobes"])
    assert numbers(foreign) == numbers(own)
    assert foreign.method["lungs"] == "the union of the lobes"


def test_totalsegmentator_says_its_labels_in_the_header(save, ours, phantom):
    """Any numbering, as with --roi_subset, if the header's table of names says so."""
    table = {1: 1, 2: 2, 3: 4, 4: 3, 5: 5}  # upper and middle right lobe the other way round
    names = {table[id_]: name for id_, name in LOBE_NAMES.items()}
    lobes = save("subset.nii.gz", lut(phantom.lobes, table), names=names)
    assert numbers(read_masks(ours["lesions"], lobes=lobes)) == numbers(
        read_masks(ours["lesions"], lobes=ours["lobes"])
    )


def test_totalsegmentator_folder(save, ours, phantom):
    for id_, name in LOBE_NAMES.items():
        folder = save(f"total/{name}.nii.gz", (phantom.lobes == id_).astype(np.uint8)).parent
    save("total/liver.nii.gz", np.zeros_like(phantom.lobes))
    foreign = read_masks(ours["lesions"], lobes=folder)
    assert numbers(foreign) == numbers(read_masks(ours["lesions"], lobes=ours["lobes"]))
    assert foreign.method["lobes"].endswith("files of totalsegmentator")


def test_medpseg(save, ours, phantom, ct):
    """Left and right lung by name, lobes as ours, one file a lesion kind."""
    lungs = save("m/a_lr_lung.nii.gz", lut(phantom.lungs, LEFT_FIRST))
    lobes = save("m/a_lobes.nii.gz", phantom.lobes)
    save("m/a_ggo.nii.gz", (phantom.lesions == 1).astype(np.uint8))
    folder = save("m/a_consolidation.nii.gz", (phantom.lesions == 2).astype(np.uint8)).parent
    own = numbers(read_masks(**ours, scan=ct))
    assert numbers(read_masks(folder, lungs=lungs, lobes=lobes, scan=ct)) == own
    merged = np.where(phantom.lungs > 0, 1 + phantom.lesions, 0).astype(np.uint8)
    free = np.argwhere(merged == 0)
    merged[tuple(free[:50].T)], merged[tuple(free[-50:].T)] = 4, 5  # airway, vessel
    merged_path = save("m/a_all_segmentations.nii.gz", merged)
    assert numbers(read_masks(merged_path, lungs=lungs, lobes=lobes, scan=ct)) == own
    unnamed = save("merged.nii.gz", merged)
    assert numbers(read_masks(unnamed, lungs=lungs, lobes=lobes, scan=ct)) == own


@pytest.mark.parametrize("labels", [(), ("covid19-ct-seg",)])
def test_covid19_ct_seg(save, ours, phantom, labels):
    """One map of left lung, right lung, infection: the infection is given to the nearer lung."""
    merged = np.where(phantom.lesions > 0, 3, lut(phantom.lungs, LEFT_FIRST)).astype(np.uint8)
    foreign = read_masks(save("coronacases_001.nii.gz", merged), labels=labels)
    own = read_masks(
        save("mask.nii.gz", (phantom.lesions > 0).astype(np.uint8)), lungs=ours["lungs"], labels=("lesions=infection",)
    )
    np.testing.assert_array_equal(foreign.lungs, phantom.lungs)
    assert numbers(foreign) == numbers(own)
    assert not foreign.kinds_known


def test_covid19_ct_seg_lung_masks_are_told_by_their_sides(save, phantom):
    file = LabelFile(save("x.nii.gz", phantom.lungs), lut(phantom.lungs, LEFT_FIRST), phantom.scan.affine)
    convention = recognise(file, "lungs")
    np.testing.assert_array_equal(translate(file, convention), phantom.lungs)


def test_one_value_of_lesion_is_divided_by_hu_where_there_is_a_ct(save, ours, phantom, ct):
    binary = save("inf_findings.nii.gz", (phantom.lesions > 0).astype(np.uint8))
    masks = read_masks(binary, lungs=ours["lungs"], scan=ct)
    expected = np.where(phantom.lesions > 0, 1 + (phantom.scan.hu > -200), 0)
    np.testing.assert_array_equal(masks.lesions, expected)
    assert masks.kinds_known
    assert "consolidation: lesion above -200 HU" in masks.method["lesions"]


def test_an_empty_lesion_mask_needs_no_convention(save, ours, phantom):
    masks = read_masks(save("none.nii.gz", np.zeros_like(phantom.lesions)), lungs=ours["lungs"])
    report = score_masks(masks).report
    assert report.scores["po_chaganti2020"].value == 0
    assert report.regions["both_lungs"].consolidation_ml == 0
    assert report.regions["left_upper"].reason == "no lobe map was given"
    assert report.scores["ctss25_pan2020"].value is None
    assert report.scores["ctss40_yang2020"].reason == "no lobe map was given"


def test_our_binary_infection_mask_does_not_tell_kinds_apart(ours, phantom):
    path = ours["lungs"].with_name("phantom_infection.nii.gz")
    save_labels((phantom.lesions > 0).astype(np.uint8), phantom.scan, path)
    masks = read_masks(path, lungs=ours["lungs"])
    assert not masks.kinds_known
    assert masks.method["lesions"].endswith("labels of infection")
    np.testing.assert_array_equal(masks.lesions > 0, phantom.lesions > 0)


def test_our_header_is_not_believed_under_another_name(ours, tmp_path):
    """Renamed lesions are recognised by their values; a renamed mask of ones is ambiguous."""
    renamed = ours["lesions"].rename(tmp_path / "week1.nii.gz")
    assert read_masks(renamed, lungs=ours["lungs"]).kinds_known
    file = LabelFile(renamed, *read_labels(renamed))
    with pytest.raises(LabelError, match="could mean different lesions"):
        recognise(replace(file, values=(file.values > 0).astype(np.uint8)), "lesions")


def test_a_case_is_named_after_a_link_not_after_its_target(ours, tmp_path):
    stored = ours["lesions"].rename(tmp_path / "MD5E-s123--abc.nii.gz")
    ours["lesions"].symlink_to(stored)
    assert read_masks(**ours).scan.case == "phantom"


def test_the_folder_that_one_is_in_gives_its_own_name(save, ours, phantom, monkeypatch):
    folder = save("m/a_ggo.nii.gz", (phantom.lesions == 1).astype(np.uint8)).parent
    monkeypatch.chdir(folder)
    assert read_masks(Path(), lungs=ours["lungs"]).scan.case == "m"


# ---- refused, not guessed -----------------------------------------------------------------------------------------


def test_a_mask_of_ones_could_be_ground_glass_or_any_infection(save, ours, phantom):
    binary = save("mask.nii.gz", (phantom.lesions > 0).astype(np.uint8))
    with pytest.raises(
        LabelError, match=r"values 1 could mean different lesions .*say which with --labels lesions=NAME"
    ):
        read_masks(binary, lungs=ours["lungs"])


@pytest.mark.parametrize(("written", "given"), [("lungs", "lobes"), ("lungs", "lesions"), ("lobes", "lungs")])
def test_our_map_of_another_kind_is_refused(ours, written, given):
    with pytest.raises(LabelError, match=f"covsev wrote this file as {written}; it cannot stand for {given}"):
        read_masks(**ours | {given: ours[written]})


def test_lungs_of_one_value_could_be_either_side(save, ours, phantom):
    both = save("lung.nii.gz", (phantom.lungs > 0).astype(np.uint8))
    with pytest.raises(LabelError, match="values 1 could mean different lungs"):
        read_masks(ours["lesions"], lungs=both)


def test_lungs_whose_sides_fit_nothing_are_refused(save, ours, phantom):
    """1 in front, 2 at the back."""
    front = np.where(phantom.lungs > 0, 1 + (np.arange(phantom.lungs.shape[1]) > 45)[None, :, None], 0)
    with pytest.raises(LabelError, match=r"could mean different lungs .none fits the places in the body"):
        read_masks(ours["lesions"], lungs=save("f.nii.gz", front.astype(np.uint8)))


def test_lesions_that_cover_the_lungs_could_be_lungs(save, ours, phantom):
    """1 and 2 over both lungs: lungs of COVID-19-CT-Seg without infection, or a chest full of lesion."""
    with pytest.raises(LabelError, match="could mean different lesions"):
        read_masks(save("x.nii.gz", lut(phantom.lungs, LEFT_FIRST)), lungs=ours["lungs"])


def test_unknown_values_are_refused_with_the_known_names(save, ours, phantom):
    with pytest.raises(LabelError, match=r"values 7, 9 are those of no known lungs map \(covsev, lungmask, medpseg"):
        read_masks(ours["lesions"], lungs=save("x.nii.gz", lut(phantom.lungs, {1: 7, 2: 9})))


def test_many_unknown_values_are_shortened(save, ours, phantom):
    many = 120 + np.arange(phantom.lungs.shape[0])[:, None, None] * (phantom.lungs > 0)
    with pytest.raises(LabelError, match=r"values \d+, \d+, \d+, \d+, \d+, \d+, \d+, \d+, \.\.\. \d+ are"):
        read_masks(ours["lesions"], lungs=save("x.nii.gz", many.astype(np.uint8)))


def test_a_convention_without_that_kind_is_refused(ours):
    with pytest.raises(LabelError, match="totalsegmentator has no lungs; known for lungs: covsev, lungmask, medpseg"):
        read_masks(**ours, labels=("lungs=totalsegmentator",))


@pytest.mark.parametrize("choice", ["nnunet", "lung=covsev", "=", ""])
def test_unknown_choices_are_refused(choice):
    with pytest.raises(LabelError, match="expected one of covsev, lungmask, totalsegmentator"):
        parse_choices([choice])


def test_choices_add_up():
    assert parse_choices(["medpseg", "lungs=lungmask"]) == {
        "lungs": "lungmask",
        "lobes": "medpseg",
        "lesions": "medpseg",
    }
    assert parse_choices([]) == {}


def test_lesions_alone_without_lungs_are_refused(ours):
    with pytest.raises(LabelError, match="holds no right and left lung; give --lungs or --lobes too"):
        read_masks(ours["lesions"])


def test_an_incomplete_folder_is_refused(save, ours, phantom):
    folder = save("t/lung_upper_lobe_left.nii.gz", phantom.lobes).parent
    with pytest.raises(LabelError, match="missing: lung_lower_lobe_left, lung_upper_lobe_right"):
        read_masks(ours["lesions"], lobes=folder)
    with pytest.raises(LabelError, match=r"expected \*_ggo.nii.gz, \*_consolidation.nii.gz; missing"):
        read_masks(folder, lungs=ours["lungs"])
    with pytest.raises(LabelError, match="expected a file"):
        read_masks(ours["lesions"], lungs=folder)


def test_a_folder_of_two_patients_is_refused(save, ours, phantom):
    save("t/a_ggo.nii.gz", phantom.lesions)
    folder = save("t/b_ggo.nii.gz", phantom.lesions).parent
    with pytest.raises(LabelError, match="several files end with _ggo: a_ggo"):
        read_masks(folder, lungs=ours["lungs"])


def test_a_folder_of_two_grids_is_refused(save, ours, phantom):
    save("t/a_ggo.nii.gz", phantom.lesions)
    folder = save("t/a_consolidation.nii.gz", phantom.lesions, affine=2 * LPS).parent
    with pytest.raises(GridMismatchError, match="another grid than its neighbours"):
        read_masks(folder, lungs=ours["lungs"])


@pytest.mark.parametrize(("array", "text"), [(-1.0, "from -1 to 0"), (300.0, "from 0 to 300"), (0.5, "from 0 to 0.5")])
def test_what_is_no_label_map_is_refused(save, ours, phantom, array, text):
    values = np.where(phantom.lungs > 0, array, 0).astype(np.float32)
    with pytest.raises(ScanError, match=f"values {text} are not those of a label map"):
        read_masks(ours["lesions"], lungs=save("x.nii.gz", values))


# ---- grids --------------------------------------------------------------------------------------------------------


def test_masks_on_another_grid_are_refused_or_resampled(save, tmp_path, ours, ct, phantom):
    """The same chest on another grid and orientation: nearest neighbour keeps the volume within a few percent."""
    other = make_phantom((4.0, 4.0, 5.0), orientation="RAS")
    path = tmp_path / "other_lungs.nii.gz"
    save_labels(other.lungs, other.scan, path)
    paths = ours | {"lungs": path}
    with pytest.raises(GridMismatchError, match=r"has shape .* but scan phantom has .*; --resample brings it there"):
        read_masks(**paths, scan=ct)
    lungs = read_masks(**paths, scan=ct, resample=True).lungs
    assert np.count_nonzero(lungs) == pytest.approx(np.count_nonzero(phantom.lungs), rel=0.03)
    assert 2 * np.count_nonzero((lungs > 0) & (phantom.lungs > 0)) > 1.9 * np.count_nonzero(lungs)


def test_flipped_storage_is_resampled_exactly(save, ours, ct, phantom):
    affine = phantom.scan.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (phantom.lungs.shape[0] - 1)
    affine[:3, 0] *= -1
    flipped = save("flipped.nii.gz", phantom.lungs[::-1].copy(), affine)
    masks = read_masks(**(ours | {"lungs": flipped}), scan=ct, resample=True)
    np.testing.assert_array_equal(masks.lungs, phantom.lungs)


def test_another_origin_is_named(save, ours, phantom):
    moved = phantom.scan.affine.copy()
    moved[0, 3] += 5
    with pytest.raises(GridMismatchError, match="has another affine than scan phantom: up to 5 apart"):
        read_masks(ours["lesions"], lungs=save("x.nii.gz", phantom.lungs, moved))


# ---- the table ----------------------------------------------------------------------------------------------------


def test_every_convention_says_where_it_is_written_down():
    assert all(convention.source for convention in CONVENTIONS)


def test_values_are_found_wherever_they_are():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[3, 4, 5], labels[0, 0, 0] = 255, 7
    assert values_in(labels) == values_in(labels.transpose(2, 0, 1)) == [7, 255]
    assert values_in(0 * labels) == []
