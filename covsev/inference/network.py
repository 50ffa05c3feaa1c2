"""A network for slices and everything around it, as a bundle wires them: slices in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from covsev.inference.bundle import read_weights
from covsev.inference.runtime import describe_runtime, with_runtime
from covsev.inference.slices import SlicePreprocessing
from covsev.networks.infnet_inference import inference_form


@dataclass(frozen=True, eq=False)
class SliceNetwork:
    """A network that says something of every pixel of a slice.

    Attributes:
        network: on its device, in evaluation mode.
        preprocessing: see :class:`~covsev.inference.slices.SlicePreprocessing`.
        inferer: MONAI inferer, called with the batch and the network.
        batch_size: slices a batch.
        name: of the bundle.
        weights: SHA-256 of the checkpoint file.
        runs_on: runtime, precision and device in words.
    """

    network: nn.Module
    preprocessing: SlicePreprocessing
    inferer: Callable[[Tensor, nn.Module], Tensor]
    batch_size: int
    name: str
    weights: str
    runs_on: str = "torch in f32 on cpu"

    @property
    def device(self) -> torch.device:
        """Where the network runs; one without parameters is OpenVINO's and runs on the CPU."""
        devices = (parameter.device for parameter in self.network.parameters())
        return next(devices, torch.device("cpu"))

    @torch.inference_mode()
    def logits(self, *channels: Tensor) -> Tensor:
        """Logits (N, K, h, w), on the network's grid.

        Args:
            channels: preprocessed slices (N, 1, h, w), and what else the network sees beside them, each (N, c, h, w).
        """
        device = self.device
        on_device = [channel.to(device) for channel in channels]
        image = on_device[0] if len(on_device) == 1 else torch.cat(on_device, dim=1)  # one alone needs no copy
        # The network lies in memory so, too, see ``make_slice_network``.
        return self.inferer(image.contiguous(memory_format=torch.channels_last), self.network)


def make_slice_network(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    preprocessing: SlicePreprocessing,
    inferer: Callable[[Tensor, nn.Module], Tensor],
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
        checkpoint: see :func:`covsev.inference.bundle.read_weights`.
        preprocessing, inferer, batch_size, name: see :class:`SliceNetwork`.
        device: where the network runs.
        in_channels: of the network's input.
        runtime, precision: see :func:`covsev.inference.runtime.with_runtime`.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network.
        SettingError: as :func:`covsev.inference.runtime.with_runtime`.
    """
    # Weights first: they fit the network as it was trained, not the merged layers of its inference form.
    digest = read_weights(network, Path(checkpoint))
    network = inference_form(network).to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    # OpenVINO compiles for one size of slices, so it has to be told before the first slice is seen.
    height, width = preprocessing.network_size
    example = torch.zeros(1, in_channels, height, width, device=device)
    network = with_runtime(
        network, runtime=runtime, precision=precision, device=device, example=example, weights=digest
    )
    runs_on = describe_runtime(network, precision, device)
    return SliceNetwork(network, preprocessing, inferer, batch_size, name, digest, runs_on)
