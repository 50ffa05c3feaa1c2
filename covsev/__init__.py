"""covsev: lungs, lobes, COVID-19 lesions and severity scores from chest CT.

Research use only, not a medical device.

:func:`assess` does one scan, :func:`assess_directory` many. The names below are imported when they are first used, so
that ``import covsev`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from covsev import moved

__version__ = "0.1.0"

if TYPE_CHECKING:
    from covsev.assessment import Assessment, assess
    from covsev.batch import BatchResult, assess_directory
    from covsev.errors import CovsevError
    from covsev.options import Options
    from covsev.scan import Scan, find_scans, load_scan, make_scan

__all__ = [
    "Assessment",
    "BatchResult",
    "CovsevError",
    "Options",
    "Scan",
    "__version__",
    "assess",
    "assess_directory",
    "find_scans",
    "load_scan",
    "make_scan",
]

# Where each public name lives. torch and MONAI take seconds to import, so that nothing of them is imported here.
_MODULES = {
    "Assessment": "covsev.assessment",
    "BatchResult": "covsev.batch",
    "CovsevError": "covsev.errors",
    "Options": "covsev.options",
    "Scan": "covsev.scan",
    "assess": "covsev.assessment",
    "assess_directory": "covsev.batch",
    "find_scans": "covsev.scan",
    "load_scan": "covsev.scan",
    "make_scan": "covsev.scan",
}


# Before any other import of covsev: older bundles name modules that have moved since.
moved.install()


def __getattr__(name: str) -> Any:
    # Called only for names that the module does not hold yet (PEP 562).
    if name not in _MODULES:
        raise AttributeError(f"module 'covsev' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    # For completion: the names that were not used yet are not in the module's own dictionary.
    return __all__
