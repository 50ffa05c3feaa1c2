"""A running average of a network's weights. After a short training it generalises better than the last weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class WeightAverage:
    """Handler that moves an average of weights and buffers towards the network's after each iteration.

    Its momentum depends on the iteration's number alone. So a continued training does what an uninterrupted one does.
    The ``EMAHandler`` of ignite starts its warm-up anew instead.

    Args:
        network: in training; a ``DistributedDataParallel`` is unwrapped.
        momentum: share of the network in the average after the warm-up.
        warmup_momentum: that share at the first iteration; it falls linearly.
        warmup_iterations: length of the warm-up.

    Attributes:
        ema_model: the averaged network, in evaluation mode.

    Raises:
        ValueError: if a momentum is not in (0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        momentum: float = 0.01,
        warmup_momentum: float = 0.2,
        warmup_iterations: int = 100,
    ):
        for name, value in (("momentum", momentum), ("warmup_momentum", warmup_momentum)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1]; got {value}")
        self.network = network.module if isinstance(network, DistributedDataParallel) else network
        # A whole network, not a list of tensors: it can be evaluated, and has the state dict that is saved.
        self.ema_model = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.momentum = momentum
        self.warmup_momentum = warmup_momentum
        self.warmup_iterations = warmup_iterations

    def attach(self, engine: Engine) -> None:
        """Update the average whenever ``engine`` completes an iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def momentum_at(self, iteration: int) -> float:
        """Momentum of iteration 1, 2, ..."""
        # Early weights are far from good. A high momentum lets the average forget them soon.
        done = min(1.0, (iteration - 1) / max(1, self.warmup_iterations - 1))
        change = self.momentum - self.warmup_momentum
        return self.warmup_momentum + change * done

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Update the average."""
        momentum = self.momentum_at(engine.state.iteration)
        for average, current in zip(_tensors(self.ema_model), _tensors(self.network), strict=True):
            if average.is_floating_point():
                average.lerp_(current, momentum)
            else:  # counters of batch norm are whole numbers and have no mean
                average.copy_(current)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    # Buffers, too: the statistics of batch norm must be those that the averaged weights would see.
    return chain(network.parameters(), network.buffers())
