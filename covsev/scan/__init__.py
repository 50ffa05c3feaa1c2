"""The door: every scan enters and every label map leaves through here, on the scan's own grid."""

from covsev.scan.finding import ScanSource, files_of, find_scans, find_slices, require_scans, with_unique_cases
from covsev.scan.reading import from_sitk, load_scan, read_labels
from covsev.scan.volume import (
    CANONICAL_AXES,
    Scan,
    canonical_spacing_mm,
    from_canonical,
    make_scan,
    require_same_grid,
    to_canonical,
)
from covsev.scan.writing import remove_leftovers, replacing, save_labels, save_probability

__all__ = [
    "CANONICAL_AXES",
    "Scan",
    "ScanSource",
    "canonical_spacing_mm",
    "files_of",
    "find_scans",
    "find_slices",
    "from_canonical",
    "from_sitk",
    "load_scan",
    "make_scan",
    "read_labels",
    "remove_leftovers",
    "replacing",
    "require_same_grid",
    "require_scans",
    "save_labels",
    "save_probability",
    "to_canonical",
    "with_unique_cases",
]
