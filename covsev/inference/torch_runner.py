"""A network that torch runs, called with numpy's arrays."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from covsev.inference.slices import Slices


class TorchRunner:
    """A torch network as a function of numpy's arrays.

    Args:
        network: on its device, in evaluation mode, with one output.
        inferer: MONAI inferer, called with the batch and the network; whole slices if not given.
    """

    def __init__(self, network: nn.Module, inferer: Callable[[Tensor, nn.Module], Tensor] | None = None):
        self.network = network
        self.inferer = inferer or SimpleInferer()

    at_a_time = 1
    """Calls: torch computes each with all threads."""

    @torch.inference_mode()
    def __call__(self, images: Slices) -> Slices:
        """Logits of a batch (N, C, h, w), in its order."""
        # Where its weights are; a network without weights runs anywhere.
        device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        batch = torch.from_numpy(images).to(device)
        # The network lies in memory so, too, see ``make_slice_network``.
        logits = self.inferer(batch.contiguous(memory_format=torch.channels_last), self.network)
        return logits.float().cpu().numpy()  # type: ignore[no-any-return]
