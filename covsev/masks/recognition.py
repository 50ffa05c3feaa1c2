"""Which convention a label map follows; see :mod:`covsev.masks.conventions`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.errors import LabelError
from covsev.labels import LEFT_LOBES, LEFT_LUNG, RIGHT_LOBES, RIGHT_LUNG
from covsev.masks.conventions import (
    CONVENTIONS,
    KINDS,
    LOBES_KIND,
    LUNGS_KIND,
    NAMES,
    OWN_FILES,
    TOTALSEGMENTATOR_FILES,
    Convention,
)
from covsev.scan import to_canonical

# TotalSegmentator's table is XML in an extension of the NIfTI header: <Label Key="10" ...><![CDATA[name]]></Label>.
_LABEL_TABLE = re.compile(rb'<Label Key="(\d+)"[^>]*><!\[CDATA\[(\w+)\]\]>')
_ON_ITS_SIDE = 0.9
"""Least share of a lung's or lobes' voxels on their side of the body. Lungs may reach across the middle."""
_ONE_SIDE_BELOW, _ONE_SIDE_ABOVE = 0.02, 0.98
"""Shares on the left half beyond which a value lies on one side: what stands for both lungs lies between them."""
_IN_LUNGS = 0.5
"""Least share of the lungs that a map which includes lung must cover."""
_SAMPLES = 128
"""Voxels along an axis that are enough to see where labels lie."""
_LEFT_IDS = {LUNGS_KIND: {LEFT_LUNG.id}, LOBES_KIND: {lobe.id for lobe in LEFT_LOBES}}
_RIGHT_IDS = {LUNGS_KIND: {RIGHT_LUNG.id}, LOBES_KIND: {lobe.id for lobe in RIGHT_LOBES}}


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A label map as it was read.

    Attributes:
        path: the file.
        values: (X, Y, Z) uint8, the file's own values.
        affine: (4, 4) voxel index to world, RAS+ mm.
        header: NIfTI header, ``None`` for other formats.
    """

    path: Path
    values: NDArray[np.uint8]
    affine: NDArray[np.float64]
    header: Any = None


def parse_choices(choices: Sequence[str]) -> dict[str, str]:
    """Convention name by kind, from ``--labels`` values such as ``medpseg`` or ``lungs=lungmask``.

    Raises:
        LabelError: if a kind or a name is unknown.
    """
    chosen: dict[str, str] = {}
    for choice in choices:
        kind, _, name = choice.rpartition("=")  # without "=", the kind is empty and the name stands for all kinds
        if name not in NAMES or kind not in ("", *KINDS):
            raise LabelError(f"labels {choice!r}: expected one of {', '.join(NAMES)}, or KIND=NAME with {KINDS}")
        chosen |= dict.fromkeys(KINDS if not kind else (kind,), name)
    return chosen


def recognise(
    file: LabelFile,
    kind: str,
    *,
    name: str | None = None,
    lungs: NDArray[np.uint8] | None = None,
    option: str = "--labels",
) -> Convention:
    """The convention that ``file`` follows.

    Args:
        file: the map.
        kind: ``lungs``, ``lobes`` or ``lesions``.
        name: the convention's name, if the caller knows it.
        lungs: (X, Y, Z) lung labels on the same grid, for lesion maps that may hold lung as well.
        option: of the command line, by which a user names the convention; for the message of an error.

    Raises:
        LabelError: if no convention fits, several do that mean different things, or covsev wrote the file as another
            kind of map.
    """
    stated = None if name else _stated(file, kind)
    if stated is not None:
        return stated
    rows = [row for row in CONVENTIONS if row.kind == kind and name in (None, row.name)]
    if not rows:
        raise LabelError(f"{file.path}: {name} has no {kind}; known for {kind}: {_names(kind)}")
    stem = _stem(file.path)
    # A file name that only one tool gives decides. The line feed, with which no name ends, stands for no endings.
    rows = [row for row in rows if stem.endswith(row.endings or ("\n",))] or rows
    values = values_in(file.values)
    fitting = [row for row in rows if row.allows(values)]
    if not fitting:
        raise LabelError(f"{file.path}: values {_short(values)} are those of no known {kind} map ({_names(kind)})")
    # Places in the body are looked at only where values leave a choice: that takes a pass over the map.
    if len({row.meaning(values) for row in fitting}) > 1:
        profile = _profile(file)
        fitting = [row for row in fitting if _plausible(row, file, values, profile, lungs)]
    meanings = {row.meaning(values) for row in fitting}
    if len(meanings) == 1:
        return fitting[0]
    raise LabelError(
        f"{file.path}: values {_short(values)} could mean different {kind} "
        f"({', '.join(dict.fromkeys(row.name for row in fitting)) or 'none fits the places in the body'}); "
        f"say which with {option} {kind}=NAME"
    )


def translate(file: LabelFile, convention: Convention) -> NDArray[np.uint8]:
    """Values of ``file`` as covsev's ids. What is not of this kind becomes 0."""
    table = np.zeros(256, dtype=np.uint8)
    for value, id_ in convention.ids.items():
        table[value] = id_
    # Where the ids are covsev's own, the map itself is returned: a copy of a whole volume is saved.
    known = len(convention.ids)
    changes_nothing = np.array_equal(table[: known + 1], np.arange(known + 1))
    if changes_nothing and file.values.max(initial=0) <= known:
        return file.values
    return table[file.values]


def values_in(labels: NDArray[np.uint8]) -> list[int]:
    """Values above 0 in a map, ascending."""
    present = np.zeros(256, dtype=bool)
    for plane in labels.T:  # NIfTI arrays come in Fortran order: planes along the last axis are contiguous
        labelled = plane[plane > 0]
        if labelled.size:
            present |= np.bincount(labelled, minlength=256) > 0
    return np.flatnonzero(present).tolist()  # type: ignore[no-any-return]


