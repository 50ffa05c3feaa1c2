"""Every kind of quality flag: its code, level, meaning and limits.

One table. :mod:`covsev.quality.scan` and :mod:`covsev.quality.result` read their limits from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PASS, WARN, FAIL = "pass", "warn", "fail"
"""Levels, from good to bad: nothing found; look at it; do not use the numbers."""


@dataclass(frozen=True)
class Check:
    """One kind of flag.

    Attributes:
        code: short stable name.
        level: ``warn`` (look at it) or ``fail`` (no score).
        meaning: what the flag says, in general.
        limits: numbers that decide, with units in their names.
    """

    code: str
    level: str
    meaning: str
    limits: Mapping[str, float] = field(default_factory=dict)


CHECKS = (
    # ---- the scan's values
    # Without HU no density means anything, so these fail: neither lungs nor high opacity could be trusted.
    Check("eight_bit", FAIL, "whole values from 0 to 255: an 8-bit picture, not HU"),
    Check("not_hu", FAIL, "values or the lungs' mean are not those of CT in HU", {"min_mean": -950, "max_mean": -300}),
    # Every chest holds air below -850 HU and bone above 100: without them the values were clipped to a window.
    Check("windowed", FAIL, "HU clipped so far that lung or soft tissue is lost", {"low_hu": -850, "high_hu": 100}),
    Check("blank_slices", WARN, "slices of one value between others"),
    Check("repeated_slices", WARN, "neighbouring slices that are equal"),
    # The ratio is to the changes nearby, not to all: the usual change differs along the body.
    Check("slices_missing", WARN, "two neighbouring slices differ far more than others do", {"ratio": 1.6}),
    Check("contrast", WARN, "contrast medium: vessels may count as high opacity", {"hu": 120, "share_pct": 10}),
    # ---- its geometry
    # Thick slices may miss small lesions. Few slices cannot give a volume.
    Check("thick_slices", WARN, "slices far apart", {"mm": 5}),
    Check("few_slices", WARN, "few slices", {"slices": 20}),
    Check("too_few_slices", FAIL, "too few slices for volumes", {"slices": 10}),
    Check(
        "non_axial", WARN, "slices are not axial: coronal or sagittal, or the grid is oblique", {"ratio": 2, "deg": 20}
    ),
    # Only a warning: volumes of tilted slices are exact, and the lobes are less certain.
    Check("tilted", WARN, "slices are tilted against their stack, as by a tilted gantry", {"deg": 2}),
    Check("no_orientation", WARN, "the header does not say how the patient lies"),
    # ---- the lungs
    # An odd volume only warns, since a patient may have one lung. Hardly any lung at all is no chest, or a failed mask.
    Check("no_chest", FAIL, "hardly any lung", {"both_ml": 300}),
    Check("sides_swapped", FAIL, "the right lung lies to the left of the left lung"),
    Check("cut_at_top", WARN, "lung touches the upper end of the scan"),
    Check("cut_at_bottom", WARN, "lung touches the lower end of the scan"),
    Check("cut_at_side", WARN, "lung touches a side of the scan"),
    Check("fused", WARN, "right and left lung touched and were split"),
    Check("lungs_by_threshold", WARN, "the lung network was not believed, and a threshold took its place"),
    Check("one_lung", WARN, "only one lung was found"),
    Check("lung_volume", WARN, "a lung of implausible volume", {"min_ml": 500, "max_ml": 5000}),
    Check("left_right_ratio", WARN, "left lung / right lung is implausible", {"min": 0.5, "max": 1.5}),
    Check("much_recovered", WARN, "much of the lungs is dense: a threshold alone would have dropped it", {"pct": 10}),
    Check("leak_suspected", WARN, "dense lung lies far from all aerated lung: it may be other tissue", {"ml": 20}),
    Check("possible_effusion", WARN, "possible pleural effusion, which is not lung", {"ml": 10}),
    # ---- lobes and lesions
    # A share below a quarter: such a fit may be 20 to 30 mm off (docs/limits.md).
    Check("lobes_cut", WARN, "lobes could not be placed"),
    Check("lobes_prior_only", WARN, "lobes lie at people's mean fissures, not at this patient's"),
    Check("low_fissure_support", WARN, "little of a fissure is seen: it may be misplaced", {"share": 0.25}),
    Check("lobes_not_lungs", WARN, "lobes and lungs are not the same volume", {"pct": 5}),
    Check("lesion_outside_lung", WARN, "lesion outside the lungs, which does not count", {"pct": 5, "ml": 1}),
)
BY_CODE = {check.code: check for check in CHECKS}


def limits(code: str) -> Mapping[str, float]:
    """Limits of one check."""
    return BY_CODE[code].limits


@dataclass(frozen=True)
class Flag:
    """One thing that a check found.

    Attributes:
        level: ``warn`` (look at it) or ``fail`` (do not use the numbers).
        code: short stable name.
        text: what was found, with its numbers.
        numbers: the same numbers for programs.
    """

    level: str
    code: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict, compare=False)


def make_flag(code: str, text: str, **numbers: float) -> Flag:
    """A flag with the level that the table gives its code.

    Args:
        code: of :data:`CHECKS`.
        text: one sentence for readers, with the numbers.
        numbers: the same numbers for programs.
    """
    # Python's floats: json cannot write the numbers of numpy that some checks hand over.
    rounded = {name: round(float(value), 6) for name, value in numbers.items()}
    return Flag(BY_CODE[code].level, code, text, rounded)
