"""Models kept ready: used while all that they were made of is unchanged, made anew with one line otherwise."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from covsev.inference import cache, ready, runtime
from covsev.inference.openvino_runner import OpenVinoRunner
from covsev.inference.torch_runner import TorchRunner
from covsev.lesions.model import LesionModel, load_model

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
GREY = np.linspace(0, 1, 3 * 64 * 64, dtype=np.float32).reshape(3, 1, 64, 64)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COVSEV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(bright_bundle, tmp_path):
    """A bundle of its own that takes OpenVINO where it is installed."""
    own = tmp_path / "bundle"
    shutil.copytree(bright_bundle, own)
    text = (own / "configs" / "inference.yaml").read_text()
    (own / "configs" / "inference.yaml").write_text(text + "  runtime: auto\n")
    return own


@pytest.fixture
def built(monkeypatch):
    """How often a bundle was read as MONAI reads it."""
    from covsev.inference import bundle

    calls, original = [], bundle.load_bundle

    def load_bundle(path, settings, **how):
        calls.append(Path(path))
        return original(path, settings, **how)

    monkeypatch.setattr(bundle, "load_bundle", load_bundle)
    return calls


def _entry(folder):
    (path,) = folder.glob("*.json")
    return path


def test_the_second_start_takes_what_was_kept_and_answers_the_same(bundle, folder, built):
    first, second = load_model(bundle), load_model(bundle)
    assert built == [bundle]
    assert isinstance(second, LesionModel)
    assert isinstance(second.slice_network.runner, OpenVinoRunner)
    assert second.postprocessing == first.postprocessing
    assert second.preprocessing == first.preprocessing
    for name in ("batch_size", "name", "weights", "runs_on"):
        assert getattr(second, name) == getattr(first, name)
    assert second.networks == first.networks
    np.testing.assert_array_equal(second.infection(GREY), first.infection(GREY))


KEYS = """
runtime: auto
precision: f32
checkpoint: "$@bundle_root + '/models/model.pt'"
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [("runtime", "openvino"), ("precision", "f32"), ("checkpoint", "models/model.pt"), ("network", "other.yaml")],
)
def test_an_override_takes_the_bundle_itself_and_keeps_nothing(bundle, folder, built, name, value):
    config = bundle / "configs" / "inference.yaml"
    config.write_text(KEYS + config.read_text())
    (bundle / "configs" / "other.yaml").write_text("batch_size: 4\n")
    settings = {name: bundle / value if name == "checkpoint" else value}
    load_model(bundle, **settings)
    load_model(bundle, **settings)
    assert built == [bundle, bundle]
    assert not list(folder.glob("*.json"))


def test_what_torch_runs_is_not_kept(bright_bundle, folder, built):
    assert isinstance(load_model(bright_bundle).slice_network.runner, TorchRunner)
    load_model(bright_bundle)
    assert built == [bright_bundle, bright_bundle]
    assert not folder.exists()


def _renewed(bundle, folder, built, caplog):
    """What is said when the model is loaded anew; the time after it is quick again."""
    del built[:]
    caplog.clear()
    model = load_model(bundle)
    assert built == [bundle]
    load_model(bundle)
    assert built == [bundle]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return model, warnings


def test_changed_numbers_of_the_bundle_count_at_once(bundle, folder, built, caplog):
    load_model(bundle)
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("threshold: 0.5", "threshold: 0.25"))
    model, (said,) = _renewed(bundle, folder, built, caplog)
    assert model.postprocessing.threshold == 0.25
    assert said == f"preparing the networks of bundle anew: {config} has changed"


def test_changed_weights_count_at_once(bundle, folder, built, caplog):
    import torch

    before = load_model(bundle)
    weights = bundle / "models" / "model.pt"
    torch.save({"weight": torch.ones(1, 1, 1, 1), "bias": torch.zeros(1)}, weights)
    model, (said,) = _renewed(bundle, folder, built, caplog)
    assert model.weights != before.weights
    np.testing.assert_allclose(model.slice_network.logits(GREY), GREY, atol=1e-5)
    assert said.endswith("model.pt has changed")


