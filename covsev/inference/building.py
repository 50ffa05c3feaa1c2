"""A :class:`~covsev.inference.network.SliceNetwork` built of a torch network and its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from covsev.errors import BundleError
from covsev.inference.cache import sha256_of
from covsev.inference.network import SliceNetwork
from covsev.inference.runtime import Inferer, describe_runtime, source_files, with_runtime
from covsev.inference.slices import SlicePreprocessing
from covsev.networks.infnet_inference import inference_form


def make_slice_network(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    preprocessing: SlicePreprocessing,
    inferer: Inferer,
    batch_size: int,
    name: str,
    device: torch.device,
    in_channels: int = 1,
    runtime: str = "torch",
    precision: str = "f32",
) -> SliceNetwork:
    """A :class:`SliceNetwork` with the weights of ``checkpoint``.

    Args:
        network: without weights.
        checkpoint: see :func:`read_weights`.
        preprocessing, batch_size, name: see :class:`~covsev.inference.network.SliceNetwork`.
        inferer: see :func:`covsev.inference.runtime.with_runtime`.
        device: where the network runs.
        in_channels: of the network's input.
        runtime, precision: see :func:`covsev.inference.runtime.with_runtime`.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network.
        SettingError: as :func:`covsev.inference.runtime.with_runtime`.
    """
    # Weights first: they fit the network as it was trained, not the merged layers of its inference form.
    digest = read_weights(network, Path(checkpoint))
    files = {Path(checkpoint), *source_files(network)}
    network = inference_form(network).to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    # OpenVINO compiles for one size of slices, so it has to be told before the first slice is seen.
    height, width = preprocessing.network_size
    example = torch.zeros(1, in_channels, height, width, device=device)
    runner = with_runtime(
        network,
        runtime=runtime,
        precision=precision,
        device=device,
        example=example,
        weights=digest,
        inferer=inferer,
    )
    return SliceNetwork(
        runner,
        preprocessing,
        batch_size,
        name,
        weights=digest,
        runs_on=describe_runtime(runner, precision, device),
        files=tuple(sorted(files | set(source_files(network)))),
    )


def read_weights(network: nn.Module, checkpoint: Path) -> str:
    """Load a checkpoint into ``network`` and return the file's SHA-256.

    Args:
        network: to load into.
        checkpoint: a ``state_dict``, or a dictionary that holds one as ``network``; half precision is widened.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network.
    """
    if not checkpoint.is_file():
        raise BundleError(f"{checkpoint}: no weights there; train the bundle, or name other weights")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = content.get("network", content)  # a checkpoint of a run holds optimizer and epoch, too
        network.load_state_dict({key: _widened(value) for key, value in state.items()})
    except Exception as error:  # torch raises anything on broken files; the cause stays attached
        raise BundleError(f"{checkpoint}: weights cannot be used ({type(error).__name__})") from error
    return sha256_of(checkpoint)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
