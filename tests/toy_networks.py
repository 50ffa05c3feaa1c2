"""Small networks that are not trained, but whose numbers are nowhere trivial."""

from __future__ import annotations

import dataclasses

import torch

from covsev.inference.torch_runner import TorchRunner

SMALL = {"attention_channels": (8, 8, 8), "decoder_channels": 8, "edge_channels": 8}
"""Settings of a small InfNet."""


def randomise(network, seed=0):
    """Weights and batch-norm statistics that are nowhere trivial, and keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


class AllConsolidation(torch.nn.Module):
    """A multi network that calls every pixel consolidation."""

    def forward(self, both):
        return torch.tensor([0.0, -1.0, 1.0])[None, :, None, None].expand(len(both), 3, *both.shape[2:])


def consolidating(bright_model, **bounds):
    """A multi model of :class:`AllConsolidation` with the bright model as its prior."""
    bounded = dataclasses.replace(bright_model.postprocessing, **bounds)
    multi = bright_model.with_slice_network(runner=TorchRunner(AllConsolidation()))
    return dataclasses.replace(multi, prior=bright_model, postprocessing=bounded)
