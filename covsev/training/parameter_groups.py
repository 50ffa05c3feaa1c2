"""The parameters of a network as an optimizer's groups: a pretrained encoder learns more slowly than new layers."""

from __future__ import annotations

from typing import Any

from torch import nn


def encoder_apart(network: nn.Module, *, learning_rate: float, encoder_factor: float = 1.0) -> list[dict[str, Any]]:
    """Groups for a ``torch.optim`` optimizer: the encoder, which is the module ``backbone``, and all the rest.

    Args:
        network: an :class:`covsev.networks.InfNet`, also within ``DistributedDataParallel``, or a network without an
            encoder of that name, which gives one group.
        learning_rate: of all but the encoder.
        encoder_factor: by which the encoder's learning rate is that one; below 1 spares pretrained weights.

    Raises:
        ValueError: if ``encoder_factor`` is not positive.
    """
    if encoder_factor <= 0:
        raise ValueError(f"encoder_factor must be positive; got {encoder_factor}")
    encoder, rest = [], []
    for name, parameter in network.named_parameters():
        (encoder if name.removeprefix("module.").startswith("backbone.") else rest).append(parameter)
    groups = [{"params": rest, "lr": learning_rate}]
    return [{"params": encoder, "lr": encoder_factor * learning_rate}, *groups] if encoder else groups
