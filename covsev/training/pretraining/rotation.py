"""Pretraining by rotation: slices turned by 0, 90 or 180 degrees, see :mod:`covsev.networks.rotation`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, RandAffined, Randomizable, SelectItemsd, ToTensord

from covsev.networks.rotation import TURNS
from covsev.training.data.augmentation import intensity_augmentation
from covsev.training.data.transforms import ResizeSliced, load_slices


class QuarterTurnd(Randomizable, MapTransform):
    """Turn images by 0, 90 or 180 degrees and say by how much. MONAI's ``RandRotate90d`` does not.

    Args:
        keys: keys of the images, (C, H, W), square.
        name: key of the number of quarter turns, 0, 1 or 2. It is drawn at random where the data lack it.
        upright: key of the number of quarter turns that make the image upright first; 0 where the data lack it.
    """

    def __init__(self, keys: KeysCollection, name: str = "label", upright: str = "upright"):
        super().__init__(keys)
        self.name = name
        self.upright = upright

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn, anticlockwise, and add the number as an integer tensor."""
        result = dict(data)
        # In measurements the turn is given, so that every slice is seen in each of them.
        given = self.name in result
        turns = int(result[self.name]) if given else int(self.R.randint(TURNS))
        to_upright = int(result.get(self.upright, 0))
        for key in self.key_iterator(result):
            # One turn for both: turns of a square by quarters add up, and lose nothing.
            result[key] = torch.rot90(result[key], turns + to_upright, dims=(1, 2))
        result[self.name] = torch.tensor(turns)
        return result


def rotation_training(size: Sequence[int], *, augment: bool = True) -> Compose:
    """Chain for pretraining by rotation: slices of 8-bit files to turned images.

    Slices are never flipped: a flipped slice looks like one turned by 180 degrees.

    Args:
        size: (height, width) of the network's grid, square.
        augment: deform slices and change their intensities; without it the chain draws nothing but the turn.

    Returns:
        transform from ``{"image": path}``, and ``upright`` and ``label`` of :class:`QuarterTurnd` if there are any, to
        ``{"image": (1, H, W) in [0, 1], "label": 0, 1 or 2}``.

    Raises:
        ValueError: if ``size`` is not square.
    """
    if size[0] != size[1]:
        raise ValueError(f"size must be square; got {size[0]} x {size[1]}")
    keys = ("image",)
    # Less rotation (in radians) than in the training of masks: what is to be told apart are the turns.
    small = RandAffined(keys=keys, prob=0.9, rotate_range=0.2, scale_range=(0.2, 0.2), padding_mode="zeros")
    return Compose(
        [
            *load_slices(keys),
            ResizeSliced(keys=keys, size=size),
            SelectItemsd(keys=("image", "label", "upright"), allow_missing_keys=True),
            ToTensord(keys=keys, track_meta=False),
            *((small, *intensity_augmentation("image")) if augment else ()),
            QuarterTurnd(keys=keys),
            SelectItemsd(keys=("image", "label")),
        ]
    )


def with_upright(records: Sequence[Mapping[str, Any]], upside_down: str | None) -> list[dict[str, Any]]:
    """Each of ``records`` with the quarter turns, ``upright``, that make all of them lie the same way round.

    Args:
        records: with ``image``.
        upside_down: part of the names of the images that lie turned by 180 degrees, or mirrored so that it looks like
            that, as half the volumes of COVID-SemiSeg do; ``None`` if there are none.
    """
    return [{**record, "upright": _quarters_to_upright(record, upside_down)} for record in records]


def _quarters_to_upright(record: Mapping[str, Any], upside_down: str | None) -> int:
    if upside_down is None:
        return 0
    return 2 if upside_down in Path(record["image"]).name else 0


def split_patients(
    records: Sequence[Mapping[str, Any]], every: int
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Records to train on, and those held out: the first patient and then every ``every``-th.

    Slices whose names differ in their last number alone are of one patient.

    Raises:
        ValueError: if nothing is left to train on.
    """
    # Digits at the very end are the slice's number.
    patients = [re.sub(r"\d+$", "", Path(record["image"]).stem) for record in records]
    in_order = list(dict.fromkeys(patients))  # each once, in the order of the records: the same in every run
    held_out = set(in_order[::every])
    training = [record for record, patient in zip(records, patients, strict=True) if patient not in held_out]
    if not training:
        raise ValueError(f"no patient is left to train on: {len(held_out)} held out, every {every} of them")
    return training, [record for record, patient in zip(records, patients, strict=True) if patient in held_out]


def with_every_turn(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each of ``records`` three times, with 0, 1 and 2 quarter turns as ``label``: to measure the accuracy on."""
    return [{**record, "label": turns} for record in records for turns in range(TURNS)]
