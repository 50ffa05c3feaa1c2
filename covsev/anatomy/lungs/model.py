"""The lung model: a network that says which pixels of an axial slice are lung, aerated or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from covsev.inference.network import SliceNetwork
from covsev.inference.ready import load_ready, network_from_json, network_to_json
from covsev.inference.slabs import Slabs, as_stack, as_volume, batches, smooth_across
from covsev.inference.slices import SlicePreprocessing, probabilities_at

if TYPE_CHECKING:  # torch takes seconds to import, and a model that is kept ready does not need it
    import torch
    from torch import nn

    from covsev.inference.runtime import Inferer

_NUMBERS = ("threshold", "axial_smoothing_mm", "least_field_mm")


@dataclass(frozen=True)
class Field:
    """The square field of view that the network sees a slice in, with air around what the slice does not cover.

    A slice that is cropped to the lungs fills the network's grid with lung, and a slice that is no square would be
    stretched to one. The network has seen neither, and took bowel for lung in such slices.

    Attributes:
        size: (X, Y) voxels of the slice.
        side: (X, Y) voxels of the field.
    """

    size: tuple[int, int]
    side: tuple[int, int]

    @classmethod
    def around(cls, size: tuple[int, int], spacing_mm: tuple[float, float], least_mm: float) -> Field:
        """The field around a slice: a square in mm, of at least ``least_mm``.

        >>> Field.around((200, 100), (1.5, 1.5), least_mm=400)
        Field(size=(200, 100), side=(267, 267))
        >>> Field.around((512, 512), (0.9, 0.9), least_mm=400)
        Field(size=(512, 512), side=(512, 512))
        """
        extents_mm = [count * side_mm for count, side_mm in zip(size, spacing_mm, strict=True)]
        field_mm = max(least_mm, *extents_mm)
        x, y = (max(count, round(field_mm / side_mm)) for count, side_mm in zip(size, spacing_mm, strict=True))
        return cls(size, (x, y))

    def fill(self, slices: NDArray[Any], hu: float) -> NDArray[Any]:
        """Slices (N, X, Y) in the middle of the field; the rest is ``hu``."""
        if self.side == self.size:
            return slices
        before = self._before(self.side, self.size)
        after = (side - count - start for side, count, start in zip(self.side, self.size, before, strict=True))
        margins = [(0, 0), *zip(before, after, strict=True)]
        return np.pad(slices, margins, constant_values=hu)

    def cut(self, plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """What of the network's ``plane`` (h, w) the slice covers, drawn at ``size``."""
        x, y = (round(side * new / old) for side, new, old in zip(self.side, size, self.size, strict=True))
        whole = probabilities_at((x, y), plane[None, None])[0, 0]
        start_x, start_y = self._before((x, y), size)
        return whole[start_x : start_x + size[0], start_y : start_y + size[1]]

    @staticmethod
    def _before(side: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Voxels of the field before the slice's first one."""
        x, y = (whole - part for whole, part in zip(side, size, strict=True))
        return x // 2, y // 2


@dataclass(frozen=True, eq=False)
class LungProbability:
    """Lung probability of a volume, kept on the network's small grid and drawn at any size when it is asked for.

    Attributes:
        slabs: which slices were seen together.
        field: in which the network saw them.
        on_grid: (N, h, w) float32, of each slab, smoothed across slabs.
    """

    slabs: Slabs
    field: Field
    on_grid: NDArray[np.float32]

    def plane(self, level: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """(X, Y) probability of one slice at ``size``."""
        return self.field.cut(self.slabs.plane(self.on_grid, level), size)

    def levels(self, size: tuple[int, int], slices_a_level: int) -> Iterator[NDArray[np.float32]]:
        """(X, Y) probability at ``size`` of groups of slices, their mean; a rest at the end belongs to the last one."""
        number = max(1, self.slabs.slices // slices_a_level)
        for level in range(number):
            start = level * slices_a_level
            stop = self.slabs.slices if level == number - 1 else start + slices_a_level
            planes = [self.slabs.plane(self.on_grid, one) for one in range(start, stop)]
            yield self.field.cut(np.mean(planes, axis=0, dtype=np.float32), size)


@dataclass(frozen=True, eq=False)
class LungModel:
    """A lung network and what comes after it, as wired by a bundle's ``inference.yaml``.

    Attributes:
        slice_network: see :class:`~covsev.inference.network.SliceNetwork`; it sees whole slices.
        threshold: probability from which a voxel is lung.
        axial_smoothing_mm: SD of the Gaussian that smooths the probability across slices. Lungs go on in the next
            slice; a spleen or a stomach that looks like dense lung in one slice does not.
        least_field_mm: side of the square that slices are padded to, see :class:`Field`.
    """

    slice_network: SliceNetwork
    threshold: float
    axial_smoothing_mm: float
    least_field_mm: float

    @property
    def networks(self) -> dict[str, str]:
        """Name and weights' SHA-256 of the network."""
        return {self.slice_network.name: self.slice_network.weights}

    @property
    def slice_networks(self) -> tuple[SliceNetwork, ...]:
        """The one network."""
        return (self.slice_network,)

    def with_slice_network(self, **changes: Any) -> LungModel:
        """The same model whose slice network has other settings, such as ``batch_size=8``."""
        return replace(self, slice_network=replace(self.slice_network, **changes))

    def to_json(self) -> dict[str, Any]:
        """See :class:`covsev.inference.ready.Model`."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"slice_network": network_to_json(self.slice_network)} | numbers

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LungModel:
        """Inverse of :meth:`to_json`."""
        numbers = {name: content[name] for name in _NUMBERS}
        return cls(network_from_json(content["slice_network"]), **numbers)

    def probability(self, hu: NDArray[Any], spacing_mm: tuple[float, float, float]) -> LungProbability:
        """Lung probability of a volume.

        Args:
            hu: (X, Y, Z), axes left, back, head.
            spacing_mm: along these axes.
        """
        network, preprocessing = self.slice_network, self.slice_network.preprocessing
        stack, slice_mm = as_stack(hu), spacing_mm[2]
        slabs = Slabs(len(stack), preprocessing.slices_per_slab(slice_mm))
        field = Field.around((hu.shape[0], hu.shape[1]), spacing_mm[:2], self.least_field_mm)
        air_hu = preprocessing.hu_window[0]
        on_grid = np.zeros((slabs.number, *preprocessing.network_size), dtype=np.float32)

        def look_at(batch: NDArray[np.intp]) -> None:
            slices = slabs.mean(stack, batch, preprocessing.hu_window)
            seen = preprocessing(as_volume(field.fill(slices, air_hu)))
            on_grid[batch] = expit(network.logits(seen))[:, 0]

        for _ in network.over(look_at, batches(np.arange(slabs.number), network.batch_size)):
            pass
        smooth_across(on_grid, self.axial_smoothing_mm / (slabs.size * slice_mm))
        return LungProbability(slabs, field, on_grid)


def load_lung_model(
    bundle: Path,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    runtime: str | None = None,
    precision: str | None = None,
) -> LungModel:
    """The lung model of a bundle folder.

    Args:
        bundle, device: see :func:`covsev.inference.bundle.load_bundle`. The bundle as it is may be kept ready, see
            :mod:`covsev.inference.ready`.
        checkpoint: other weights than the bundle's own.
        runtime, precision: see :func:`covsev.inference.runtime.with_runtime`; the bundle's own if not given.

    Raises:
        BundleError: as :func:`covsev.inference.bundle.load_bundle`, and if the bundle's model is none of lungs.
        SettingError: as there.
    """
    settings = {"checkpoint": checkpoint, "runtime": runtime, "precision": precision}
    return load_ready(Path(bundle), LungModel, settings, device=device)


def make_lung_model(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    preprocessing: SlicePreprocessing,
    inferer: Inferer,
    threshold: float,
    axial_smoothing_mm: float,
    least_field_mm: float,
    batch_size: int,
    name: str,
    device: torch.device,
    runtime: str = "torch",
    precision: str = "f32",
) -> LungModel:
    """A :class:`LungModel` with the weights of ``checkpoint``; the ``_target_`` of the bundle's ``model``.

    Args:
        network: without weights.
        checkpoint, preprocessing, inferer, batch_size, name, device, runtime, precision: see
            :func:`covsev.inference.building.make_slice_network`.
        threshold, axial_smoothing_mm, least_field_mm: see :class:`LungModel`.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network.
        SettingError: as :func:`covsev.inference.runtime.with_runtime`.
    """
    from covsev.inference.building import make_slice_network  # here, since torch takes seconds to import

    slice_network = make_slice_network(
        network,
        checkpoint,
        preprocessing=preprocessing,
        inferer=inferer,
        batch_size=batch_size,
        name=name,
        device=device,
        runtime=runtime,
        precision=precision,
    )
    return LungModel(slice_network, threshold, axial_smoothing_mm, least_field_mm)
