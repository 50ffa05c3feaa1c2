"""What the bundles call: checks of overrides, and inference over a folder."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from covsev import labels
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.assessment import assess, lung_model_for
from covsev.batch import assess_directory
from covsev.bundle_run import (
    assess_scans,
    refuse_unknown_overrides,
    run_configs,
    segment_directory,
    segment_lungs_of_directory,
)
from covsev.errors import BundleError, ScanError, SettingError
from covsev.lesions.model import load_model
from covsev.options import DEFAULT_BUNDLE, INFECTION_BUNDLE, LESION_BUNDLE, Options
from covsev.scan import find_slices, load_scan

SEVERITY = str(INFECTION_BUNDLE.with_name("covid_severity_ct") / "configs" / "inference.yaml")
INFERENCE = str(INFECTION_BUNDLE / "configs" / "inference.yaml")


def _run_bundle(*overrides: str, config: str = INFERENCE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *overrides]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_monai_bundle_run_writes_the_mask_of_the_command_line(small_scan, tmp_path):
    done = _run_bundle("--dataset_dir", str(small_scan.parent), "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    mask = nib.load(tmp_path / f"small{labels.INFECTION_SUFFIX}")
    options = Options(restrict_to_lungs=False)
    expected = assess(load_scan(small_scan), load_model(INFECTION_BUNDLE), options).lesions.labels > 0
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, expected)
    assert expected.any()


@pytest.mark.slow
def test_the_severity_bundle_does_what_the_command_line_does(small_scan, bright_bundle, tmp_path):
    shutil.copy(small_scan, tmp_path)
    (tmp_path / "bad.nii").write_bytes(b"bad")
    folders = ("--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"))
    done = _run_bundle(*folders, "--lesion_bundle", str(bright_bundle), config=SEVERITY)
    assert done.returncode != 0
    assert "1 of 2 scans failed; see " in done.stderr
    result = assess_directory(tmp_path, tmp_path / "out", bundle=bright_bundle)
    assert result.skipped == 1


def test_the_severity_bundle_has_the_options_and_the_network_of_the_command_line():
    parser = ConfigParser()
    parser.read_config(SEVERITY)
    assert parser.get_parsed_content("options") == Options()
    assert parser.get_parsed_content("lesion_bundle") == str(DEFAULT_BUNDLE)
    for name, default in asdict(Options()).items():
        text = "threshold" if name == "lungs" else "changed"  # the lungs have a list of choices
        changed = {bool: not default, float: 2.5}.get(type(default), text)
        parser.read_config(SEVERITY)
        parser[name] = changed
        parser.parse(reset=True)
        assert parser.get_parsed_content("options") == replace(Options(), **{name: changed})


def test_the_severity_bundle_wants_both_folders():
    with pytest.raises(ScanError, match="name both folders"):
        assess_scans(None, "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--datset_dir", "x"), "--datset_dir is not in the configuration"),
        (("--dataset_dir", "{empty}", "--output_dir", "x"), "no scans and no PNG or JPG slices"),
        (("--dataset_dir", "{empty}/missing", "--output_dir", "x"), "no such file or folder"),
        (("--dataset_dir", "{empty}", "--output_dir", "x", "--checkpoint", "none.pt"), "no weights there"),
    ],
)
def test_monai_bundle_run_refuses_what_monai_lets_pass(overrides, message, tmp_path):
    done = _run_bundle(*(part.format(empty=tmp_path) for part in overrides))
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--config_file", INFERENCE, "--threshold", "0.4", "--network_def#backbone", "res2net50"),
        ("run", f"--config_file=['{INFERENCE}']", "--network_def::backbone=res2net50"),
        ("run", "--config_file", INFERENCE, "--logging_file", "none"),
        ("run", "--config_file", str(LESION_BUNDLE / "configs" / "evaluate.yaml"), "--true_prior", "True"),
        ("run", "--config_file", str(LESION_BUNDLE / "configs" / "evaluate.yaml"), "--true_prior", "$1 > 2"),
        ("severity", "scans"),
    ],
)
def test_known_overrides_pass(arguments):
    refuse_unknown_overrides(arguments)


@pytest.mark.parametrize("name", ["treshold", "network_def#bakbone", "handlers#0#x"])
def test_unknown_overrides_are_refused(name):
    with pytest.raises(BundleError, match=rf"--{name} is not in the configuration; it has .*threshold"):
        refuse_unknown_overrides(("run", "--config_file", INFERENCE, f"--{name}", "1"))


@pytest.mark.parametrize(
    ("arguments", "given"),
    [(("--true_prior", "false"), "false"), (("--true_prior=1",), "1"), (("-true_prior",), "nothing")],
)
def test_a_yes_or_no_that_would_be_read_as_text_is_refused(arguments, given):
    evaluate = LESION_BUNDLE / "configs" / "evaluate.yaml"
    with pytest.raises(BundleError, match=f"--true_prior must be True or False, with a capital; got {given}"):
        refuse_unknown_overrides(("run", "--config_file", str(evaluate), *arguments))


def test_a_none_that_monai_would_drop_is_refused():
    with pytest.raises(BundleError, match=r"--threshold None would be dropped by MONAI; write '\$None'"):
        refuse_unknown_overrides(("run", "--config_file", INFERENCE, "--threshold", "None"))
    refuse_unknown_overrides(("run", "--config_file", INFERENCE, "--output_dir", "None"))


def test_overrides_with_one_dash_and_in_a_file_are_checked(tmp_path):
    with pytest.raises(BundleError, match="--treshold is not in the configuration"):
        refuse_unknown_overrides(("run", "--config_file", INFERENCE, "-treshold", "1"))
    (tmp_path / "args.yaml").write_text(f"config_file: {INFERENCE}\ntreshold: 1\n")
    with pytest.raises(BundleError, match="--treshold is not in the configuration"):
        refuse_unknown_overrides(("run", "--args_file", str(tmp_path / "args.yaml")))


def test_none_arrives_as_a_setting(monkeypatch):
    commands = []
    monkeypatch.setattr("covsev.bundle_run.subprocess.run", lambda command, check: commands.append(command))
    run_configs(["a.yaml"], {"rounds": None, "epochs": 2})
    assert commands[0][-4:] == ["--rounds", "$None", "--epochs", "2"]


def test_pictures_and_masks_of_covsev_are_no_slices(tmp_path):
    names = ("a_overlay.png", "a_summary.png", "a_infection.png", "b_lesions.png", ".hidden.png", "c.nii.gz")
    (tmp_path / ".checkpoints").mkdir()
    for name in (*names, ".checkpoints/d.png", "slice.PNG", "other.jpeg"):
        (tmp_path / name).touch()
    assert [found.path.name for found in find_slices(tmp_path)] == ["other.jpeg", "slice.PNG"]


def test_the_bundle_run_gives_the_unrestricted_mask(small_scan, tmp_path, bright_model):
    segment_directory(small_scan.parent, tmp_path, bright_model)
    mask = nib.load(tmp_path / f"small{labels.INFECTION_SUFFIX}")
    expected = assess(load_scan(small_scan), bright_model, Options(restrict_to_lungs=False)).lesions.labels > 0
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, expected)
    assert expected.any()


def test_the_lung_bundle_writes_the_lungs_of_the_command_line(small_scan, tmp_path):
    model = lung_model_for(Options())
    segment_lungs_of_directory(small_scan.parent, tmp_path, model)
    mask = np.asarray(nib.load(tmp_path / f"small{labels.LUNGS_SUFFIX}").dataobj)
    np.testing.assert_array_equal(mask, segment_lungs(load_scan(small_scan), model).labels)
    assert set(np.unique(mask)) == {0, 1, 2}
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ScanError, match="no scans in it"):
        segment_lungs_of_directory(tmp_path / "nothing", tmp_path, model)


def test_a_threshold_finds_the_lungs_where_it_is_chosen_or_there_are_no_weights(monkeypatch, tmp_path):
    assert lung_model_for(Options(lungs="threshold")) is None
    assert lung_model_for(Options()) is not None
    monkeypatch.setattr("covsev.assessment.LUNG_BUNDLE", tmp_path)
    assert lung_model_for(Options()) is None
    with pytest.raises(SettingError, match="lungs must be one of network, threshold; got 'airy'"):
        Options(lungs="airy")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_slices_give_masks_of_their_own_size(suffix, tmp_path, bright_model):
    grey = np.full((90, 61), 30, np.uint8)
    grey[30:60, 20:40] = 220
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(grey).save(tmp_path / "in" / "deep" / f"slice.{suffix}")
    segment_directory(tmp_path / "in", tmp_path / "out", bright_model)
    mask = np.asarray(Image.open(tmp_path / "out" / "deep_slice_infection.png"))
    assert mask.shape == grey.shape
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[35:55, 24:36] == 255).all()


def test_slices_of_one_name_do_not_overwrite_each_other(tmp_path, bright_model):
    grey = np.zeros((64, 64), np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(grey).save(tmp_path / name)
    segment_directory(tmp_path, tmp_path / "out", bright_model)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_an_empty_folder_is_refused(tmp_path, bright_model):
    with pytest.raises(ScanError, match="no scans and no PNG or JPG slices"):
        segment_directory(tmp_path, tmp_path / "out", bright_model)


@pytest.mark.parametrize("folders", [(None, "out"), ("in", None)])
def test_folders_must_be_named(folders, bright_model):
    with pytest.raises(ScanError, match="name both folders"):
        segment_directory(*folders, bright_model)


def test_bad_files_are_named_after_the_good_ones_are_done(small_scan, tmp_path, bright_model):
    shutil.copy(small_scan, tmp_path)
    (tmp_path / "bad.nii.gz").write_bytes(gzip.compress(b"nothing"))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ScanError, match=r"2 of 3 failed: .*bad.nii.gz.*bad.png: cannot be read as an image"):
        segment_directory(tmp_path, tmp_path / "out", bright_model)
    assert (tmp_path / "out" / f"small{labels.INFECTION_SUFFIX}").is_file()


def test_slices_whose_paths_flatten_to_one_name_do_not_overwrite_each_other(tmp_path, bright_model):
    (tmp_path / "in" / "a").mkdir(parents=True)
    for name in ("a/b.png", "a_b.png"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "in" / name)
    segment_directory(tmp_path / "in", tmp_path / "out", bright_model)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_16_bit_slice_is_refused(tmp_path, bright_model):
    Image.fromarray(np.full((64, 64), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ScanError, match=r"deep.png: has mode I;16, not 8 bit"):
        segment_directory(tmp_path, tmp_path / "out", bright_model)


def test_an_unexpected_error_does_not_end_the_run(tmp_path, bright_model, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("odd")

    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "slice.png")
    monkeypatch.setattr("covsev.bundle_run.segment_slice", fail)
    with pytest.raises(ScanError, match="1 of 1 failed: ZeroDivisionError: odd"):
        segment_directory(tmp_path, tmp_path / "out", bright_model)


def test_configurations_are_read_together_with_the_settings_as_overrides(tmp_path):
    first, second, written = tmp_path / "first.yaml", tmp_path / "second.yaml", tmp_path / "written"
    first.write_text(
        "imports: [$from pathlib import Path]\ntarget: null\nfirst: 1\nlast: 1\ninitialize: []\n"
        "run: ['$Path(@target).write_text(str([@first, @last]))']\n"
    )
    second.write_text("first: 2\n")
    run_configs([first, second], {"target": written, "last": 3})
    assert written.read_text() == "[2, 3]"
    with pytest.raises(subprocess.CalledProcessError):
        run_configs([first], {"target": tmp_path / "missing" / "written"})
