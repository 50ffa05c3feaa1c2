"""Labelled volumes and stacks of slices as the 2-D slices that the training chains read.

Volumes go the way that serving goes: canonical axes, the HU window, cropped to the box of the lungs; but thin slices
are taken one by one, not as slabs. What comes out is 8-bit, like the slices of the 2-D datasets, so that both go
through one chain from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from numpy.typing import NDArray

from covsev.anatomy.lungs.box import lung_box
from covsev.anatomy.lungs.segment import segment_lungs
from covsev.assessment import lung_model_for
from covsev.labels import CONSOLIDATION, SLICE_SUFFIXES
from covsev.options import Options
from covsev.scan import Scan, canonical_spacing_mm
from covsev.scan.boxes import Box, box_or_whole, occupied
from covsev.scan.volume import PUBLIC_GRID_TOLERANCE_MM
from covsev.training.data.records import Record, stem_of

LABEL_KEYS = ("infection", "lesions")


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """A volume, or a stack of slices, with its masks, all (X, Y, Z).

    Attributes:
        scan: in canonical axes; a stack has the axes of its file.
        lungs: bool, or ``None`` where the record names none.
        labels: ``infection``, bool, and ``lesions``, uint8 0, 1, 2, as far as the record has them.
    """

    scan: Scan
    lungs: NDArray[np.bool_] | None
    labels: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class VolumeSlicing:
    """How volumes become slices; the numbers are those of the bundle's ``inference.yaml``.

    Attributes:
        hu_window: HU that become black and white. A volume whose values lie in 0..255 is windowed already.
        lung_margin_mm: margin around the bounding box of the lungs, to which slices are cropped.
    """

    hu_window: Sequence[float]
    lung_margin_mm: float

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """Records of slices from records of slices, stacks and volumes, in their order.

        A record of a picture stays as it is. A record with ``slice`` is one slice of a stack without geometry: it is
        cropped to its ``lungs``, if it has them. A volume gives a record for each axial slice that holds lung, or for
        those of them whose numbers, counted from the feet, stand in ``levels``; the lungs are those of the record, or
        segmented.

        Args:
            records: of :func:`covsev.training.data.manifests.load_datalist`.

        Returns:
            records; those made here have arrays (H, W) uint8 in place of paths: ``image`` 0..255, ``infection``
            0 or 255, ``lesions`` 0, 1, 2; and a ``name``, the file's with the slice's number.

        Raises:
            ValueError: if a mask has another grid than its image.
            LungsNotFoundError: if a volume has no lungs.
        """
        slices: list[dict[str, Any]] = []
        # Neighbours only: the order of the records is kept, and one volume at a time is in memory.
        for _, group in groupby(records, key=lambda record: str(record["image"])):
            first, *others = group
            if is_picture(first):
                slices += [dict(record) for record in (first, *others)]
            else:  # read once for all slices of a stack
                volume = self.load(first)
                for record in (first, *others):
                    cut = self._stack_slice if "slice" in record else self._axial
                    slices += cut(record, volume)
        return slices

    def load(self, record: Record) -> LabelledVolume:
        """The volume or the whole stack of a record, in HU.

        Values in 0..255 are brought back to HU by the window. Lesion labels above 2, pleural effusion in public
        datasets, are background. Where there is no infection mask, infection is where lesion labels are. A record
        with ``infected`` false has no mask: it has no infection anywhere in its slices.

        Raises:
            ValueError: if a mask has another grid than its image.
        """
        keys = [key for key in ("image", "lungs", *LABEL_KEYS) if key in record]
        steps: list[Any] = [LoadImaged(keys), EnsureChannelFirstd(keys, channel_dim="no_channel")]
        if "slice" not in record:  # a stack has no geometry that axes could be read from
            steps.append(Orientationd(keys, axcodes="LPS", labels=None))
        loaded = Compose(steps)({key: record[key] for key in keys})
        for key in keys[1:]:
            _require_same_grid(record, key, loaded)
        arrays = {key: loaded[key][0].numpy() for key in keys}
        path = Path(record["image"])
        affine = np.asarray(loaded["image"].affine, dtype=np.float64)
        scan = Scan(self._hu(arrays["image"]), affine, stem_of(path), path)
        labels = _labels(arrays) if record.get("infected", True) else _no_labels(scan.hu.shape)
        return LabelledVolume(scan, arrays["lungs"] > 0 if "lungs" in arrays else None, labels)

    def _hu(self, values: NDArray[Any]) -> NDArray[np.float32]:
        low, high = self.hu_window
        values = values.astype(np.float32)
        # A scan in HU has air at about -1000, so its values never lie in 0..255 alone.
        windowed = values.min() >= 0 and values.max() <= 255
        if not windowed:
            return values
        per_grey = np.float32((high - low) / 255)  # a float64 number would double the volume's memory
        return low + values * per_grey

    def _axial(self, record: Record, volume: LabelledVolume) -> Iterator[dict[str, Any]]:
        lungs = lungs_of(volume)
        x, y, _ = lung_box(lungs.astype(np.uint8), self.lung_margin_mm, canonical_spacing_mm(volume.scan))
        levels = occupied(lungs, axis=2)
        # A level of the record that holds no lung is left out: serving does not look at it, either.
        for level in np.intersect1d(levels, record["levels"]) if "levels" in record else levels:
            yield self._slice(record, volume, (x, y), int(level))

    def _stack_slice(self, record: Record, volume: LabelledVolume) -> list[dict[str, Any]]:
        level = int(record["slice"])
        box: Box = (slice(None), slice(None))
        if volume.lungs is not None:
            box = box_or_whole(volume.lungs[:, :, level])
        return [self._slice(record, volume, box, level)]

    def _slice(self, record: Record, volume: LabelledVolume, box: Box, level: int) -> dict[str, Any]:
        low, high = self.hu_window
        here = (box[0], box[1], level)
        scale = 255 / (high - low)
        grey = (volume.scan.hu[here] - low) * scale
        planes = {key: labels[here].astype(np.uint8) for key, labels in volume.labels.items()}
        if "infection" in planes:
            planes["infection"] *= 255  # as in a mask's picture
        # What does not fit the slice any more is left out: the edges' and the lungs' files, and the list of levels.
        rest = {key: value for key, value in record.items() if key not in ("edge", "lungs", "levels", *LABEL_KEYS)}
        image = np.rint(grey.clip(0, 255)).astype(np.uint8)
        return rest | planes | {"image": image, "name": f"{volume.scan.case}_{level:04d}"}


def is_picture(record: Record) -> bool:
    """Whether a record's image is a PNG or JPG file, or a slice that :class:`VolumeSlicing` made."""
    image = record["image"]
    if not isinstance(image, str | Path):
        return True
    return str(image).lower().endswith(SLICE_SUFFIXES)


