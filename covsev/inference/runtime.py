"""What runs a network: OpenVINO on the CPU where it is installed, else torch. Both give the same masks.

OpenVINO needs its own form of a network. It is made once and kept in the cache folder, under the hash of the weights.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covsev import __version__
from covsev.errors import SettingError

RUNTIMES = ("auto", "torch", "openvino")
PRECISIONS = ("f32", "bf16")
MOST_STREAMS = 8  # that OpenVINO gets; a batch has few slices
PART_SLICES = 2  # that a stream takes at a time: larger parts leave the caches, and streams end further apart


class OpenVinoNetwork(nn.Module):
    """A compiled OpenVINO model as a torch module: (N, C, H, W) float32 to (N, K, H, W), on the CPU.

    A batch is divided among streams. Each stream has a thread of its own. Two slices side by side take less time than
    two threads on one slice, because these wait for each other after every layer.

    Args:
        compiled: of ``openvino.Core.compile_model``, with one output.
        streams: parts of a batch that are computed at a time.
    """

    def __init__(self, compiled: Any, streams: int = 1):
        super().__init__()
        self.streams = streams
        self.queue = _import_openvino().AsyncInferQueue(compiled, streams)
        self.queue.set_callback(_keep)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch, in its order."""
        slices_a_stream = -(-len(image) // self.streams)  # rounded up
        parts = image.contiguous().split(min(PART_SLICES, slices_a_stream))
        results: dict[int, NDArray[np.float32]] = {}
        for position, part in enumerate(parts):  # the parts live until all are done, so they need not be copied
            self.queue.start_async({0: part.numpy()}, (results, position), share_inputs=True)
        self.queue.wait_all()
        in_order = [results[position] for position in range(len(parts))]  # streams end in any order
        return torch.from_numpy(np.concatenate(in_order))


def _keep(request: Any, place: tuple[dict[int, NDArray[np.float32]], int]) -> None:
    """Put a finished part in its place. It is copied, because the request uses its memory again for the next part."""
    results, position = place
    results[position] = request.get_output_tensor(0).data.copy()


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
    network: nn.Module, *, runtime: str, precision: str, device: torch.device, example: Tensor, weights: str
) -> nn.Module:
    """``network`` as ``runtime`` runs it.

    Args:
        network: in evaluation mode, on ``device``, with one output.
        runtime: ``torch``, ``openvino``, or ``auto``: OpenVINO on the CPU where it is installed and can take the
            network, else torch.
        precision: ``f32``, or ``bf16``, which is faster on recent processors and GPUs and moves some mask borders.
        device: where ``network`` is.
        example: (1, C, H, W) input; other batch sizes are possible later, other sides are not.
        weights: SHA-256 of the network's weights, the name in the cache.

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
    if runtime == "openvino":
        _require_openvino(device)
        return _openvino_network(network, precision, example, weights)
    may_convert = runtime == "auto" and device.type == "cpu"
    if may_convert and find_spec("openvino") is not None:
        try:
            return _openvino_network(network, precision, example, weights)
        except Exception as error:  # OpenVINO raises its own errors; torch can do the work too
            warnings.warn(f"OpenVINO cannot run this network ({error}); torch does", stacklevel=2)
    return _torch_network(network, precision, device)


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


def describe_runtime(network: nn.Module, precision: str, device: torch.device) -> str:
    """What runs a network of :func:`with_runtime`, in words: ``openvino in f32 on cpu``."""
    name = "openvino" if isinstance(network, OpenVinoNetwork) else "torch"
    return f"{name} in {precision} on {device}"


def cache_folder() -> Path:
    """Where converted networks are kept: ``$COVSEV_CACHE``, or ``covsev`` in the user's cache folder."""
    if "COVSEV_CACHE" in os.environ:
        return Path(os.environ["COVSEV_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "covsev"


def _require_openvino(device: torch.device) -> None:
    if find_spec("openvino") is None:
        raise SettingError("runtime openvino: OpenVINO is not installed; run: pip install 'covsev[openvino]'")
    if device.type != "cpu":
        raise SettingError(f"runtime openvino runs on the CPU; got device {device}")


def _name(device: torch.device) -> str:
    return "this processor" if device.type == "cpu" else f"device {device}"


def _import_openvino() -> Any:
    """OpenVINO, kept from reporting its use over the network: it takes its own stub where telemetry is missing."""
    if "openvino" not in sys.modules:
        # None makes ``import openvino_telemetry`` fail, as if it were not installed.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _openvino_network(network: nn.Module, precision: str, example: Tensor, weights: str) -> OpenVinoNetwork:
    openvino = _import_openvino()
    core = openvino.Core()
    model = core.read_model(_converted(network, example, weights, openvino))
    threads = torch.get_num_threads()
    settings = {  # its own default would be bfloat16 where the processor has it
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": min(threads, MOST_STREAMS),
        "ENABLE_CPU_PINNING": False,  # each worker process would pin its threads to the same first cores
    }
    compiled = core.compile_model(model, "CPU", settings)
    return OpenVinoNetwork(compiled, compiled.get_property("NUM_STREAMS")).eval()


def _converted(network: nn.Module, example: Tensor, weights: str, openvino: Any) -> Path:
    """OpenVINO's file of ``network``, made if the cache does not have it."""
    _, channels, height, width = example.shape
    # All that the file depends on is in its folder's name, so an old conversion is never taken for a new network.
    made_by = f"covsev{__version__}-{_code_hash(network)}-openvino{openvino.__version__.split('-')[0]}"
    name = f"{weights[:16]}-{channels}x{height}x{width}-{made_by}"
    folder = cache_folder() / name
    # The XML is asked for, not the folder: a user may have cleared the cache in part.
    if not (folder / "network.xml").is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of checks of the sides, which stay as they are
            # -1: batches of any size, since the last one of a scan is smaller.
            model = openvino.convert_model(network, example_input=example, input=[(-1, channels, height, width)])
        _save_whole(model, folder, openvino)
    return folder / "network.xml"


def _code_hash(network: nn.Module) -> str:
    """Hash of the source files of all modules in ``network`` that are not torch's: a mended network is a new one."""
    modules = {type(module).__module__ for module in network.modules()}
    # Layers of torch have no source of their own here: what can be mended is covsev's and MONAI's code.
    files = {sys.modules[name].__file__ for name in modules if not name.startswith("torch.")}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file):  # sorted: a set has no order, and the hash must not change
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:12]


def _save_whole(model: Any, folder: Path, openvino: Any) -> None:
    """Write a model's two files into ``folder`` so that no other process sees half of them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is one step only within a file system.
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    temporary.chmod(0o755)  # the cache may be shared
    try:
        # OpenVINO's own default halves the weights, and masks would not be those of torch.
        openvino.save_model(model, temporary / "network.xml", compress_to_fp16=False)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            if not (folder / "network.xml").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
