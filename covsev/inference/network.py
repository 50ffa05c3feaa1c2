"""A network for slices and everything around it, as a bundle wires them: slices in, logits out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from covsev.inference.slices import SlicePreprocessing, Slices

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Runner(Protocol):
    """What runs a network.

    :class:`covsev.inference.torch_runner.TorchRunner` or :class:`covsev.inference.openvino_runner.OpenVinoRunner`.
    """

    @property
    def at_a_time(self) -> int:
        """How many calls are computed at a time."""

    def __call__(self, images: Slices) -> Slices:
        """Logits (N, K, h, w) of images (N, C, h, w)."""


@dataclass(frozen=True, eq=False)
class SliceNetwork:
    """A network that says something of every pixel of a slice.

    Attributes:
        runner: what runs it.
        preprocessing: see :class:`~covsev.inference.slices.SlicePreprocessing`.
        batch_size: slices a batch.
        name: of the bundle.
        weights: SHA-256 of the checkpoint file.
        runs_on: runtime, precision and device in words.
        files: that it was made of, as far as they are known: weights, source code, the bundle's configuration.
    """

    runner: Runner
    preprocessing: SlicePreprocessing
    batch_size: int
    name: str
    weights: str
    runs_on: str = "torch in f32 on cpu"
    files: tuple[Path, ...] = ()

    def logits(self, *channels: Slices) -> Slices:
        """Logits (N, K, h, w), on the network's grid.

        Args:
            channels: preprocessed slices (N, 1, h, w), and what else the network sees beside them, each (N, c, h, w).
        """
        # One alone needs no copy.
        images = channels[0] if len(channels) == 1 else np.concatenate(channels, axis=1)
        return self.runner(images)

    def over(self, function: Callable[[_In], _Out], batches: Iterable[_In]) -> Iterator[_Out]:
        """``function`` of each batch, in their order; as many at a time as the network can be run.

        So the slices of one batch are resized while the network sees those of another.
        """
        if self.runner.at_a_time == 1:
            yield from map(function, batches)
            return
        with ThreadPoolExecutor(self.runner.at_a_time) as threads:
            yield from threads.map(function, batches)