def lungs_of(volume: LabelledVolume) -> NDArray[np.bool_]:
    """The volume's lung mask (X, Y, Z), segmented if it came with none.

    Raises:
        LungsNotFoundError: if there are no lungs.
    """
    if volume.lungs is not None:
        return volume.lungs
    return segment_lungs(volume.scan, lung_model_for(Options())).labels > 0


def _labels(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    labels: dict[str, NDArray[Any]] = {}
    if "lesions" in arrays:
        # Rounded, not cut off: a NIfTI file with a scale factor may hold 1.9999 where 2 is meant.
        numbers = np.rint(arrays["lesions"]).astype(np.uint8)
        labels["lesions"] = np.where(numbers <= CONSOLIDATION.id, numbers, np.uint8(0))
        labels["infection"] = labels["lesions"] > 0
    if "infection" in arrays:  # a mask of its own comes before what the lesions say
        labels["infection"] = arrays["infection"] > 0
    return labels


def _no_labels(shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    return {"infection": np.zeros(shape, dtype=bool), "lesions": np.zeros(shape, dtype=np.uint8)}


def _require_same_grid(record: Record, key: str, loaded: Mapping[str, Any]) -> None:
    image, mask = loaded["image"], loaded[key]
    if image.shape != mask.shape or not np.allclose(image.affine, mask.affine, atol=PUBLIC_GRID_TOLERANCE_MM):
        raise ValueError(
            f"{record[key]}: its grid is not that of {record['image']} "
            f"(shapes {tuple(mask.shape[1:])} and {tuple(image.shape[1:])}, or the affines differ)"
        )
