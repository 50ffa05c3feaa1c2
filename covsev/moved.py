"""Old names of what has moved, so that a bundle written for version 0.1 still loads for one release.

A bundle's configuration names classes and functions by their full path. :func:`install` makes Python find the old
modules: each hands out the moved object and warns once with its new name. Delete this file with the next release.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# A module stands for all that is in it. ``lesion_model`` was divided among several, so its objects stand one by one.
MOVED: dict[str, str] = {
    "covsev.lesion_model.SlicePreprocessing": "covsev.moved.lesion_preprocessing",
    "covsev.lesion_model.SlicePostprocessing": "covsev.lesions.model.LesionPostprocessing",
    "covsev.lesion_model.load_model": "covsev.lesions.model.load_model",
    "covsev.lesion_model.make_model": "covsev.lesions.model.make_model",
    "covsev.lesion_model.resize_slices": "covsev.training.data.resizing.resize_tensors",
    "covsev.training.augmentation": "covsev.training.data.augmentation",
    "covsev.training.calibration": "covsev.training.evaluation.calibration",
    "covsev.training.folds": "covsev.training.data.folds",
    "covsev.training.game_log": "covsev.training.pretraining.game_log",
    "covsev.training.game_schedule": "covsev.training.pretraining.game_schedule",
    "covsev.training.inpainting": "covsev.training.pretraining.inpainting",
    "covsev.training.layouts": "covsev.training.data.layouts",
    "covsev.training.manifests": "covsev.training.data.manifests",
    "covsev.training.metrics": "covsev.training.evaluation.metrics",
    "covsev.training.multi_scale": "covsev.training.data.multi_scale",
    "covsev.training.orientations": "covsev.training.data.orientations",
    "covsev.training.pretrained": "covsev.training.pretraining.pretrained",
    "covsev.training.priors": "covsev.training.data.priors",
    "covsev.training.pseudo_labels": "covsev.training.semi.pseudo_labels",
    "covsev.training.pseudo_schedule": "covsev.training.semi.pseudo_schedule",
    "covsev.training.rotation": "covsev.training.pretraining.rotation",
    "covsev.training.transforms": "covsev.training.data.transforms",
    "covsev.training.variants": "covsev.training.evaluation.variants",
    "covsev.training.volumes": "covsev.training.data.volumes",
}
"""Old path of a module, or of one object in it, to the new path."""


def lesion_preprocessing(
    hu_window: Sequence[float], network_size: Sequence[int], lung_margin_mm: float, slab_mm: float = 0.0
) -> Any:
    """:class:`covsev.inference.slices.SlicePreprocessing` by the argument names of version 0.1."""
    # Imported when it is called: ``import covsev`` reads this file, and is to load no torch.
    slices = import_module("covsev.inference.slices")
    return slices.SlicePreprocessing(hu_window, network_size, crop_margin_mm=lung_margin_mm, slab_mm=slab_mm)


def new_path(old: str) -> str | None:
    """New path of an object by its old one; ``None`` if it has not moved."""
    if old in MOVED:
        return MOVED[old]
    module, _, name = old.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else None


class _OldModule(ModuleType):
    """A module that is no more: it hands out what has moved, with one warning for each name."""

    def __getattr__(self, name: str) -> Any:
        # Python asks modules for names such as ``__path__`` by itself: that is no use of an old name.
        new = None if name.startswith("__") else new_path(f"{self.__name__}.{name}")
        if new is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        warnings.warn(f"{self.__name__}.{name} is now {new}; change the bundle's configuration", stacklevel=2)
        module, _, attribute = new.rpartition(".")
        value = getattr(import_module(module), attribute)
        setattr(self, name, value)  # so that the next use does not warn again
        return value


class _OldModules(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED` that are no longer there."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        parents = {name.rpartition(".")[0] for name in MOVED}
        old = fullname in MOVED or fullname in parents
        return ModuleSpec(fullname, self) if old else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def install() -> None:
    """Let Python find the old modules, after all others."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())  # last: a module that is there comes before an old name
