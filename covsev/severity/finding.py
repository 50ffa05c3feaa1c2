"""Whether infection is present, as far as the lesion volume tells: a finding, never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from covsev.severity.regions import RegionMeasures

PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"
HEALTHY_PCT = 1.0
"""98 of 100 healthy scans have less opacity than this percentage (Chaganti 2020, PMC7392373).

Lesion below it is no more than a healthy scan can show.
"""


@dataclass(frozen=True)
class Finding:
    """Infection present, absent or uncertain.

    Attributes:
        state: ``present``, ``absent`` or ``uncertain``.
        text: one sentence with the numbers.
        lesion_ml: lesion volume in both lungs; ``None`` without lungs.
        low_ml, high_ml: interval of that volume; equal to ``lesion_ml`` where none was computed.
    """

    state: str
    text: str
    lesion_ml: float | None = None
    low_ml: float | None = None
    high_ml: float | None = None

    def withheld(self, reason: str) -> Finding:
        """The finding of a scan whose quality check failed."""
        return replace(self, state=UNCERTAIN, text=f"no finding: {reason}")


def find_infection(
    lungs: RegionMeasures, *, noise_floor_ml: float, interval_ml: tuple[float, float] | None = None
) -> Finding:
    """Compare the lesion in both lungs with the noise floor and with what healthy lungs show.

    Absent: the whole interval lies below the noise floor, or there is no lesion at all. Present: the whole interval
    lies at or above :data:`HEALTHY_PCT` of the lungs' volume, and at or above the noise floor. Uncertain: all else.

    Args:
        lungs: measures of both lungs.
        noise_floor_ml: lesion below this counts as none.
        interval_ml: smallest and largest lesion volume of an uncertainty estimate. Without it, both are the measured
            volume.

    >>> lungs = [RegionMeasures(volume_ml=5000, lesion_ml=ml) for ml in (0.4, 30, 200)]
    >>> [find_infection(both, noise_floor_ml=1).state for both in lungs]
    ['absent', 'uncertain', 'present']
    """
    if lungs.lesion_ml is None or lungs.volume_ml is None:
        return Finding(UNCERTAIN, f"no finding: {lungs.reason}")
    low_ml, high_ml = interval_ml or (lungs.lesion_ml, lungs.lesion_ml)
    # Small lungs: one percent of them can be less than the noise floor, and noise must not count as present.
    healthy_ml = max(noise_floor_ml, HEALTHY_PCT / 100 * lungs.volume_ml)
    span = f"{lungs.lesion_ml:.1f} ml" + (f" ({low_ml:.1f} to {high_ml:.1f})" if interval_ml else "")
    # With a noise floor of 0 nothing lies below it, so no lesion at all has a test of its own.
    if high_ml < noise_floor_ml or high_ml == 0:
        state, text = ABSENT, f"no lesion found above the noise floor of {noise_floor_ml:g} ml: {span}"
    elif low_ml >= healthy_ml:
        state, text = PRESENT, f"opacities found: {span}, more than healthy lungs show ({healthy_ml:.1f} ml)"
    # The two uncertain cases differ in words only: the measured volume is small, or only its interval reaches down.
    elif lungs.lesion_ml < healthy_ml:
        state, text = UNCERTAIN, f"opacities of {span}: as little as healthy lungs can show ({healthy_ml:.1f} ml)"
    else:
        state = UNCERTAIN
        text = f"opacities of {span}: perhaps as little as healthy lungs can show ({healthy_ml:.1f} ml)"
    return Finding(state, f"{text}. A finding on the image, not a diagnosis", lungs.lesion_ml, low_ml, high_ml)
