"""Old names of what has moved still lead to it, with one warning each."""

from __future__ import annotations

import shutil
import sys
import warnings
from importlib import import_module

import numpy as np
import pytest

from covsev.lesions.model import load_model
from covsev.lesions.picture import segment_slice
from covsev.moved import MOVED, new_path

OBJECTS = sorted(old for old in MOVED if old.startswith("covsev.lesion_model."))
MODULES = sorted(set(MOVED) - set(OBJECTS))
OLD_MODULES = ["covsev.lesion_model", *MODULES]


@pytest.fixture(autouse=True)
def _not_yet_used(monkeypatch):
    """No old name was used by another test: each warns once only."""
    for module in OLD_MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)


def _found(path):
    """The object at ``path``, and the texts of the warnings on the way."""
    module, _, name = path.rpartition(".")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = getattr(import_module(module), name)
    return value, [str(warning.message) for warning in caught if "is now" in str(warning.message)]


def _public_names(module):
    """Names of what a module itself defines."""
    content = vars(import_module(module)).items()
    return [name for name, value in content if getattr(value, "__module__", None) == module and name[0] != "_"]


@pytest.mark.parametrize("old", OBJECTS)
def test_an_old_object_is_the_new_one_and_warns_once(old):
    value, said = _found(old)
    new, none = _found(MOVED[old])
    assert value is new
    assert said == [f"{old} is now {MOVED[old]}; change the bundle's configuration"]
    assert none == []
    assert _found(old) == (new, [])


@pytest.mark.parametrize("old", MODULES)
def test_all_that_an_old_module_held_is_in_the_new_one(old):
    names = _public_names(MOVED[old])
    assert names
    for name in names:
        value, said = _found(f"{old}.{name}")
        assert value is getattr(import_module(MOVED[old]), name)
        assert said == [f"{old}.{name} is now {MOVED[old]}.{name}; change the bundle's configuration"]
        assert _found(f"{old}.{name}") == (value, [])


@pytest.mark.parametrize("module", OLD_MODULES)
def test_an_unknown_name_of_an_old_module_is_refused(module):
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        _found(f"{module}.nothing_of_this_name")


def test_what_has_not_moved_has_no_new_path():
    assert new_path("covsev.lesion_model.nothing") is None
    assert new_path("covsev.training.losses.InfNetLoss") is None
    with pytest.raises(ModuleNotFoundError, match=r"covsev\.never_was"):
        import_module("covsev.never_was")


def test_a_bundle_of_version_0_1_loads_as_the_new_one(bright_bundle, bright_model, tmp_path):
    bundle = tmp_path / "old_bundle"
    shutil.copytree(bright_bundle, bundle)
    config = bundle / "configs" / "inference.yaml"
    text = config.read_text()
    for new, old in (
        ("covsev.lesions.model.make_model", "covsev.lesion_model.make_model"),
        ("covsev.lesions.model.LesionPostprocessing", "covsev.lesion_model.SlicePostprocessing"),
        ("covsev.inference.slices.SlicePreprocessing", "covsev.lesion_model.SlicePreprocessing"),
        ("crop_margin_mm", "lung_margin_mm"),
    ):
        assert text.count(new) == 1
        text = text.replace(new, old)
    config.write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(bundle)
    said = [str(warning.message).partition(" is now ")[0] for warning in caught if " is now " in str(warning.message)]
    names = ("SlicePostprocessing", "SlicePreprocessing", "make_model")
    assert sorted(said) == [f"covsev.lesion_model.{name}" for name in names]
    assert model.preprocessing == bright_model.preprocessing
    assert model.preprocessing.crop_margin_mm == 8.0
    assert model.postprocessing == bright_model.postprocessing
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    np.testing.assert_array_equal(segment_slice(grey, model), segment_slice(grey, bright_model))
