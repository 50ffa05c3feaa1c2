"""Transform chains of training and evaluation: MONAI's dictionary transforms, ours only where MONAI has none."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor, PILReader
from monai.transforms import (
    AsDiscreted,
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImage,
    MapTransform,
    ScaleIntensityRanged,
    SelectItemsd,
    SobelGradients,
    ToTensord,
)
from PIL import Image
from torch import Tensor

from covsev.labels import LESIONS, SLICE_SUFFIXES
from covsev.training.data.augmentation import geometric_augmentation, intensity_augmentation
from covsev.training.data.resizing import resize_tensors


class ResizeSliced(MapTransform):
    """Resize (C, H, W) slices with :func:`covsev.training.data.resizing.resize_tensors`, the resizer of serving.

    Args:
        keys: keys of the images.
        size: (height, width) of the result.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int]):
        super().__init__(keys)
        self.size = (size[0], size[1])

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Replace the images by resized ones."""
        resized = dict(data)  # CacheDataset keeps the original: it must not be changed
        for key in self.key_iterator(resized):
            resized[key] = resize_tensors(data[key][None], self.size)[0]
        return resized


class EdgeMapd(MapTransform):
    """Add the boundary of a binary mask: the pixels whose 3 x 3 neighbourhood holds both values.

    Args:
        keys: key of the mask, (C, H, W) with values 0 and 1; the boundary is that of any channel.
        name: key of the edge map, (1, H, W).
    """

    def __init__(self, keys: KeysCollection, name: str = "edge"):
        super().__init__(keys)
        self.name = name

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Add the edge map."""
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            mask = data[key][None]
            # The largest and the smallest value of each neighbourhood; they differ on both sides of a boundary.
            dilated = F.max_pool2d(mask, 3, stride=1, padding=1)
            eroded = -F.max_pool2d(-mask, 3, stride=1, padding=1)
            result[self.name] = (dilated - eroded).amax(dim=1)
        return result


