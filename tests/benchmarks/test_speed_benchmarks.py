"""The benchmarks of network and training speed: what is measured, and how the tables are made of it."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmark_modules import FOLDER, load_benchmark
from toy_slices import write_toy_dataset

from covsev.inference.torch_runner import TorchRunner
from covsev.labels import LUNGS
from covsev.scan import Scan, load_scan, to_canonical

networks, training = load_benchmark("networks"), load_benchmark("training")
CPU = torch.device("cpu")


def _sets_the_policy(node):
    return isinstance(node, ast.Expr) and 'os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")' in ast.unparse(
        node
    ).replace("'", '"')


def _imports_torch(node):
    names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in getattr(node, "names", [])]
    heavy = ("torch", "monai", "covsev.batch", "covsev.lesion", "covsev.inference.runtime", "covsev.training")
    return any(str(name).startswith(heavy) for name in names)


def test_no_benchmark_lets_threads_spin():
    """Those that import torch set the policy before they do, for the processes that they start as well."""
    checked = 0
    for path in FOLDER.glob("*.py"):
        nodes = ast.parse(path.read_text()).body
        torch_imports = [number for number, node in enumerate(nodes) if _imports_torch(node)]
        if torch_imports:
            policy = [number for number, node in enumerate(nodes) if _sets_the_policy(node)]
            assert policy, path.name
            assert policy[0] < torch_imports[0], path.name
            checked += 1
    assert checked >= 7


# ---- networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", networks.peers())
@torch.inference_mode()
def test_peers_take_a_slice_and_give_maps_of_its_size(name):
    network, _ = networks.peers()[name]
    result = network.eval()(torch.rand(1, 1, 64, 64))
    assert tuple(result.shape) == (1, 3 if "R231" in name else 1, 64, 64)


def test_the_unet_of_r231_has_the_size_of_the_described_one():
    """Convolutions of 64 to 1024 channels, from Ronneberger et al. 2015: 31 million parameters."""
    network = networks.R231UNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(31.0e6, rel=0.01)
    assert [level[3].out_channels for level in network.down] == [64, 128, 256, 512, 1024]


def test_every_round_runs_every_contender(monkeypatch):
    calls = []
    clock = iter(range(1000))
    seconds = SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: 0.0)
    monkeypatch.setattr(networks, "time", seconds)
    contenders = [networks.Contender(name, 8, lambda name=name: calls.append(name)) for name in ("a", "b")]
    times = networks.measure(contenders, rounds=2, batch=4)
    assert calls == ["a", "b"] * 3
    assert times["b"]["wall_ms"] == [250, 250]
    assert times["a"]["cpu_ms"] == [0, 0]


def test_ratios_are_medians_over_rounds():
    times = {
        networks.OURS: {"wall_ms": [1.0, 2.0, 4.0], "cpu_ms": [1.0, 1.0, 1.0]},
        "peer": {"wall_ms": [10.0, 30.0, 44.0], "cpu_ms": [3.0, 5.0, 4.0]},
    }
    summary = networks.summarise(times)
    assert summary["peer"] == {"wall_ms": 30.0, "cpu_ms": 4.0, "wall_ratio": 11.0, "cpu_ratio": 4.0}
    assert summary[networks.OURS]["wall_ratio"] == 1
    lines = networks.table([networks.Contender("peer", 352, lambda: None)], summary).splitlines()
    assert lines[2] == "| peer | 352 | 30.0 | 11.00 | 4.0 | 4.00 |"


def test_covsev_is_measured_from_hu_to_probabilities(bright_model):
    probability = networks.covsev_contender("covsev", bright_model, 2).run()
    assert probability.shape == (2, 1, *networks.SLICE_SHAPE)
    assert 0 <= probability.min() < 0.5 < probability.max() <= 1


def test_speed_is_written_as_json(monkeypatch, bright_model, tmp_path, capsys):
    monkeypatch.setattr(networks, "load_model", lambda *_, **__: bright_model)
    monkeypatch.setattr(networks, "peers", lambda: {"peer": (torch.nn.Conv2d(1, 1, 1), 32)})
    networks.main(["--rounds", "2", "--batch", "1", "--json", str(tmp_path / "out.json")])
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["rounds"].keys() == content["medians"].keys()
    assert len(content["rounds"]["peer"]["wall_ms"]) == 2
    assert f"| {networks.OURS} | 64 |" in capsys.readouterr().out


@pytest.mark.parametrize("flip", [1, -1])
def test_slices_of_the_middle_of_the_lungs(phantom, flip):
    affine = phantom.scan.affine @ np.diag([1, 1, flip, 1])
    scan = Scan(phantom.scan.hu, affine, "x", Path("x"))
    kept = to_canonical(networks.middle_of(phantom.lungs, scan, 5), affine)
    whole = to_canonical(phantom.lungs, affine)
    levels, all_levels = (np.flatnonzero(labels.any(axis=(0, 1))) for labels in (kept, whole))
    assert len(levels) == 5
    assert np.all(np.diff(levels) == 1)
    assert abs(levels.mean() - all_levels.mean()) <= 1
    np.testing.assert_array_equal(kept[:, :, levels], whole[:, :, levels])


def test_changed_labels_are_counted_in_the_lungs(phantom, bright_model):
    blind = torch.nn.Sequential(bright_model.network, torch.nn.Threshold(1e9, -1e9))
    darker = bright_model.with_slice_network(runner=TorchRunner(blind))
    shares = networks.changed_share(
        phantom.scan, phantom.lungs, {"first": bright_model, "same": bright_model, "nothing": darker}
    )
    assert shares["same"] == 0
    expected = networks.segment_lesions(phantom.scan, phantom.lungs, bright_model).labels
    assert shares["nothing"] == np.count_nonzero(expected[phantom.lungs > 0]) / np.count_nonzero(phantom.lungs) > 0


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif("COVSEV_TEST_DATA" not in os.environ, reason="set COVSEV_TEST_DATA to the folder of real scans")
def test_runtimes_give_the_same_masks_of_a_patient():
    """Slices with lesion from the middle of the lungs; air of the lungs stands in for the lung labels, to save time."""
    scan = load_scan(Path(os.environ["COVSEV_TEST_DATA"]) / "volumes" / "covid_R082_crop.nii.gz")
    air = ((scan.hu > -1000) & (scan.hu < -300)).astype(np.uint8) * np.uint8(LUNGS[0].id)
    lungs = networks.middle_of(air, scan, 8)
    eager, default = (networks.load_model(networks.INFECTION_BUNDLE, runtime=name) for name in ("torch", None))
    shares = networks.changed_share(scan, lungs, {"torch": eager, "default": default})
    assert shares["default"] < 1e-4
    assert networks.segment_lesions(scan, lungs, default).labels.any()


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    manifest = write_toy_dataset(folder, unlabelled=0)
    return {"dataset_dir": str(folder), "manifest": str(manifest), "network_size": [64, 64], "batch_size": 2}


def test_settings_are_skipped_for_a_reason(monkeypatch):
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)
    reasons = [training.reason_to_skip(setting, CPU) for setting in training.SETTINGS]
    assert reasons[:3] == [None] * 3
    assert reasons[3:] == [
        "the cpu has no bfloat16 arithmetic",
        "float16 is for GPUs",
        "compiling takes minutes; it is for GPUs",
    ]
    monkeypatch.setattr(training, "has_bfloat16", lambda device: True)
    assert training.reason_to_skip(training.SETTINGS[3], CPU) is None
    assert not any(training.reason_to_skip(setting, torch.device("cuda")) for setting in training.SETTINGS)


@pytest.mark.parametrize("setting", [training.SETTINGS[0], training.SETTINGS[2], training.SETTINGS[3]])
def test_a_setting_is_what_its_name_says(setting, overrides):
    one = training.Training(setting, CPU, dict(overrides))
    assert type(one.loader.dataset).__name__ == ("CacheDataset" if setting.cached else "Dataset")
    seen = []
    conv = next(module for module in one.network.modules() if isinstance(module, torch.nn.Conv2d))
    conv.register_forward_hook(lambda module, inputs, output: seen.append((module.weight, output)))
    before = conv.weight.detach().clone()
    assert 0 < one.step() < 100
    assert not torch.equal(conv.weight, before)
    ((weight, output),) = seen
    assert output.dtype == training.DTYPES[setting.precision]
    assert weight.is_contiguous(memory_format=torch.channels_last) == setting.channels_last


def test_training_speed_is_written_and_printed(overrides, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "SETTINGS", (training.SETTINGS[2], training.SETTINGS[5]))
    target = tmp_path / "out.json"
    arguments = [overrides["dataset_dir"], "--manifest", overrides["manifest"], "--size", "64"]
    training.main([*arguments, "--rounds", "2", "--steps", "1", "--json", str(target)])
    content = json.loads(target.read_text())
    assert content["skipped"] == {training.SETTINGS[1].name: "compiling takes minutes; it is for GPUs"}
    assert len(content["seconds"][training.SETTINGS[0].name]["wall_s"]) == 2
    out = capsys.readouterr().out
    assert "1 steps an epoch" in out
    assert "not measured: compiling takes minutes" in out


def test_epochs_per_minute_are_of_the_median_step():
    times = {
        "plain": {"wall_s": [2.0, 3.0, 4.0], "cpu_s": [2.0, 2.0, 2.0]},
        "fast": {"wall_s": [1.0, 1.0, 2.0], "cpu_s": [1.0, 1.0, 4.0]},
    }
    lines = training.table(times, {}, steps_per_epoch=10).splitlines()
    assert lines[2:] == ["| plain | 2.00 | 1.00 | 2.00 | 1.00 |", "| fast | 6.00 | 2.00 | 1.00 | 2.00 |"]
