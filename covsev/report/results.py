"""The results of one scan, read back from the folder that they were written to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.errors import CovsevError, ScanError
from covsev.labels import LESIONS_SUFFIX, LOBES_SUFFIX, LUNGS_SUFFIX, SEVERITY_SUFFIX
from covsev.scan import Scan, load_scan, read_labels, require_same_grid
from covsev.scan.writing import write_json


@dataclass(frozen=True, eq=False)
class Result:
    """A scan with what covsev wrote of it.

    Attributes:
        path: of the JSON file.
        content: of the JSON file.
        scan: the scan, read again.
        lungs, lobes, lesions: labels on its grid.
    """

    path: Path
    content: Mapping[str, Any]
    scan: Scan
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8]
    lesions: NDArray[np.uint8]

    def beside(self, suffix: str) -> Path:
        """The result file of this scan that ends in ``suffix``."""
        return beside(self.path, suffix)


def find_results(folder: Path) -> list[Path]:
    """JSON files of the scans in ``folder``, or the one that ``folder`` itself is.

    Raises:
        CovsevError: if there are none.
    """
    is_one = folder.name.endswith(SEVERITY_SUFFIX)
    found = [folder] if is_one else sorted(folder.glob(f"*{SEVERITY_SUFFIX}"))
    # A folder that is not there has no files, and one named file may not be there, either.
    if not found or not found[0].is_file():
        raise CovsevError(f"{folder}: no *{SEVERITY_SUFFIX} in it; name the output folder of covsev severity")
    return found


def read_content(path: Path) -> dict[str, Any]:
    """Content of the JSON file of one scan.

    Raises:
        CovsevError: if it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CovsevError(f"{path}: cannot be read as JSON; assess the scan again") from error
    # Any JSON may end in this name; all that follows needs a case.
    if not isinstance(content, dict) or "case" not in content:
        raise CovsevError(f"{path}: not a result of covsev severity, it names no case")
    return content


def load_result(path: Path) -> Result:
    """Read a scan's JSON file, the scan that it names, and the label maps beside it.

    Raises:
        ScanError: if the scan is no longer where the JSON file says, nor beside it.
        GridMismatchError: if a map is not on the scan's grid.
        CovsevError: if the JSON file is none.
    """
    content = read_content(path)
    # The case's name may hold folders that the scan's file alone does not tell.
    scan = replace(load_scan(_source(content, path)), case=content["case"])
    maps = []
    for suffix in (LUNGS_SUFFIX, LOBES_SUFFIX, LESIONS_SUFFIX):
        found, affine, _ = read_labels(beside(path, suffix))
        # The scan may have been replaced since: maps of another one would be drawn in the wrong place.
        require_same_grid(scan, found.shape, affine, name=beside(path, suffix).name)
        maps.append(found)
    return Result(path, content, scan, *maps)


def _source(content: Mapping[str, Any], path: Path) -> Path:
    source = Path(str(content.get("source") or "unknown"))
    # Results that were moved or sent on have the scan beside them, if at all.
    for place in (source, path.parent / source.name):
        if place.exists():
            return place
    raise ScanError(f"{path}: its scan is not at {source}; put it there, or beside the results", code="missing")


def beside(path: Path, suffix: str) -> Path:
    """The result file that ends in ``suffix``, from the path of the JSON file."""
    return path.with_name(path.name.removesuffix(SEVERITY_SUFFIX) + suffix)


def record_output(path: Path, written: Path) -> None:
    """Put a file that was written later into the JSON file's list, so that the results still count as whole."""
    content = read_content(path)
    outputs = content.get("outputs", {}) | {written.name: written.stat().st_size}
    write_json(content | {"outputs": outputs}, path)