class GradientEdged(MapTransform):
    """Add the edges of an image: the magnitude of its Sobel gradient, 1 at a straight edge from 0 to 1, clipped.

    The scale is fixed, so that the edges of a slice do not depend on its strongest one.

    Args:
        keys: key of the image, (1, H, W) in [0, 1].
        name: key of the edge map, (1, H, W) in [0, 1].
    """

    def __init__(self, keys: KeysCollection, name: str = "edge"):
        super().__init__(keys)
        self.name = name
        self.gradients = SobelGradients()

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Add the edge map."""
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            along_axes = torch.as_tensor(self.gradients(data[key]))
            # Twice: a step from 0 to 1 has the gradient 0.5, which is taken over two pixels.
            result[self.name] = (2 * along_axes.norm(dim=0, keepdim=True)).clamp(0, 1)
        return result


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


class LoadSliced(MapTransform):
    """Read PNG and JPG files as (H, W) float tensors, rows first; slices of volumes are arrays already.

    Args:
        keys: keys of the paths or arrays, see :class:`covsev.training.data.volumes.VolumeSlicing`.
        converter: applied to each picture that is read.
    """

    def __init__(self, keys: KeysCollection, converter: Callable[[Image.Image], Image.Image] | None = None):
        super().__init__(keys)
        # MONAI's reader turns pictures by default, so that the first axis is x.
        reader = PILReader(converter=converter, reverse_indexing=False)
        self.load = LoadImage(reader=reader, image_only=True)  # type: ignore[arg-type]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths and arrays by tensors.

        Raises:
            ValueError: if a path is not that of a picture.
        """
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            loaded[key] = self._read(data[key])
        return loaded

    def _read(self, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return MetaTensor(torch.as_tensor(value, dtype=torch.float32))
        if not str(value).lower().endswith(SLICE_SUFFIXES):
            raise ValueError(f"{value}: not a PNG or JPG file; volumes have to go through VolumeSlicing first")
        return self.load(value)


def load_slices(keys: Sequence[str] = ("image", "infection")) -> list[Any]:
    """Read 8-bit slices as (1, H, W) float tensors in [0, 1], rows first."""
    return [
        LoadSliced(keys=keys, converter=_grey),
        EnsureChannelFirstd(keys=keys, channel_dim="no_channel"),
        ScaleIntensityRanged(keys=keys, a_min=0, a_max=255, b_min=0, b_max=1, clip=True),
    ]


def infection_training(size: Sequence[int], *, augment: bool = True, cutout_probability: float = 0.4) -> Compose:
    """Chain for the single network: slices and masks of 8-bit files to augmented network input.

    The first part, up to the first random transform, is deterministic, so that ``CacheDataset`` keeps it.
    Scans differ in window and orientation, so the augmentation does too.

    Args:
        size: (height, width) of the network's grid, square if slices are augmented, because they are turned.
        augment: without it the whole chain is deterministic.
        cutout_probability: of grey cutout; 0.4 and 0.5 in the paper.

    Returns:
        transform from ``{"image": path or array, "infection": path or array}`` to ``{"image": (1, H, W) in [0, 1],
        "label": (2, H, W)}``; the label's channels are infection and edge.

    Raises:
        ValueError: if ``size`` is not square, but should be.
    """
    _require_square(size, augment)
    both = ("image", "infection")
    return Compose(
        [
            *load_slices(both),
            ResizeSliced(keys=both, size=size),
            SelectItemsd(keys=both),
            ToTensord(keys=both, track_meta=False),  # without paths and affines, which no batch needs
            *(geometric_augmentation(both, ("bilinear", "bilinear")) if augment else ()),
            # Once, after all that interpolates: a label is a label.
            AsDiscreted(keys="infection", threshold=0.5),
            *(intensity_augmentation("image", cutout_probability) if augment else ()),
            # From the mask as it is now: an edge that was turned and resized itself would be blurred.
            EdgeMapd(keys="infection"),
            ConcatItemsd(keys=("infection", "edge"), name="label"),
            SelectItemsd(keys=("image", "label")),
        ]
    )


def lesion_training(size: Sequence[int], *, augment: bool = True, cutout_probability: float = 0.4) -> Compose:
    """Chain for the multi network; as :func:`infection_training`, with lesion labels in place of the mask.

    Label maps are resized and turned as one map a class, then the strongest class wins: no class between two others
    appears along an edge, as it would if the numbers themselves were interpolated.

    Args:
        size, augment, cutout_probability: as there.

    Returns:
        transform from ``{"image": path, "lesions": path}`` to ``{"image": (1, H, W) in [0, 1],
        "label": (4, H, W)}``; the label's channels are background, ground-glass opacity, consolidation and edge.

    Raises:
        ValueError: if ``size`` is not square, but should be.
    """
    _require_square(size, augment)
    both = ("image", "lesions")
    classes = 1 + len(LESIONS)  # and the background
    return Compose(
        [
            *load_slices(("image",)),
            *load_label_maps("lesions"),
            AsDiscreted(keys="lesions", to_onehot=classes),  # before the first interpolation
            ResizeSliced(keys=both, size=size),
            SelectItemsd(keys=both),
            ToTensord(keys=both, track_meta=False),
            *(geometric_augmentation(both, ("bilinear", "bilinear")) if augment else ()),
            AsDiscreted(keys="lesions", argmax=True, to_onehot=classes),
            *(intensity_augmentation("image", cutout_probability) if augment else ()),
            EdgeMapd(keys="lesions"),
            ConcatItemsd(keys=("lesions", "edge"), name="label"),
            SelectItemsd(keys=("image", "label")),
        ]
    )


def _require_square(size: Sequence[int], augment: bool) -> None:
    if augment and size[0] != size[1]:
        raise ValueError(f"size must be square; got {size[0]} x {size[1]}")


def load_label_maps(key: str) -> list[Any]:
    """Read label numbers, palette images included, as a (1, H, W) float tensor, rows first."""
    return [
        LoadSliced(keys=key),  # no conversion to grey: it would turn the numbers of a palette into its colours' grey
        EnsureChannelFirstd(keys=key, channel_dim="no_channel"),
    ]


def inpainting_training(size: Sequence[int], *, augment: bool = True) -> Compose:
    """Chain for pretraining by inpainting: slices of 8-bit files to the image and its edges.

    Args:
        size: (height, width) of the network's grid, square if slices are augmented, because they are turned.
        augment: turn, flip and deform at random; without it the chain is deterministic.

    Returns:
        transform from ``{"image": path}`` to ``{"image": (1, H, W), "edge": (1, H, W)}``, both in [0, 1].

    Raises:
        ValueError: if ``size`` is not square, but should be.
    """
    _require_square(size, augment)
    keys = ("image",)
    return Compose(
        [
            *load_slices(keys),
            ResizeSliced(keys=keys, size=size),
            SelectItemsd(keys=keys),
            ToTensord(keys=keys, track_meta=False),
            *(geometric_augmentation(keys, ("bilinear",)) if augment else ()),
            ScaleIntensityRanged(keys=keys, a_min=0, a_max=1, b_min=0, b_max=1, clip=True),
            # No changes of intensity: what is erased has to be foreseen from what is around it.
            GradientEdged(keys=keys),
            ToTensord(keys=("image", "edge"), track_meta=False),
            SelectItemsd(keys=("image", "edge")),
        ]
    )
