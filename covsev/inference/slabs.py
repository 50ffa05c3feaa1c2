"""Thin slices seen together: slabs, batches of them, and smoothing from one to the next. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

_T = TypeVar("_T", bound=np.generic)


def as_stack(volume: NDArray[_T]) -> NDArray[_T]:
    """View (Z, X, Y) of a volume (X, Y, Z)."""
    return np.moveaxis(volume, 2, 0)


def as_volume(stack: NDArray[_T]) -> NDArray[_T]:
    """View (X, Y, Z) of slices (Z, X, Y)."""
    return np.moveaxis(stack, 0, 2)


@dataclass(frozen=True)
class Slabs:
    """Neighbouring slices that the network sees as one, their mean.

    Attributes:
        slices: how many slices there are.
        size: slices a slab; the last slab may have fewer.

    Five slices in slabs of two. The last slab is slice 4 alone:

    >>> slabs = Slabs(slices=5, size=2)
    >>> slabs.number, slabs.of(np.array([0, 1, 4])).tolist()
    (3, [0, 2])

    Their values, back at the slices, run straight from the middle of a slab to the middle of the next:

    >>> slabs.at_slices(np.array([0, 1, 1], dtype=np.float32).reshape(3, 1, 1)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0, 1.0]
    """

    slices: int
    size: int

    @property
    def number(self) -> int:
        """How many slabs there are."""
        return -(-self.slices // self.size)  # rounded up: the last one may be smaller

    def of(self, levels: NDArray[np.intp]) -> NDArray[np.intp]:
        """The slabs that hold the slices ``levels``, each once, ascending."""
        return np.unique(levels // self.size)

    def levels_of(self, slab: int) -> slice:
        """The slices of one slab."""
        first = slab * self.size
        return slice(first, first + self.size)  # may end beyond the last slice, where numpy stops by itself

    def mean(self, hu: NDArray[Any], slabs: NDArray[np.intp], hu_window: tuple[float, float]) -> NDArray[Any]:
        """(N, X, Y) mean of each of ``slabs`` of a stack (Z, X, Y), within the window; single slices are left alone."""
        if self.size == 1:
            return hu[slabs]  # type: ignore[no-any-return]
        low, high = hu_window  # padding of -3024 HU in one slice is no reason for black in its neighbour
        parts = [np.clip(hu[self.levels_of(slab)], low, high) for slab in slabs.tolist()]
        return np.stack([part.mean(axis=0, dtype=np.float32) for part in parts])

    def at_slices(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(Z, X, Y) of ``values`` (N, X, Y) of slabs, see :meth:`between`; the same array where a slab is one slice."""
        return values if self.size == 1 else np.stack(list(self.between(values)))

    def between(self, values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """(X, Y) for each slice, interpolated between the middles of slabs with ``values`` (N, X, Y)."""
        # One slice after the other: all of them in float32 would be a copy of the volume.
        for level in range(self.slices):
            yield self.plane(values, level)

    def plane(self, values: NDArray[np.float32], level: int) -> NDArray[np.float32]:
        """(X, Y) of one slice, interpolated between the middles of slabs with ``values`` (N, X, Y)."""
        # Before the first middle and after the last, the values stay as they are there.
        position = np.interp(level, self._middles, np.arange(self.number))
        lower, share = int(position), np.float32(position % 1)  # float64 would make the slice float64
        if share == 0:  # the last slab has no next one
            return values[lower]
        rise = values[lower + 1] - values[lower]
        return values[lower] + share * rise

    @property
    def _middles(self) -> NDArray[np.float64]:
        """The middle slice of each slab; half a slice where a slab has an even number."""
        starts = np.arange(0, self.slices, self.size)
        last = np.minimum(starts + self.size, self.slices) - 1
        return (starts + last) / 2  # type: ignore[no-any-return]


def batches(numbers: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """``numbers`` in groups of ``size``; the last may be smaller."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def smooth_across(probability: NDArray[np.float32], sd: float) -> None:
    """Smooth (N, X, Y) in place along its first axis by a Gaussian; beyond the ends, the end values go on.

    Args:
        probability: of slabs or slices, one after the other.
        sd: of the Gaussian, in slabs; 0 leaves all as it is.
    """
    if sd > 0:
        gaussian_filter1d(probability, sd, axis=0, mode="nearest", output=probability)
