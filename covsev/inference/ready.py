"""Models kept ready, so that a start needs neither torch nor MONAI, whose import takes seconds.

What a bundle's ``inference.yaml`` wires and OpenVINO runs is a handful of numbers and a converted network. Both are
kept in the cache, with the SHA-256 of every file that they were made of. All of these are checked at every start; what
differs in anything is made anew from the bundle.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from covsev import __version__
from covsev.errors import BundleError
from covsev.inference.cache import kept_folder, read_entry, sha256_of, write_entry
from covsev.inference.network import SliceNetwork
from covsev.inference.openvino_runner import OpenVinoRunner, open_network
from covsev.inference.slices import SlicePreprocessing

_PACKAGES = ("monai", "openvino", "torch")
"""Another version of these may build another network."""
_log = logging.getLogger(__name__)


class Model(Protocol):
    """A model that can be kept ready: slice networks and numbers."""

    @property
    def slice_networks(self) -> tuple[SliceNetwork, ...]:
        """All that take part; the bundle's own is the last one."""

    def with_slice_network(self, **changes: Any) -> Self:
        """The same model whose own slice network has other settings."""

    def to_json(self) -> dict[str, Any]:
        """The model's numbers, its networks by :func:`network_to_json`."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_json`."""


M = TypeVar("M", bound=Model)


def load_ready(
    bundle: Path, kind: type[M], settings: Mapping[str, Any], *, device: str = "cpu", network: str | None = None
) -> M:
    """The model of a bundle folder: the one kept ready where all is as the bundle has it, else as MONAI builds it.

    Args:
        bundle, settings, device, network: see :func:`covsev.inference.bundle.load_bundle`.
        kind: class of the model.

    Raises:
        BundleError: as there, and if the bundle's model is of another class.
        SettingError: as there.
    """
    overridden = device != "cpu" or network is not None or any(value is not None for value in settings.values())
    may_be_kept = not overridden and find_spec("openvino") is not None
    if may_be_kept:
        try:
            entry = _kept(bundle)
            if entry is not None:
                return kind.from_json(entry)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:  # the last is OpenVINO's
            _log.warning("preparing the networks of %s anew: %s", bundle.name, error)
    from covsev.inference.bundle import load_bundle  # here, since torch and MONAI take seconds to import

    model = load_bundle(bundle, settings, device=device, network=network)
    if not isinstance(model, kind):  # a configuration can build anything under this name
        raise BundleError(f"{bundle}: its model is {type(model).__name__}, not a {kind.__name__}")
    configuration = bundle / "configs" / "inference.yaml"
    model = model.with_slice_network(files=(*model.slice_networks[-1].files, configuration))
    if may_be_kept and all(_kept_as(network) for network in model.slice_networks):
        _keep(bundle, model)
    return model


def network_to_json(network: SliceNetwork) -> dict[str, Any]:
    """A slice network that OpenVINO runs, by the name of its folder in the cache."""
    return {
        "kept_as": _kept_as(network),
        "preprocessing": asdict(network.preprocessing),
        "batch_size": network.batch_size,
        "name": network.name,
        "weights": network.weights,
        "runs_on": network.runs_on,
        "files": [str(file) for file in network.files],
    }


def network_from_json(content: Mapping[str, Any]) -> SliceNetwork:
    """Inverse of :func:`network_to_json`.

    Raises:
        ValueError: if the cache does not have the network, or not as it was written.
    """
    settings = dict(content)
    name = settings.pop("kept_as")
    folder = kept_folder(name)
    if folder is None:
        raise ValueError("the converted network is damaged or gone")
    preprocessing = SlicePreprocessing(**settings.pop("preprocessing"))
    files = tuple(Path(file) for file in settings.pop("files"))
    runner = open_network(folder / "network.xml", kept_as=name)
    return SliceNetwork(runner=runner, preprocessing=preprocessing, files=files, **settings)


def _kept(bundle: Path) -> dict[str, Any] | None:
    """The model of :func:`_keep`, if nothing that it was made of has changed; ``None`` if none was kept yet.

    Raises:
        ValueError: with what has changed.
    """
    entry = read_entry(_name(bundle))
    if entry is None:
        return None
    if entry["made_by"] != _made_by():
        raise ValueError("covsev, MONAI, OpenVINO or torch has another version now")
    for file, found in entry["files"].items():
        if not Path(file).is_file() or sha256_of(Path(file)) != found:
            raise ValueError(f"{file} has changed")
    return entry["model"]  # type: ignore[no-any-return]


def _keep(bundle: Path, model: Model) -> None:
    files = {file.resolve() for network in model.slice_networks for file in network.files}
    sums = {str(file): sha256_of(file) for file in sorted(files)}
    content = {"made_by": _made_by(), "files": sums, "model": model.to_json()}
    try:
        write_entry(_name(bundle), content)
    except OSError as error:
        _log.warning("the networks of %s cannot be kept ready (%s)", bundle.name, type(error).__name__)


def _name(bundle: Path) -> str:
    """Of the entry: the same bundle in two folders has two."""
    place = hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]
    return f"{bundle.name}-{place}.json"


def _made_by() -> dict[str, str]:
    return {"covsev": __version__} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _kept_as(network: SliceNetwork) -> str | None:
    return network.runner.kept_as if isinstance(network.runner, OpenVinoRunner) else None
