"""Whole axial slices of scans with lung masks: what the lung network is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    AsDiscreted,
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    SelectItemsd,
    ToTensord,
)
from numpy.typing import NDArray
from torch.utils.data import Sampler

from covsev.inference.slices import resize_slices
from covsev.training.data.records import Record, stem_of
from covsev.training.data.sick_lungs import RandConsolidationd
from covsev.training.data.transforms import EdgeMapd, load_slices

NOT_LABELLED = 255
"""Value of a lung mask in slices in which nobody drew the lungs."""


@dataclass(frozen=True)
class LungSlicing:
    """How scans become slices for the lung network: whole, on the network's grid, 8 bit.

    Attributes:
        hu_window: HU that become black and white; those of the bundle's ``inference.yaml``.
        network_size: (height, width) of the network's grid.
    """

    hu_window: Sequence[float]
    network_size: Sequence[int]

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """The labelled slices of all scans, in the records' order.

        Args:
            records: of :func:`covsev.training.data.manifests.load_datalist`, each with ``image`` and ``lungs``.

        Returns:
            records with ``image`` (h, w) uint8, ``lungs`` (h, w) uint8 0 to 255, and the scan's ``name``.

        Raises:
            ValueError: if a record has no lung mask, or one of another shape.
        """
        return [item for record in records for item in self._of_scan(record)]

    def _of_scan(self, record: Record) -> Iterator[dict[str, Any]]:
        if "lungs" not in record:
            raise ValueError(f"{record['image']}: it has no lung mask to learn from")
        keys = ("image", "lungs")
        load = Compose(
            [
                LoadImaged(keys),
                EnsureChannelFirstd(keys, channel_dim="no_channel"),
                Orientationd(keys, axcodes="LPS", labels=None),
            ]
        )
        loaded = load({key: record[key] for key in keys})
        hu, lungs = (loaded[key][0].numpy() for key in keys)
        if hu.shape != lungs.shape:
            raise ValueError(f"{record['lungs']}: its shape is not that of {record['image']}")
        low, high = self.hu_window
        labelled = ~(lungs == NOT_LABELLED).any(axis=(0, 1))
        for level in np.flatnonzero(labelled):
            grey = (hu[:, :, level].astype(np.float32) - low) / (high - low)
            yield {
                "image": self._on_grid(np.clip(grey, 0, 1)),
                "lungs": self._on_grid((lungs[:, :, level] > 0).astype(np.float32)),
                "name": stem_of(Path(record["image"])),
            }

    def _on_grid(self, plane: NDArray[np.float32]) -> NDArray[np.uint8]:
        size = (self.network_size[0], self.network_size[1])
        resized = resize_slices(plane[None, None], size)[0, 0]
        return np.rint(255 * resized).astype(np.uint8)


class DrawnFromEachScan(Sampler[int]):
    """Shuffles a fixed number of slices of every scan, drawn anew for each epoch, so that no long scan rules.

    Args:
        slices: records with the ``name`` of their scan.
        per_scan: slices of each scan an epoch; all, where a scan has fewer.

    Raises:
        ValueError: if ``per_scan`` is not positive.
    """

    def __init__(self, slices: Sequence[Record], per_scan: int):
        if per_scan < 1:
            raise ValueError(f"per_scan must be 1 or more; got {per_scan}")
        names = np.array([item["name"] for item in slices])
        self.scans = [torch.from_numpy(np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())]
        self.per_scan = per_scan

    def __len__(self) -> int:
        return sum(min(self.per_scan, len(scan)) for scan in self.scans)

    def __iter__(self) -> Iterator[int]:
        orders = [torch.randperm(len(scan))[: self.per_scan] for scan in self.scans]
        drawn = torch.cat([scan[order] for scan, order in zip(self.scans, orders, strict=True)])
        yield from drawn[torch.randperm(len(drawn))].tolist()


def lung_training(hu_window: Sequence[float], *, consolidation_probability: float = 0.6) -> Compose:
    """Chain for the lung network: slices of :class:`LungSlicing` to augmented network input.

    Args:
        hu_window: HU that are black and white in the slices.
        consolidation_probability: share of the slices into whose lungs consolidation is pasted.

    Returns:
        transform from ``{"image": (H, W) uint8, "lungs": (H, W) uint8}`` to ``{"image": (1, H, W) in [0, 1],
        "label": (2, H, W)}``; the label's channels are lungs and edge.
    """
    both = ("image", "lungs")
    return Compose(
        [
            *load_slices(both),
            SelectItemsd(keys=both),
            ToTensord(keys=both, track_meta=False),
            # Sickness first, then position, then scanner, in the order in which they come about.
            RandConsolidationd(*both, hu_window, prob=consolidation_probability),
            RandFlipd(keys=both, prob=0.5, spatial_axis=0),
            RandFlipd(keys=both, prob=0.1, spatial_axis=1),
            RandAffined(
                keys=both,
                prob=0.9,
                rotate_range=0.26,
                scale_range=(0.33, 0.33),
                translate_range=(24, 24),
                mode=("bilinear", "bilinear"),
                padding_mode="zeros",
            ),
            AsDiscreted(keys="lungs", threshold=0.5),
            RandScaleIntensityd(keys="image", prob=0.5, factors=0.1),
            RandShiftIntensityd(keys="image", prob=0.5, offsets=0.05),
            RandGaussianSmoothd(keys="image", prob=0.2, sigma_x=(0.4, 1.0), sigma_y=(0.4, 1.0)),
            RandGaussianNoised(keys="image", prob=0.4, std=0.03),
            ScaleIntensityRanged(keys="image", a_min=0, a_max=1, b_min=0, b_max=1, clip=True),
            EdgeMapd(keys="lungs"),
            ConcatItemsd(keys=("lungs", "edge"), name="label"),
            SelectItemsd(keys=("image", "label")),
        ]
    )