@pytest.mark.parametrize("name", ["network.xml", "network.bin"])
def test_a_damaged_network_is_converted_again(bundle, folder, built, caplog, name):
    expected = load_model(bundle).infection(GREY)
    (path,) = folder.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    model, (said,) = _renewed(bundle, folder, built, caplog)
    assert said == "preparing the networks of bundle anew: the converted network is damaged or gone"
    np.testing.assert_array_equal(model.infection(GREY), expected)


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"sha256": "1", "content": {"model": {}}}'])
def test_a_damaged_entry_is_renewed(bundle, folder, built, caplog, text):
    load_model(bundle)
    _entry(folder).write_text(text)
    _, (said,) = _renewed(bundle, folder, built, caplog)
    assert said == f"preparing the networks of bundle anew: {_entry(folder)} is damaged"


def test_an_entry_of_another_form_is_renewed(bundle, folder, built, caplog):
    load_model(bundle)
    content = cache.read_entry(_entry(folder).name)
    del content["model"]["slice_network"]["batch_size"]
    cache.write_entry(_entry(folder).name, content)
    _, (said,) = _renewed(bundle, folder, built, caplog)
    assert "batch_size" in said


def test_another_version_is_renewed(bundle, folder, built, caplog, monkeypatch):
    load_model(bundle)
    monkeypatch.setattr(ready, "__version__", "9.9")
    _, (said,) = _renewed(bundle, folder, built, caplog)
    assert said.endswith("covsev, MONAI, OpenVINO or torch has another version now")


def test_where_nothing_can_be_written_it_works_and_says_so_once(bundle, monkeypatch, tmp_path, built, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COVSEV_CACHE", str(tmp_path / "file" / "cache"))  # no folder can be made in a file
    runtime._say_not_kept.cache_clear()
    for _ in range(2):
        model = load_model(bundle)
        assert model.runs_on == "openvino in f32 on cpu"
        assert model.slice_network.runner.kept_as is None
        assert model.infection(GREY).shape == GREY.shape
    assert built == [bundle, bundle]
    said = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(said) == 1
    assert "the networks are converted again at every start" in said[0]


def test_an_entry_that_cannot_be_written_is_said(bundle, folder, monkeypatch, caplog):
    def refuse(name, content):
        raise PermissionError(name)

    monkeypatch.setattr(ready, "write_entry", refuse)
    assert load_model(bundle).runs_on == "openvino in f32 on cpu"
    assert "the networks of bundle cannot be kept ready (PermissionError)" in caplog.text


def test_two_processes_that_start_at_once_both_succeed(bundle, folder):
    code = f"from covsev.lesions.model import load_model; from pathlib import Path; load_model(Path({str(bundle)!r}))"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert json.loads(_entry(folder).read_text())["content"]["model"]["prior"] is None
    assert cache.kept_folder(next(path.name for path in folder.iterdir() if path.is_dir())) is not None


def test_a_start_with_all_kept_imports_neither_torch_nor_monai(small_scan, tmp_path):
    """The whole of ``covsev severity``: the command itself and its worker, which says what it imported at its end."""
    hook = tmp_path / "hook"
    hook.mkdir()
    code = "import atexit, os, sys\n"
    code += "def tell():\n"
    code += "    heavy = sorted({'torch', 'monai', 'pandas', 'matplotlib', 'skimage'} & set(sys.modules))\n"
    code += f"    open({str(tmp_path)!r} + f'/imported_{{os.getpid()}}.txt', 'w').write(' '.join(heavy))\n"
    code += "real_exit = os._exit\n"  # the worker ends by it, without the exit handlers
    code += "def leave(code):\n    tell()\n    real_exit(code)\n"
    code += "os._exit = leave\natexit.register(tell)\n"
    (hook / "sitecustomize.py").write_text(code)
    for attempt in ("first", "second"):
        environment = os.environ | {"COVSEV_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(hook)}
        command = [sys.executable, "-m", "covsev", "severity", str(small_scan), "-o", str(tmp_path / attempt)]
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
        imported = [path.read_text().split() for path in tmp_path.glob("imported_*.txt")]
        for path in tmp_path.glob("imported_*.txt"):
            path.unlink()
        assert len(imported) == 2
        if attempt == "first":
            assert any("torch" in names for names in imported)
            assert "preparing the networks for this computer" in done.stderr
        else:
            assert imported == [[], []]
            assert "preparing" not in done.stderr
    for name in ("small_lesions.nii.gz", "small_lungs.nii.gz", "small_lobes.nii.gz"):
        pixels = [(tmp_path / attempt / name).read_bytes() for attempt in ("first", "second")]
        assert pixels[0] == pixels[1]
