"""A bundle folder read as MONAI reads it: what its ``inference.yaml`` wires.

That file is the one place where network, preprocessing, inferer and postprocessing are wired, so the package and
``python -m monai.bundle run`` cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from covsev.errors import BundleError, CovsevError
from covsev.inference.runtime import find_device


def load_bundle(bundle: Path, settings: Mapping[str, Any], *, device: str = "cpu", network: str | None = None) -> Any:
    """The ``model`` that ``configs/inference.yaml`` of a bundle folder describes.

    Args:
        bundle: folder of a MONAI bundle. Its configuration can run code: use only bundles that you trust.
        settings: values of the configuration's own keys, such as ``checkpoint``; ``None`` leaves one as it is.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        network: file beside ``inference.yaml`` that names another network, such as ``network_infnet.yaml``.

    Raises:
        BundleError: if the folder, its configuration or its weights are missing or do not fit.
        SettingError: if the device, runtime or precision is unknown, or this machine does not have it.
    """
    find_device(device)  # refused here, before minutes of work and outside of MONAI's error messages
    config = Path(bundle) / "configs" / "inference.yaml"
    configs = [config] if network is None else [config, config.parent / network]
    if not config.is_file():
        raise BundleError(f"{bundle}: not a covsev bundle, {config} is missing")
    if not configs[-1].is_file():
        raise BundleError(f"{configs[-1]}: there is no such configuration in the bundle")
    parser = ConfigParser()
    try:
        parser.read_config([str(path) for path in configs])
    except Exception as error:  # the YAML reader raises its own errors
        raise BundleError(f"{config}: cannot be read ({type(error).__name__})") from error
    parser["bundle_root"] = str(bundle)
    parser["device"] = f"$torch.device('{device}')"
    for name, value in settings.items():
        if value is None:
            continue
        if name not in parser:  # MONAI would add it, and nothing would read it
            raise BundleError(f"{config}: it has no {name}, so {value} cannot be used")
        parser[name] = str(value)
    try:
        return parser.get_parsed_content("model")
    except Exception as error:  # MONAI wraps whatever a component raised
        if isinstance(error.__cause__, CovsevError):  # ours already say what is wrong
            raise error.__cause__ from None
        raise BundleError(f"{config}: the model cannot be built ({error.__cause__ or error})") from error
