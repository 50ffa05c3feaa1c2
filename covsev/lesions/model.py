"""The lesion model: a single network that finds infection, and a multi network that divides it by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from covsev.errors import BundleError
from covsev.inference.network import SliceNetwork
from covsev.inference.ready import load_ready, network_from_json, network_to_json
from covsev.inference.slices import SlicePreprocessing, Slices, probabilities_at

if TYPE_CHECKING:  # torch takes seconds to import, and a model that is kept ready does not need it
    import torch
    from torch import nn

    from covsev.inference.runtime import Inferer


@dataclass(frozen=True)
class LesionPostprocessing:
    """From probabilities to lesion labels.

    Attributes:
        threshold: probability from which a voxel is infected.
        axial_smoothing_mm: SD of the Gaussian that smooths a volume's probabilities across slices. The network sees
            one slice at a time; lesions go on in the next slice, vessels cut across do not. 0 turns it off.
        min_consolidation_hu: what is darker is never consolidation: voxels of a volume, and pixels of a slice in the
            preprocessing's window.
        min_consolidation_share: share of a single slice that must be consolidation for any of it to be called so.
            Radiologists do not draw specks of it; volumes, whose HU are known, are not touched. 0 for no bound.
    """

    threshold: float
    # The defaults change nothing: the numbers that were chosen stand in the bundles' ``inference.yaml``.
    axial_smoothing_mm: float = 0.0
    min_consolidation_hu: float = -math.inf
    min_consolidation_share: float = 0.0

    @property
    def unbounded(self) -> LesionPostprocessing:
        """The same, with ground glass and consolidation as the multi network alone divides them."""
        return replace(self, min_consolidation_hu=-math.inf, min_consolidation_share=0.0)


@dataclass(frozen=True, eq=False)
class LesionModel:
    """One or two networks and the rules after them, as wired by a bundle's ``inference.yaml``.

    A single network says where infection is. A multi network has a single one as its ``prior``, whose probability is
    its second input channel, and says which infection is consolidation.

    Attributes:
        slice_network: the single or the multi network, see :class:`~covsev.inference.network.SliceNetwork`.
        postprocessing: see :class:`LesionPostprocessing`.
        prior: the model of a multi network's single network, on the same grid; ``None`` for a single network.
    """

    slice_network: SliceNetwork
    postprocessing: LesionPostprocessing
    prior: LesionModel | None = None

    @property
    def network(self) -> nn.Module:
        """The network itself, where torch runs it."""
        return self.slice_network.runner.network  # type: ignore[attr-defined,no-any-return]

    @property
    def preprocessing(self) -> SlicePreprocessing:
        """How slices become the input of both networks."""
        return self.slice_network.preprocessing

    @property
    def batch_size(self) -> int:
        """Slices a batch."""
        return self.slice_network.batch_size

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.slice_network.name

    @property
    def weights(self) -> str:
        """SHA-256 of the checkpoint file."""
        return self.slice_network.weights

    @property
    def runs_on(self) -> str:
        """Runtime, precision and device in words."""
        return self.slice_network.runs_on

    def with_slice_network(self, **changes: Any) -> LesionModel:
        """The same model whose slice network has other settings, such as ``batch_size=8``."""
        return replace(self, slice_network=replace(self.slice_network, **changes))

    @property
    def networks(self) -> dict[str, str]:
        """Name and weights' SHA-256 of every network that takes part, the prior's first."""
        own = {self.name: self.weights}
        return own if self.prior is None else {**self.prior.networks, **own}

    @property
    def slice_networks(self) -> tuple[SliceNetwork, ...]:
        """Every network that takes part, the prior's first."""
        before = () if self.prior is None else self.prior.slice_networks
        return (*before, self.slice_network)

    def to_json(self) -> dict[str, Any]:
        """See :class:`covsev.inference.ready.Model`."""
        return {
            "slice_network": network_to_json(self.slice_network),
            "postprocessing": asdict(self.postprocessing),
            "prior": None if self.prior is None else self.prior.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LesionModel:
        """Inverse of :meth:`to_json`."""
        return cls(
            network_from_json(content["slice_network"]),
            LesionPostprocessing(**content["postprocessing"]),
            None if content["prior"] is None else cls.from_json(content["prior"]),
        )

    def infection(self, network_input: Slices) -> Slices:
        """Infection probability (N, 1, h, w), on the network's grid, of preprocessed slices (N, 1, h, w)."""
        single = self.prior or self  # a model without a prior is a single network itself
        return expit(single.slice_network.logits(network_input))  # type: ignore[no-any-return]

    def predict_kinds(self, network_input: Slices, infection: Slices, size: tuple[int, int]) -> Slices:
        """Ground-glass opacity and consolidation at ``size``, by the multi network.

        Args:
            network_input: preprocessed slices (N, 1, h, w).
            infection: (N, 1, h, w) infection probability on the network's grid, or a radiologist's mask: the prior.
            size: (H, W) of the result.

        Returns:
            (N, 2, H, W) probabilities.
        """
        background_first = self.slice_network.logits(network_input, infection)
        # A sigmoid for each class, as in the loss, which takes each class by itself. The background is not needed:
        # where infection is, the single network has said.
        kinds = expit(background_first[:, 1:])
        return probabilities_at(size, kinds)

    def predict(self, network_input: Slices, size: tuple[int, int], *, prior: Slices | None = None) -> Slices:
        """Probabilities at ``size`` of preprocessed slices (N, 1, h, w).

        Args:
            network_input: on the network's grid, see :class:`~covsev.inference.slices.SlicePreprocessing`.
            size: (H, W) of the result.
            prior: (N, 1, h, w) infection to use in place of the single network's, such as a radiologist's mask.

        Returns:
            (N, 1, H, W) infection, or (N, 3, H, W) infection, ground-glass opacity and consolidation.
        """
        infection = self.infection(network_input) if prior is None else prior
        at_size = probabilities_at(size, infection)
        if self.prior is None:
            return at_size
        # The prior stays on the network's grid: resized to ``size`` and back, it would be blurred.
        kinds = self.predict_kinds(network_input, infection, size)
        return np.concatenate((at_size, kinds), axis=1)


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
    """The lesion model of a bundle folder.

    Args:
        bundle, device, network: see :func:`covsev.inference.bundle.load_bundle`. The bundle as it is may be kept
            ready, see :mod:`covsev.inference.ready`.
        checkpoint: other weights than the bundle's own.
        prior_checkpoint: other weights of a multi network's prior than its bundle's own.
        runtime, precision: see :func:`covsev.inference.runtime.with_runtime`; the bundle's own if not given.

    Raises:
        BundleError: as :func:`covsev.inference.bundle.load_bundle`, and if the bundle's model is none of lesions.
        SettingError: as there.
    """
    # None leaves the bundle's own value, and a single network's bundle has no ``prior_checkpoint`` to set.
    settings = {
        "checkpoint": checkpoint,
        "prior_checkpoint": prior_checkpoint,
        "runtime": runtime,
        "precision": precision,
    }
    return load_ready(Path(bundle), LesionModel, settings, device=device, network=network)


def make_model(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    preprocessing: SlicePreprocessing,
    inferer: Inferer,
    postprocessing: LesionPostprocessing,
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
        checkpoint, preprocessing, inferer, batch_size, name, device, runtime, precision: see
            :func:`covsev.inference.building.make_slice_network`.
        postprocessing, prior: see :class:`LesionModel`.

    Raises:
        BundleError: if the checkpoint is missing, unreadable, or of another network; or if a number that both networks
            share differs between this bundle and its prior's.
        SettingError: as :func:`covsev.inference.runtime.with_runtime`.
    """
    from covsev.inference.building import make_slice_network  # here, since torch takes seconds to import

    if prior is not None:
        # The consolidation rules are left out: they are the multi network's alone.
        _require_same(preprocessing, prior.preprocessing, ("hu_window", "network_size", "crop_margin_mm", "slab_mm"))
        _require_same(postprocessing, prior.postprocessing, ("threshold", "axial_smoothing_mm"))
    slice_network = make_slice_network(
        network,
        checkpoint,
        preprocessing=preprocessing,
        inferer=inferer,
        batch_size=batch_size,
        name=name,
        device=device,
        in_channels=1 if prior is None else 2,  # the image, and the prior beside it
        runtime=runtime,
        precision=precision,
    )
    return LesionModel(slice_network, postprocessing, prior)


def _require_same(own: object, of_prior: object, names: tuple[str, ...]) -> None:
    """Refuse numbers that differ from the prior's: one of the networks would get what it was not trained on."""
    for name in names:
        mine, its = getattr(own, name), getattr(of_prior, name)
        if mine != its:
            raise BundleError(
                f"{name} is {mine}, but {its} in the prior's bundle; take it from there: $@prior...{name}"
            )