def _stated(file: LabelFile, kind: str) -> Convention | None:
    """What the file says of itself: covsev's description, or a table of label names."""
    if file.header is None:
        return None
    if bytes(file.header["descrip"]).startswith(b"covsev "):
        return _own(file, kind)
    for extension in file.header.extensions:
        content = bytes(extension.get_content())
        table = {label.decode(): int(key) for key, label in _LABEL_TABLE.findall(content)}
        # All five lobes, or the table is not one of lobes.
        if kind == LOBES_KIND and set(TOTALSEGMENTATOR_FILES) <= set(table):
            ids = {table[label]: id_ for label, id_ in TOTALSEGMENTATOR_FILES.items()}
            return Convention("totalsegmentator", LOBES_KIND, ids, frozenset(range(256)) - set(ids))
    return None


def _own(file: LabelFile, kind: str) -> Convention | None:
    """The convention of a map that covsev wrote, by its file's name; ``None`` for another name or other values.

    The header alone is not believed: a program that changes a map may keep its header.
    """
    stem = _stem(file.path)
    for suffix, (own_kind, name) in OWN_FILES.items():
        if not stem.endswith(_stem(Path(suffix))):
            continue
        if own_kind != kind:
            raise LabelError(f"{file.path}: covsev wrote this file as {own_kind}; it cannot stand for {kind}")
        convention = next(row for row in CONVENTIONS if (row.name, row.kind) == (name, kind))
        return convention if file.values.max(initial=0) <= max(convention.ids) else None
    return None


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".nii", ".nrrd", ".mh"):  # ".mh" begins both .mha and .mhd
        name = name.split(suffix)[0]
    return name


def _names(kind: str) -> str:
    return ", ".join(dict.fromkeys(row.name for row in CONVENTIONS if row.kind == kind))


def _short(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ... {values[-1]}" if len(values) > 8 else shown


# ---- places in the body ------------------------------------------------------------------------------------------


def _plausible(
    row: Convention,
    file: LabelFile,
    values: Sequence[int],
    profile: NDArray[np.int64],
    lungs: NDArray[np.uint8] | None,
) -> bool:
    """Whether right and left, and what is said to be lung, lie where they should."""
    # In a map of many organs a few values are a lobe in one version and another organ in the next: all must be there.
    of_many_organs = row.kind == LOBES_KIND and bool(row.others)
    if of_many_organs and not set(row.ids).issubset(values):
        return False
    if row.kind in (LUNGS_KIND, LOBES_KIND):
        left = [value for value, id_ in row.ids.items() if id_ in _LEFT_IDS[row.kind]]
        right = [value for value, id_ in row.ids.items() if id_ in _RIGHT_IDS[row.kind]]
        return _apart(profile, left, right)
    if not row.lung_values:
        return True
    if lungs is not None and _covered(file.values, (*row.ids, *row.lung_values), lungs) < _IN_LUNGS:
        return False
    if len(row.lung_values) == 2:  # a value for each lung
        left_lung, right_lung = sorted(row.lung_values)
        return _apart(profile, [left_lung], [right_lung])
    return not _on_one_side(profile, row.lung_values)


def _sampled(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every so many voxels of a map, at least 128 along a long axis and fewer than 256."""
    steps = [max(1, side // _SAMPLES) for side in labels.shape]
    return labels[tuple(slice(None, None, step) for step in steps)]


def _profile(file: LabelFile) -> NDArray[np.int64]:
    """(256, X) numbers of sampled voxels with each value at each canonical x, which grows to the patient's left."""
    labels = to_canonical(_sampled(file.values), file.affine)
    # Each x gets 256 numbers of its own, so that one count over the map counts all of them.
    firsts = 256 * np.arange(len(labels))
    bins = labels.astype(np.int64) + firsts[:, None, None]
    counts = np.bincount(bins.ravel(), minlength=256 * len(labels))
    profile = counts.reshape(len(labels), 256).T
    profile[0] = 0  # the background says nothing
    return profile


def _shares_left(profile: NDArray[np.int64], values: Iterable[int]) -> float | None:
    """Share of the voxels of ``values`` on the left half of all that is labelled; ``None`` without any."""
    occupied = np.flatnonzero(profile.sum(axis=0))
    of_values = profile[list(values)].sum(axis=0)
    if not of_values.any():
        return None
    # The middle of what is labelled, not of the picture, in which a body may lie to one side.
    middle = (occupied[0] + occupied[-1]) / 2
    on_left = np.arange(len(of_values)) > middle
    return float(of_values[on_left].sum() / of_values.sum())


def _apart(profile: NDArray[np.int64], left: Iterable[int], right: Iterable[int]) -> bool:
    of_left, of_right = _shares_left(profile, left), _shares_left(profile, right)
    if of_left is None or of_right is None:
        return True  # one side only: nothing speaks against it
    return of_left >= _ON_ITS_SIDE and of_right <= 1 - _ON_ITS_SIDE


def _on_one_side(profile: NDArray[np.int64], values: Iterable[int]) -> bool:
    share = _shares_left(profile, values)
    return share is not None and not _ONE_SIDE_BELOW < share < _ONE_SIDE_ABOVE


def _covered(labels: NDArray[np.uint8], values: Iterable[int], lungs: NDArray[np.uint8]) -> float:
    table = np.zeros(256, dtype=bool)
    table[list(values)] = True
    inside = _sampled(lungs) > 0
    covered = table[_sampled(labels)[inside]]
    lung_voxels = max(1, int(np.count_nonzero(inside)))  # no lungs are covered by nothing
    return float(np.count_nonzero(covered) / lung_voxels)
