"""The lesion network and everything around it, as a MONAI bundle's ``inference.yaml`` wires them.

That file is the one place where network, preprocessing, inferer and postprocessing are wired, so the package and
``python -m monai.bundle run`` cannot drift apart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from covsev.errors import BundleError, CovsevError
from covsev.networks.infnet_inference import inference_form
from covsev.runtime import describe_runtime, find_device, with_runtime


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
        slab_mm: slices of a volume of which two or more fit into this are seen together, as the mean of as many as fit:
            what is smoothed across slices needs not be computed in each. 0 for each slice by itself.
    """

    hu_window: tuple[float, float]
    network_size: tuple[int, int]
    lung_margin_mm: float
    slab_mm: float = 0.0

    def slices_per_slab(self, spacing_mm: float) -> int:
        """Slices that are seen together where they are ``spacing_mm`` apart."""
        return max(1, int(self.slab_mm / spacing_mm + 1e-3))

    def __call__(self, slices: NDArray[Any]) -> Tensor:
        """Windowed and resized (N, 1, h, w) float32 in [0, 1] from HU slices (H, W, N)."""
        low, high = self.hu_window
        stack = torch.from_numpy(np.array(np.moveaxis(slices, -1, 0), dtype=np.float32, order="C"))  # always a copy
        return self.resize(stack.sub_(low).div_(high - low).clamp_(0, 1)[:, None])

    def grey_of(self, hu: float) -> float:
        """The grey value, 0 to 255, that an 8-bit slice of this window has at ``hu``."""
        low, high = self.hu_window
        return 255 * (hu - low) / (high - low)

    def resize(self, grey: Tensor) -> Tensor:
        """Slices (N, 1, H, W) in [0, 1] on the network's grid."""
        return resize_slices(grey, (self.network_size[0], self.network_size[1]))


