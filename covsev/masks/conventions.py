"""What the values of label maps mean, in covsev and in the tools whose masks it reads.

The convention of a map is found in this order:

1. what the caller says;
2. what the file says: covsev's header, a table of label names as TotalSegmentator writes it, or a file name that only
   one tool gives;
3. the one convention that its values, and the places of its labels in the body, allow.

A map is refused where several conventions remain that mean different things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from covsev.labels import (
    CONSOLIDATION,
    GROUND_GLASS,
    INFECTION_SUFFIX,
    LEFT_LOWER,
    LEFT_LUNG,
    LEFT_UPPER,
    LESIONS_SUFFIX,
    LOBES_SUFFIX,
    LUNGS_SUFFIX,
    RIGHT_LOWER,
    RIGHT_LUNG,
    RIGHT_MIDDLE,
    RIGHT_UPPER,
)

LUNGS_KIND, LOBES_KIND, LESIONS_KIND = "lungs", "lobes", "lesions"
KINDS = (LUNGS_KIND, LOBES_KIND, LESIONS_KIND)


@dataclass(frozen=True)
class Convention:
    """What one tool's values mean in one kind of map.

    Attributes:
        name: of the tool or data set, as a user gives it.
        kind: ``lungs``, ``lobes`` or ``lesions``.
        ids: covsev's id by the file's value.
        others: values of other structures, which are left out.
        lung_values: those of ``others`` that are lung.
        either_lung: value inside the lungs that does not say in which one. It is given to the nearer lung.
        endings: ends of file names that only this tool gives.
        kinds_known: whether ground-glass opacity and consolidation are told apart.
        source: where the values are written down.
    """

    name: str
    kind: str
    ids: Mapping[int, int]
    others: frozenset[int] = frozenset()
    lung_values: frozenset[int] = frozenset()
    either_lung: int | None = None
    endings: tuple[str, ...] = ()
    kinds_known: bool = True
    source: str = field(default="", compare=False)

    def meaning(self, values: Sequence[int]) -> tuple[object, ...]:
        """What ``values`` mean. Conventions of equal meaning read a map alike, so any of them will do."""
        ids = tuple(self.ids.get(value, 0) for value in values)
        return (ids, self.kinds_known or not values)  # an empty map is the same with and without kinds

    def allows(self, values: Sequence[int]) -> bool:
        """Whether every one of ``values`` is known."""
        known = {*self.ids, *self.others, self.either_lung}
        return known.issuperset(values)


_R, _L = RIGHT_LUNG.id, LEFT_LUNG.id
_GGO, _CONS = GROUND_GLASS.id, CONSOLIDATION.id
# The order in which lungmask, TotalSegmentator and MEDPSeg number the lobes.
_LOBE_IDS = (LEFT_UPPER.id, LEFT_LOWER.id, RIGHT_UPPER.id, RIGHT_MIDDLE.id, RIGHT_LOWER.id)
_SAME_LOBES = {id_: id_ for id_ in _LOBE_IDS}
# TotalSegmentator numbers all organs together: lobes are 10 to 14 of 117, in its first version 13 to 17 of 104.
_TOTAL_V2 = dict(zip(range(10, 15), _LOBE_IDS, strict=True))
_TOTAL_V1 = dict(zip(range(13, 18), _LOBE_IDS, strict=True))
_LUNGMASK = "github.com/JoHof/lungmask, README"
_TOTAL = "github.com/wasserth/TotalSegmentator, map_to_binary.py"
_MEDPSEG = "github.com/MICLab-Unicamp/medpseg, pipeline.py"
_MA = "Ma 2020, COVID-19-CT-Seg, doi 10.5281/zenodo.3757476"

COVSEV, INFECTION = "covsev", "infection"
CONVENTIONS = (
    Convention(COVSEV, LUNGS_KIND, {1: _R, 2: _L}, source="docs/scores.md"),
    Convention(COVSEV, LOBES_KIND, _SAME_LOBES, source="docs/scores.md"),
    Convention(COVSEV, LESIONS_KIND, {1: _GGO, 2: _CONS}, source="docs/scores.md"),
    Convention("lungmask", LUNGS_KIND, {1: _R, 2: _L}, source=_LUNGMASK),
    Convention("lungmask", LOBES_KIND, _SAME_LOBES, source=_LUNGMASK),
    Convention("totalsegmentator", LOBES_KIND, _TOTAL_V2, frozenset(range(1, 118)) - set(_TOTAL_V2), source=_TOTAL),
    Convention("totalsegmentator-v1", LOBES_KIND, _TOTAL_V1, frozenset(range(1, 105)) - set(_TOTAL_V1), source=_TOTAL),
    Convention(
        "totalsegmentator",
        LESIONS_KIND,
        {1: _GGO},
        endings=("lung_covid_infiltrate",),
        kinds_known=False,
        source=_TOTAL,
    ),
    # The other way round than lungmask: where the file's name does not say which it is, places in the body do.
    Convention("medpseg", LUNGS_KIND, {1: _L, 2: _R}, endings=("_lr_lung",), source=_MEDPSEG),
    Convention("medpseg", LOBES_KIND, _SAME_LOBES, source=_MEDPSEG),
    Convention(
        "medpseg",
        LESIONS_KIND,
        {2: _GGO, 3: _CONS},
        others=frozenset({1, 4, 5}),  # healthy lung, airway, vessel
        lung_values=frozenset({1}),
        endings=("_all_segmentations",),
        source=_MEDPSEG,
    ),
    Convention("medpseg", LESIONS_KIND, {1: _GGO}, endings=("_findings",), kinds_known=False, source=_MEDPSEG),
    # One map serves as lungs and as lesions: 3 is infection, which hides in which lung it lies.
    Convention("covid19-ct-seg", LUNGS_KIND, {1: _L, 2: _R}, either_lung=3, source=_MA),
    Convention(
        "covid19-ct-seg",
        LESIONS_KIND,
        {3: _GGO},
        others=frozenset({1, 2}),
        lung_values=frozenset({1, 2}),
        kinds_known=False,
        source=_MA,
    ),
    Convention(INFECTION, LESIONS_KIND, {1: _GGO}, kinds_known=False, source="any mask of infection, 0 and 1"),
)
OWN_FILES = {
    LUNGS_SUFFIX: (LUNGS_KIND, COVSEV),
    LOBES_SUFFIX: (LOBES_KIND, COVSEV),
    LESIONS_SUFFIX: (LESIONS_KIND, COVSEV),
    INFECTION_SUFFIX: (LESIONS_KIND, INFECTION),
}
"""Kind and convention of the maps that covsev writes, by the ending of the file's name."""
NAMES = tuple(dict.fromkeys(convention.name for convention in CONVENTIONS))

TOTALSEGMENTATOR_FILES = {
    "lung_upper_lobe_left": LEFT_UPPER.id,
    "lung_lower_lobe_left": LEFT_LOWER.id,
    "lung_upper_lobe_right": RIGHT_UPPER.id,
    "lung_middle_lobe_right": RIGHT_MIDDLE.id,
    "lung_lower_lobe_right": RIGHT_LOWER.id,
}
"""Names of TotalSegmentator's lobes: of its files, and in its tables of label names."""
MEDPSEG_FILES = {"_ggo": GROUND_GLASS.id, "_consolidation": CONSOLIDATION.id}
"""Endings of MEDPSeg's files of one lesion kind each."""
