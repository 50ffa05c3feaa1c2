"""What runs a network: OpenVINO on the CPU where it is installed, else torch. Both give the same masks.

OpenVINO needs its own form of a network. It is made once and kept in the cache folder, under the hash of the weights.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from covsev import __version__
from covsev.errors import SettingError
from covsev.inference.cache import cache_folder, keep_folder, kept_folder
from covsev.inference.network import Runner
from covsev.inference.openvino_runner import OpenVinoRunner, import_openvino, open_network
from covsev.inference.torch_runner import TorchRunner

RUNTIMES = ("auto", "torch", "openvino")
PRECISIONS = ("f32", "bf16")
Inferer = Callable[[Tensor, nn.Module], Tensor]
"""MONAI's: called with the batch and the network."""
_log = logging.getLogger(__name__)


class _Wrapped(nn.Module):
    """A network that is run with a setting of its own.

    Args:
        network: on its device.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


class Bfloat16Network(_Wrapped):
    """A network under autocast to bfloat16; its output is float32."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.network(image)
        return logits.float()  # numpy, which comes next, has no bfloat16


class Float32Network(_Wrapped):
    """A network whose convolutions are float32 on a GPU, too. By itself, cuDNN would take TensorFloat-32."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        # Set around the call, not once for the process: a program that calls covsev keeps its own settings.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            logits: Tensor = self.network(image)
        return logits


def with_runtime(
    network: nn.Module,
    *,
    runtime: str,
    precision: str,
    device: torch.device,
    example: Tensor,
    weights: str,
    inferer: Inferer | None = None,
) -> Runner:
    """What runs ``network``.

    Args:
        network: in evaluation mode, on ``device``, with one output.
        runtime: ``torch``, ``openvino``, or ``auto``: OpenVINO on the CPU where it is installed and can take the
            network, else torch.
        precision: ``f32``, or ``bf16``, which is faster on recent processors and GPUs and moves some mask borders.
        device: where ``network`` is.
        example: (1, C, H, W) input; other batch sizes are possible later, other sides are not.
        weights: SHA-256 of the network's weights, the name in the cache.
        inferer: MONAI's; whole slices if not given. OpenVINO takes whole slices only.

    Raises:
        SettingError: for another runtime or precision, if ``openvino`` is asked for where it cannot run, or ``bf16``
            where the device does not compute in it.
    """
    if runtime not in RUNTIMES:
        raise SettingError(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}")
    if precision not in PRECISIONS:
        raise SettingError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    # Refused rather than imitated: the imitation is slow, and moves mask borders all the same.
    if precision == "bf16" and not has_bfloat16(device):
        raise SettingError(f"precision bf16: {_name(device)} has no bfloat16 arithmetic; use precision f32")
    whole_slices = inferer is None or type(inferer) is SimpleInferer
    if runtime == "openvino":
        _require_openvino(device, inferer, whole_slices=whole_slices)
        return _openvino_runner(network, precision, example, weights)
    may_convert = runtime == "auto" and device.type == "cpu" and whole_slices
    if may_convert and find_spec("openvino") is not None:
        try:
            return _openvino_runner(network, precision, example, weights)
        except Exception as error:  # OpenVINO raises its own errors; torch can do the work too
            warnings.warn(f"OpenVINO cannot run this network ({error}); torch does", stacklevel=2)
    return TorchRunner(_torch_network(network, precision, device), inferer)


def _torch_network(network: nn.Module, precision: str, device: torch.device) -> nn.Module:
    if precision == "bf16":
        return Bfloat16Network(network).eval()
    return network if device.type == "cpu" else Float32Network(network).eval()


def find_device(name: str) -> torch.device:
    """The device ``name``: ``cpu``, ``cuda``, or one GPU of several such as ``cuda:1``.

    Raises:
        SettingError: for another name, or a GPU that torch does not find.
    """
    # The whole name: it is pasted into the bundle's configuration, which is code.
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise SettingError(f"device must be cpu, cuda, or one GPU such as cuda:1; got {name!r}")
    device = torch.device(name)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        raise SettingError(
            f"device {name}: torch {torch.__version__} finds {found or 'no'} CUDA GPU here; use device cpu"
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a processor or GPU computes in bfloat16, rather than imitating it slowly."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8  # since Ampere
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def describe_runtime(runner: Runner, precision: str, device: torch.device) -> str:
    """What :func:`with_runtime` chose, in words: ``openvino in f32 on cpu``."""
    name = "openvino" if isinstance(runner, OpenVinoRunner) else "torch"
    return f"{name} in {precision} on {device}"


def source_files(network: nn.Module) -> tuple[Path, ...]:
    """Source files of all modules in ``network`` that are not torch's: a mended network is a new one."""
    modules = {type(module).__module__ for module in network.modules()}
    # Layers of torch have no source of their own here: what can be mended is covsev's and MONAI's code.
    files = (sys.modules[name].__file__ for name in modules if not name.startswith("torch."))
    return tuple(sorted(Path(file) for file in files if file))  # sorted: a set has no order


def _require_openvino(device: torch.device, inferer: Inferer | None, *, whole_slices: bool) -> None:
    if find_spec("openvino") is None:
        raise SettingError("runtime openvino: OpenVINO is not installed; run: pip install 'covsev[openvino]'")
    if device.type != "cpu":
        raise SettingError(f"runtime openvino runs on the CPU; got device {device}")
    if not whole_slices:
        raise SettingError(f"runtime openvino takes whole slices, by SimpleInferer; got {type(inferer).__name__}")


def _name(device: torch.device) -> str:
    return "this processor" if device.type == "cpu" else f"device {device}"


def _openvino_runner(network: nn.Module, precision: str, example: Tensor, weights: str) -> OpenVinoRunner:
    openvino = import_openvino()
    _, channels, height, width = example.shape
    # All that the conversion depends on is in its name, so an old one is never taken for a new network.
    made_by = f"covsev{__version__}-{_code_hash(network)}-openvino{openvino.__version__.split('-')[0]}"
    name = f"{weights[:16]}-{channels}x{height}x{width}-{made_by}"
    folder = kept_folder(name)
    if folder is None:
        _say_converting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of checks of the sides, which stay as they are
            # -1: batches of any size, since the last one of a scan is smaller.
            model = openvino.convert_model(network, example_input=example, input=[(-1, channels, height, width)])
        try:
            folder = keep_folder(name, partial(_save, model))
        except OSError as error:
            _say_not_kept(cache_folder(), type(error).__name__)
            return open_network(model, precision)
    return open_network(folder / "network.xml", precision, kept_as=name)


def _save(model: Any, folder: Path) -> None:
    # OpenVINO's own default halves the weights, and masks would not be those of torch.
    import_openvino().save_model(model, folder / "network.xml", compress_to_fp16=False)


@cache  # said once, whatever the number of networks
def _say_converting() -> None:
    _log.info("preparing the networks for this computer; this takes up to a minute and is done once")


@cache
def _say_not_kept(folder: Path, reason: str) -> None:
    _log.warning("%s cannot be written (%s): the networks are converted again at every start", folder, reason)


def _code_hash(network: nn.Module) -> str:
    """Hash of the network's source files."""
    digest = hashlib.sha256()
    for file in source_files(network):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
