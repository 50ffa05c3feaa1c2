"""OpenVINO and torch give one answer; the conversion is kept; nothing goes out over the network."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from toy_networks import SMALL, randomise

from covsev.errors import SettingError
from covsev.inference import openvino_runner, runtime
from covsev.inference.cache import cache_folder
from covsev.inference.openvino_runner import OpenVinoRunner
from covsev.inference.runtime import (
    Bfloat16Network,
    Float32Network,
    describe_runtime,
    find_device,
    with_runtime,
)
from covsev.inference.torch_runner import TorchRunner
from covsev.lesions.model import load_model
from covsev.networks import InfNet
from covsev.options import INFECTION_BUNDLE

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(1, 1, 64, 64)
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVSEV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _run(network, image):
    """Logits of a torch network or of a runner."""
    runner = TorchRunner(network) if isinstance(network, nn.Module) else network
    return runner(image.numpy())


def _with(network, runtime="openvino", precision="f32", weights="a" * 64):
    return with_runtime(network, runtime=runtime, precision=precision, device=CPU, example=EXAMPLE, weights=weights)


@needs_openvino
def test_openvino_gives_the_logits_of_torch(cache):
    infnet = randomise(InfNet("efficientnet_lite0", **SMALL))
    compiled = _with(infnet)
    assert isinstance(compiled, OpenVinoRunner)
    assert describe_runtime(compiled, "f32", CPU) == "openvino in f32 on cpu"
    for batch in (1, 3):
        image = torch.rand(batch, 1, 64, 64, generator=torch.Generator().manual_seed(batch))
        expected = _run(infnet, image)
        assert expected.std() > 0.001
        np.testing.assert_allclose(_run(compiled, image), expected, atol=1e-4)


@needs_openvino
def test_a_result_is_not_overwritten_by_the_next(network, cache):
    compiled = _with(network)
    first = _run(compiled, torch.zeros(1, 1, 64, 64))
    kept = first.copy()
    _run(compiled, torch.ones(1, 1, 64, 64))
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_the_conversion_is_made_once_for_each_weights(network, cache, monkeypatch):
    _with(network)
    (folder,) = cache.iterdir()
    assert folder.name.startswith("a" * 16 + "-1x64x64-covsev")
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.name for path in folder.iterdir()} == {"network.xml", "network.bin", "sha256.json"}
    monkeypatch.setattr("openvino.convert_model", lambda *_, **__: pytest.fail("converted again"))
    _with(network)
    with pytest.raises(pytest.fail.Exception, match="converted again"):
        _with(network, weights="b" * 64)


@needs_openvino
def test_a_mended_network_is_converted_again(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # both files have one size and nearly one time
    image, answers = torch.zeros(1, 1, 64, 64), []
    for constant in (0, 5):
        source = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x + "
        (tmp_path / "mended.py").write_text(f"{source}{constant}\n")
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("mended", None)
        importlib.invalidate_caches()
        answers.append(_run(_with(importlib.import_module("mended").Net().eval()), image).max())
    sys.modules.pop("mended")
    assert answers == [0, 5]
    assert len(list(cache.iterdir())) == 2


@needs_openvino
def test_auto_takes_openvino_and_falls_back_to_torch(network, cache):
    assert isinstance(_with(network, "auto"), OpenVinoRunner)

    class Unknown(nn.Module):
        def forward(self, image):
            raise RuntimeError("cannot be traced")

    strange = Unknown()
    with pytest.warns(UserWarning, match="OpenVINO cannot run this network"):
        assert _with(strange, "auto", weights="c" * 64).network is strange


def test_auto_is_torch_where_openvino_is_missing(network, monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    assert _with(network, "auto").network is network
    with pytest.raises(SettingError, match=r"OpenVINO is not installed; run: pip install 'covsev\[openvino\]'"):
        _with(network, "openvino")


@needs_openvino
def test_openvino_is_for_the_cpu(network):
    with pytest.raises(SettingError, match="runtime openvino runs on the CPU; got device cuda"):
        with_runtime(
            network, runtime="openvino", precision="f32", device=torch.device("cuda"), example=EXAMPLE, weights="a" * 64
        )


@needs_openvino
@pytest.mark.parametrize("streams", [1, 3])
def test_many_threads_each_get_their_own_answer(network, cache, streams):
    runner = OpenVinoRunner(_with(network).compiled, streams=streams)
    assert runner.at_a_time == streams
    images = [
        torch.rand(1 + number % 3, 1, 64, 64, generator=torch.Generator().manual_seed(number)) for number in range(12)
    ]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda image: runner(image.numpy()), images))
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_allclose(answer, _run(network, image), atol=1e-5)


@needs_openvino
def test_a_call_that_fails_does_not_keep_its_stream(network, cache):
    runner = OpenVinoRunner(_with(network).compiled, streams=1)
    with pytest.raises(RuntimeError):
        runner(np.zeros((1, 5, 64, 64), np.float32))
    assert runner(np.zeros((1, 1, 64, 64), np.float32)).shape == (1, 1, 64, 64)


@needs_openvino
def test_float32_streams_and_free_threads_are_set_and_not_left_to_openvino(network, cache, monkeypatch):
    monkeypatch.setattr(openvino_runner, "thread_share", lambda: 20)
    result = _with(network)
    compiled = result.compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert not compiled.get_property("ENABLE_CPU_PINNING")
    cores = len(os.sched_getaffinity(0))
    assert result.streams == compiled.get_property("NUM_STREAMS") == min(cores, openvino_runner.MOST_STREAMS)


def test_float32_on_a_gpu_is_not_tensor_float(network):
    seen = []
    network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(_run(Float32Network(network), image), _run(network, image))
    assert seen == [False, True]
    second = torch.device("cuda:1")
    wrapped = with_runtime(network, runtime="torch", precision="f32", device=second, example=EXAMPLE, weights="a" * 64)
    assert isinstance(wrapped.network, Float32Network)
    assert describe_runtime(wrapped, "f32", second) == "torch in f32 on cuda:1"


def test_devices_are_found_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:1"):
        assert find_device(name) == torch.device(name)
    with pytest.raises(SettingError, match=r"device cuda:2: torch .* finds 2 CUDA GPU here; use device cpu"):
        find_device("cuda:2")
    for name in ("gpu", "cuda:", "cpu:x", "mps", "cpu') + print('"):
        with pytest.raises(SettingError, match="device must be cpu, cuda, or one GPU such as cuda:1; got "):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"device cuda: torch .* finds no CUDA GPU here; use device cpu"):
        load_model(INFECTION_BUNDLE, device="cuda")


def test_bfloat16_needs_a_device_that_has_it(network, monkeypatch):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: False)
    for name in runtime.RUNTIMES:
        with pytest.raises(SettingError, match="precision bf16: this processor has no bfloat16 arithmetic; use prec"):
            _with(network, name, "bf16")
    with pytest.raises(SettingError, match="precision bf16: device cuda:1 has no bfloat16 arithmetic"):
        with_runtime(
            network,
            runtime="torch",
            precision="bf16",
            device=torch.device("cuda:1"),
            example=EXAMPLE,
            weights="a" * 64,
        )


@pytest.mark.parametrize(("major", "has"), [(7, False), (8, True), (9, True)])
def test_gpus_compute_in_bfloat16_since_ampere(monkeypatch, major, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert runtime.has_bfloat16(torch.device("cuda")) is has


def test_a_processor_is_asked_whether_it_has_bfloat16():
    assert runtime.has_bfloat16(CPU) is torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_bfloat16_is_near_float32(network, cache, monkeypatch):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: True)  # others imitate it, slowly
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = _run(network, image)
    lower = _with(network, "torch", "bf16")
    assert isinstance(lower.network, Bfloat16Network)
    result = _run(lower, image)
    assert result.dtype == np.float32
    assert 0 < np.abs(result - expected).max() < 0.1 * np.abs(expected).max()


def test_unknown_settings_are_refused(network):
    with pytest.raises(SettingError, match="runtime must be one of auto, torch, openvino; got 'onnx'"):
        _with(network, "onnx")
    with pytest.raises(SettingError, match="precision must be one of f32, bf16; got 'int8'"):
        _with(network, precision="int8")
    with pytest.raises(SettingError, match="precision must be one of f32, bf16; got 'int8'"):
        load_model(INFECTION_BUNDLE, precision="int8")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COVSEV_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("COVSEV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "covsev"


@needs_openvino
def test_openvino_reports_nothing_over_the_network(cache):
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "import torch\n"
        "from covsev.inference.runtime import with_runtime\n"
        "network, example, cpu = torch.nn.Conv2d(1, 1, 1).eval(), torch.zeros(1, 1, 32, 32), torch.device('cpu')\n"
        "settings = {'runtime': 'openvino', 'precision': 'f32', 'device': cpu, 'example': example}\n"
        "with_runtime(network, **settings, weights='a' * 64)(example.numpy())\n"
        "print(sorted(name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_openvino
@pytest.mark.slow
def test_the_shipped_network_gives_the_same_masks(phantom):
    from covsev.lesions.volume import segment_lesions

    torch_model, openvino_model = (load_model(INFECTION_BUNDLE, runtime=name) for name in ("torch", "openvino"))
    expected = segment_lesions(phantom.scan, phantom.lungs, torch_model)
    result = segment_lesions(phantom.scan, phantom.lungs, openvino_model)
    np.testing.assert_allclose(result.probability, expected.probability, atol=1e-4)
    differing = np.count_nonzero((result.labels != expected.labels)[phantom.lungs > 0])
    assert differing <= 1e-4 * np.count_nonzero(phantom.lungs)
