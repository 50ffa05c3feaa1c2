"""The eight flips and turns of a slice, and the mean of what a network says of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

ORIENTATIONS = tuple(product((False, True), range(4)))
"""Whether a slice is flipped, and the quarter turns before that; the first leaves it as it is."""


def mean_over_orientations(predict: Callable[[Tensor], Tensor], slices: Tensor) -> Tensor:
    """Mean of ``predict`` over all eight orientations, each turned back.

    Args:
        predict: from slices (N, C, S, S) to maps (N, K, S, S).
        slices: (N, C, S, S), square, because they are turned.

    Raises:
        ValueError: if the slices are not square.
    """
    if slices.shape[-2] != slices.shape[-1]:
        raise ValueError(f"slices must be square to be turned; got {slices.shape[-2]} x {slices.shape[-1]}")
    total = torch.zeros(())  # takes the shape and the device of what is added
    for flipped, quarters in ORIENTATIONS:
        turned = torch.rot90(slices, quarters, (2, 3))
        found = predict(turned.flip(3) if flipped else turned)
        # Undone in the opposite order: the flip came last.
        total = total + torch.rot90(found.flip(3) if flipped else found, -quarters, (2, 3))
    return total / len(ORIENTATIONS)