@dataclass(frozen=True)
class SlicePostprocessing:
    """From the network's grid back to the slices' own.

    Attributes:
        threshold: probability from which a voxel is infected.
        axial_smoothing_mm: SD of the Gaussian by which a volume's probabilities are smoothed across slices. The
            network sees one slice at a time; lesions go on in the next slice, vessels cut across do not. 0 for none.
        min_consolidation_hu: what is darker is never consolidation: voxels of a volume, and pixels of a slice in the
            preprocessing's window.
        min_consolidation_share: share of a single slice that must be consolidation for any of it to be called so.
            Radiologists do not draw specks of it; volumes, whose HU are known, are not touched. 0 for no bound.
    """

    threshold: float
    axial_smoothing_mm: float = 0.0
    min_consolidation_hu: float = -math.inf
    min_consolidation_share: float = 0.0

    @property
    def unbounded(self) -> SlicePostprocessing:
        """The same, with ground glass and consolidation as the multi network alone divides them."""
        return replace(self, min_consolidation_hu=-math.inf, min_consolidation_share=0.0)

    def __call__(self, probability: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """Probabilities (N, C, H, W) on a grid of ``size`` from those on the network's grid."""
        return resize_slices(probability, size).clamp_(0, 1).float().cpu().numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class LesionModel:
    """A network and everything around it, as wired by a bundle's ``inference.yaml``.

    A single network says where infection is. A multi network has a single one as its ``prior``, whose probability is
    its second input channel, and says which infection is consolidation.

    Attributes:
        network: on its device, in evaluation mode.
        preprocessing: see :class:`SlicePreprocessing`.
        inferer: MONAI inferer, called with the batch and the network.
        postprocessing: see :class:`SlicePostprocessing`.
        batch_size: slices a batch.
        name: of the bundle.
        weights: SHA-256 of the checkpoint file.
        prior: the single network of a multi network, on the same grid; ``None`` for a single network.
        runs_on: runtime, precision and device in words.
    """

    network: nn.Module
    preprocessing: SlicePreprocessing
    inferer: Callable[[Tensor, nn.Module], Tensor]
    postprocessing: SlicePostprocessing
    batch_size: int
    name: str
    weights: str
    prior: LesionModel | None = None
    runs_on: str = "torch in f32 on cpu"

    @property
    def networks(self) -> dict[str, str]:
        """Name and weights' SHA-256 of every network that takes part, the prior's first."""
        own = {self.name: self.weights}
        return own if self.prior is None else {**self.prior.networks, **own}

    @torch.inference_mode()
    def infection(self, network_input: Tensor) -> Tensor:
        """Infection probability (N, 1, h, w), on the network's grid, of preprocessed slices (N, 1, h, w)."""
        single = self.prior or self
        device = _device_of(single.network)
        image = network_input.to(device=device, memory_format=torch.channels_last)
        return torch.sigmoid(single.inferer(image, single.network))

    @torch.inference_mode()
    def predict_kinds(self, network_input: Tensor, infection: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """Ground-glass opacity and consolidation at ``size``, by the multi network.

        Args:
            network_input: preprocessed slices (N, 1, h, w).
            infection: (N, 1, h, w) infection probability on the network's grid, or a radiologist's mask: the prior.
            size: (H, W) of the result.

        Returns:
            (N, 2, H, W) probabilities.
        """
        device = _device_of(self.network)
        both = torch.cat((network_input.to(device), infection.to(device)), dim=1)
        logits = self.inferer(both.contiguous(memory_format=torch.channels_last), self.network)
        return self.postprocessing(torch.sigmoid(logits[:, 1:]), size)

    @torch.inference_mode()
    def predict(
        self, network_input: Tensor, size: tuple[int, int], *, prior: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Probabilities at ``size`` of preprocessed slices (N, 1, h, w).

        Args:
            network_input: on the network's grid, see :class:`SlicePreprocessing`.
            size: (H, W) of the result.
            prior: (N, 1, h, w) infection to use in place of the single network's, such as a radiologist's mask.

        Returns:
            (N, 1, H, W) infection, or (N, 3, H, W) infection, ground-glass opacity and consolidation.
        """
        infection = self.infection(network_input) if prior is None else prior
        at_size = self.postprocessing(infection, size)
        if self.prior is None:
            return at_size
        return np.concatenate((at_size, self.predict_kinds(network_input, infection, size)), axis=1)


def load_model(
    bundle: Path,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    prior_checkpoint: Path | None = None,
    network: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
) -> LesionModel:
    """The model that ``configs/inference.yaml`` of a bundle folder describes.

    Args:
        bundle: folder of a MONAI bundle. Its configuration can run code: use only bundles that you trust.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        checkpoint: other weights than the bundle's own.
        prior_checkpoint: other weights of a multi network's prior than its bundle's own.
        network: file beside ``inference.yaml`` that names another network, such as ``network_infnet.yaml``.
        runtime, precision: see :func:`covsev.runtime.with_runtime`; the bundle's own if not given.

    Raises:
        BundleError: if the folder, its configuration or its weights are missing or do not fit.
        SettingError: if the device, runtime or precision is unknown, or this machine does not have it.
    """
    find_device(device)
    config = Path(bundle) / "configs" / "inference.yaml"
    configs = [config] if network is None else [config, config.parent / network]
    if not config.is_file():
        raise BundleError(f"{bundle}: not a covsev bundle, {config} is missing")
    if not configs[-1].is_file():
        raise BundleError(f"{configs[-1]}: there is no such configuration in the bundle")
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    try:
        parser.read_config([str(path) for path in configs])
    except Exception as error:  # the YAML reader raises its own errors
        raise BundleError(f"{config}: cannot be read ({type(error).__name__})") from error
    parser["bundle_root"] = str(bundle)
    parser["device"] = f"$torch.device('{device}')"
    given = {
        "checkpoint": checkpoint,
        "prior_checkpoint": prior_checkpoint,
        "runtime": runtime,
        "precision": precision,
    }
    for name, value in given.items():
        if value is not None and name not in parser:
            raise BundleError(f"{config}: it has no {name}, so {value} cannot be used")
        if value is not None:
            parser[name] = str(value)
    try:
        return parser.get_parsed_content("model")  # type: ignore[no-any-return]
    except Exception as error:  # MONAI wraps whatever a component raised
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
    prior: LesionModel | None = None,
    runtime: str = "torch",
    precision: str = "f32",
) -> LesionModel:
    """A :class:`LesionModel` with the weights of ``checkpoint``; the ``_target_`` of the bundles' ``model``.

    Args:
        network: without weights.
        checkpoint: a ``state_dict``, or a dictionary that holds one as ``network``; half precision is widened.
        preprocessing, inferer, postprocessing, batch_size, name, prior: see :class:`LesionModel`.
        device: where the network runs.
        runtime, precision: see :func:`covsev.runtime.with_runtime`.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network.
        SettingError: as :func:`covsev.runtime.with_runtime`.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise BundleError(f"{path}: no weights there; train the bundle, or name other weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("network", content)
        network.load_state_dict({key: _widened(value) for key, value in state.items()})
    except Exception as error:  # torch raises anything on broken files; the cause stays attached
        raise BundleError(f"{path}: weights cannot be used ({type(error).__name__})") from error
    network = inference_form(network).to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    height, width = preprocessing.network_size
    example = torch.zeros(1, 1 if prior is None else 2, height, width, device=device)
    network = with_runtime(
        network, runtime=runtime, precision=precision, device=device, example=example, weights=digest
    )
    runs_on = describe_runtime(network, precision, device)
    return LesionModel(network, preprocessing, inferer, postprocessing, batch_size, name, digest, prior, runs_on)


def _device_of(network: nn.Module) -> torch.device:
    """Where a network runs; one without parameters is OpenVINO's and runs on the CPU."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
