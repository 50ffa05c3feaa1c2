"""COVID-19 lesions: runs the network of a MONAI bundle over the axial slices of a scan.

The bundle's ``inference.yaml`` is the one place where network, preprocessing, inferer and postprocessing are
wired, so this module and ``python -m monai.bundle run`` cannot drift apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from covsev.anatomy.lungs import lung_box
from covsev.errors import BundleError, CovsevError
from covsev.labels import CONSOLIDATION, CONSOLIDATION_HU, GROUND_GLASS
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, require_same_grid, to_canonical


def resize_slices(slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) slices to ``size``, bilinear and antialiased: the one resizer of training and serving.

    The resizer is part of the model: plain and antialiased bilinear give visibly different masks.
    """
    return F.interpolate(slices, size=size, mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True)
class SlicePreprocessing:
    """From a scan's slices to what the network sees.

    Attributes:
        hu_window: HU that become 0 and 1; values outside are clipped.
        network_size: (height, width) of the network's grid, multiples of 32.
        lung_margin_mm: margin around the bounding box of the lungs, to which slices are cropped.
    """

    hu_window: tuple[float, float]
    network_size: tuple[int, int]
    lung_margin_mm: float

    def __call__(self, slices: NDArray[Any]) -> Tensor:
        """Windowed and resized (N, 1, h, w) float32 in [0, 1] from HU slices (H, W, N)."""
        low, high = self.hu_window
        stack = torch.from_numpy(np.ascontiguousarray(np.moveaxis(slices, -1, 0), dtype=np.float32))
        grey = ((stack - low) / (high - low)).clamp_(0, 1)
        return self.resize(grey[:, None])

    def resize(self, grey: Tensor) -> Tensor:
        """Slices (N, 1, H, W) in [0, 1] on the network's grid."""
        return resize_slices(grey, (self.network_size[0], self.network_size[1]))


@dataclass(frozen=True)
class SlicePostprocessing:
    """From logits back to the slices' own grid.

    Attributes:
        threshold: probability from which a voxel is infected.
    """

    threshold: float

    def __call__(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (N, 1, H, W) on a grid of ``size`` from logits on the network's grid."""
        return resize_slices(torch.sigmoid(logits), size).clamp_(0, 1)


@dataclass(frozen=True, eq=False)
class LesionModel:
    """A network and everything around it, as wired by a bundle's ``inference.yaml``.

    Attributes:
        network: on its device, in evaluation mode.
        preprocessing: see :class:`SlicePreprocessing`.
        inferer: MONAI inferer, called with the batch and the network.
        postprocessing: see :class:`SlicePostprocessing`.
        batch_size: slices a batch.
        name: of the bundle.
        weights: SHA-256 of the checkpoint file.
    """

    network: nn.Module
    preprocessing: SlicePreprocessing
    inferer: Callable[[Tensor, nn.Module], Tensor]
    postprocessing: SlicePostprocessing
    batch_size: int
    name: str
    weights: str

    @torch.inference_mode()
    def predict(self, network_input: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """Probabilities (N, H, W) at ``size`` of preprocessed slices (N, 1, h, w)."""
        device = next(self.network.parameters()).device
        batch = network_input.to(device=device, memory_format=torch.channels_last)
        probability = self.postprocessing(self.inferer(batch, self.network), size)
        return probability[:, 0].float().cpu().numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class LesionSegmentation:
    """Result of :func:`segment_lesions`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid: 1 ground-glass opacity, 2 consolidation.
        probability: (X, Y, Z) float32 infection probability, 0 where the network did not look.
        method: how the labels were made, in words.
    """

    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    method: str


def segment_lesions(
    scan: Scan, lungs: NDArray[np.uint8], model: LesionModel, *, restrict_to_lungs: bool = True
) -> LesionSegmentation:
    """Find infected voxels and divide them into ground-glass opacity and consolidation.

    The network sees the axial slices that hold lung, cropped to the lungs.

    Args:
        scan: the scan.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment_lungs`.
        model: see :func:`load_model`.
        restrict_to_lungs: drop what lies outside the lung labels.

    Raises:
        GridMismatchError: if ``lungs`` has another shape than the scan.
        LungsNotFoundError: if ``lungs`` is empty.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung labels")
    hu = to_canonical(scan.hu, scan.affine)
    sides = to_canonical(lungs, scan.affine)
    box = lung_box(sides, model.preprocessing.lung_margin_mm, canonical_spacing_mm(scan))
    with_lung = np.flatnonzero(sides.any(axis=(0, 1)))
    probability = np.zeros(hu.shape, dtype=np.float32)
    size = (box[0].stop - box[0].start, box[1].stop - box[1].start)
    for start in range(0, len(with_lung), model.batch_size):
        levels = with_lung[start : start + model.batch_size]
        batch = model.preprocessing(hu[box[0], box[1]][:, :, levels])
        probability[box[0], box[1], levels] = np.moveaxis(model.predict(batch, size), 0, -1)
    infected = probability >= model.postprocessing.threshold
    if restrict_to_lungs:
        infected &= sides > 0
    return LesionSegmentation(
        labels=from_canonical(split_by_hu(infected, hu), scan.affine),
        probability=from_canonical(probability, scan.affine),
        method=(
            f"infection: {model.name} at probability {model.postprocessing.threshold:g}"
            f"{', within the lungs' if restrict_to_lungs else ''}; "
            f"consolidation: infected voxels above {CONSOLIDATION_HU} HU, the rest ground-glass opacity"
        ),
    )


def split_by_hu(infected: NDArray[np.bool_], hu: NDArray[Any]) -> NDArray[np.uint8]:
    """Lesion labels from an infection mask: consolidation above :data:`CONSOLIDATION_HU`, else ground glass."""
    labels = infected.astype(np.uint8) * np.uint8(GROUND_GLASS.id)
    labels[infected & (hu > CONSOLIDATION_HU)] = CONSOLIDATION.id
    return labels


def slice_probability(grey: NDArray[np.uint8], model: LesionModel) -> NDArray[np.float32]:
    """Infection probability (H, W) of one 8-bit slice (H, W) that is already cropped to the chest.

    Raises:
        ValueError: if ``grey`` is not a 2-D uint8 array.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise ValueError(f"grey must be a 2-D uint8 array; got {grey.dtype} of shape {grey.shape}")
    image = torch.from_numpy(grey.astype(np.float32) / 255)[None, None]
    return model.predict(model.preprocessing.resize(image), (grey.shape[0], grey.shape[1]))[0]


def segment_slice(grey: NDArray[np.uint8], model: LesionModel) -> NDArray[np.bool_]:
    """Infection mask (H, W) of one slice; see :func:`slice_probability`."""
    return slice_probability(grey, model) >= model.postprocessing.threshold


# ---- bundles ---------------------------------------------------------------------------------------------------


def load_model(bundle: Path, *, device: str = "cpu", checkpoint: Path | None = None) -> LesionModel:
    """The model that ``configs/inference.yaml`` of a bundle folder describes.

    Args:
        bundle: folder of a MONAI bundle. Its configuration can run code: use only bundles that you trust.
        device: torch device.
        checkpoint: other weights than the bundle's own.

    Raises:
        BundleError: if the folder, its configuration or its weights are missing or do not fit.
    """
    config = Path(bundle) / "configs" / "inference.yaml"
    if not config.is_file():
        raise BundleError(f"{bundle}: not a covsev bundle, {config} is missing")
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(config))
    parser["bundle_root"] = str(bundle)
    parser["device"] = f"$torch.device('{device}')"
    if checkpoint is not None:
        parser["checkpoint"] = str(checkpoint)
    try:
        return parser.get_parsed_content("model")  # type: ignore[no-any-return]
    except RuntimeError as error:  # MONAI wraps whatever a component raised
        if isinstance(error.__cause__, CovsevError):
            raise error.__cause__ from None
        raise BundleError(f"{config}: the model cannot be built ({error.__cause__ or error})") from error


def make_model(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    preprocessing: SlicePreprocessing,
    inferer: Callable[[Tensor, nn.Module], Tensor],
    postprocessing: SlicePostprocessing,
    batch_size: int,
    name: str,
    device: torch.device,
) -> LesionModel:
    """A :class:`LesionModel` with the weights of ``checkpoint``; the ``_target_`` of the bundles' ``model``.

    Args:
        network: without weights.
        checkpoint: a ``state_dict``, or a dictionary that holds one as ``network``; half precision is widened.
        preprocessing, inferer, postprocessing, batch_size, name: see :class:`LesionModel`.
        device: where the network runs.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise BundleError(f"{path}: no weights there; train the bundle or name others with --checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("network", content)
        network.load_state_dict({key: _widened(value) for key, value in state.items()})
    except Exception as error:  # torch raises anything on broken files; the cause stays attached
        raise BundleError(f"{path}: weights cannot be used ({type(error).__name__})") from error
    network = network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LesionModel(network, preprocessing, inferer, postprocessing, batch_size, name, digest)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
