"""Numbers and findings in words: what a reader sees in place of null, codes and long decimals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covsev.quality.table import BY_CODE, FAIL, PASS, WARN

NO_VALUE = "no value"
"""What stands for null and NaN everywhere. A 0 in its place would read as a healthy lung."""
NOT_SAID = "the reason was not written down"
QUALITY_TEXT = {
    PASS: "No check found anything amiss.",
    WARN: "Look at the points below before you use the numbers.",
    FAIL: "A check failed: there are no scores. Volumes are shown, but do not rely on them.",
}
LEVEL_TEXT = {PASS: "passed", WARN: "look at it", FAIL: "failed"}
_UNITS = {"ml": " ml", "pct": " %", "hu": " HU", "mm": " mm", "fraction": ""}
"""The last word of a key, such as the ``ml`` of ``lesion_ml``, and the unit that it stands for."""


def number(value: Any, decimals: int = 1) -> str:
    """A number with so many decimals; :data:`NO_VALUE` for null and for what is no finite number.

    >>> number(12.345), number(-0.01), number(None), number(float("nan")), number(7, 0)
    ('12.3', '0.0', 'no value', 'no value', '7')
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)  # Python counts a bool as an int
    if not is_number or not math.isfinite(value):
        return NO_VALUE
    text = f"{value:.{decimals}f}"
    # A small negative number is rounded to "-0.0", which no reader expects.
    return text.removeprefix("-") if float(text) == 0 else text


def score_text(score: Mapping[str, Any]) -> str:
    """Value of a score with its maximum or unit.

    >>> score_text({"value": 3.0, "maximum": 25, "unit": "points"}), score_text({"value": 1.52, "unit": "%"})
    ('3 of 25', '1.5 %')
    """
    value, unit = score.get("value"), score.get("unit")
    if number(value) == NO_VALUE:
        return NO_VALUE
    if unit == "%":
        return f"{number(value, 1)} %"
    whole = number(value, 0)
    if unit == "class":
        return f"CT-{whole}"  # as the MosMed classes are named
    return f"{whole} of {number(score.get('maximum'), 0)}"


def interval_text(interval: Mapping[str, Any], unit: str) -> str:
    """``low to high`` in the unit of a score, empty where the interval is unknown or has no width.

    >>> interval_text({"low": 2.0, "high": 4.0}, "points"), interval_text({"low": 1.21, "high": 2.7}, "%")
    ('2 to 4', '1.2 to 2.7 %')
    """
    decimals = 1 if unit == "%" else 0
    low, high = (number(interval.get(end), decimals) for end in ("low", "high"))
    # Compared as text: ends that look the same to the reader tell nothing.
    if NO_VALUE in (low, high) or low == high:
        return ""
    return f"{low} to {high}{' %' if unit == '%' else ''}"


def capfirst(text: str) -> str:
    """A sentence with a capital first letter. The other letters stay: ``str.capitalize`` would make "CT" "ct"."""
    return text[:1].upper() + text[1:]


def plain(name: str) -> str:
    """A key as a reader sees it.

    >>> plain("po_without_recovery_pct"), plain("right_upper")
    ('po without recovery (%)', 'right upper')
    """
    *before, last = name.split("_")
    # A word alone is a name and no unit: there is nothing that it could measure.
    unit = _UNITS.get(last, "").strip() if before else ""
    return f"{' '.join(before)} ({unit})" if unit else name.replace("_", " ")


@dataclass(frozen=True)
class Finding:
    """A quality flag for readers.

    Attributes:
        level: ``warn`` or ``fail``.
        title: what kind of finding it is, as the table of checks puts it.
        text: what was found, with its numbers.
    """

    level: str
    title: str
    text: str


def findings(flags: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Quality flags in words, the failed ones first; codes that are unknown here are shown as they are."""
    found = [_finding(flag) for flag in flags]
    return sorted(found, key=lambda finding: finding.level != FAIL)


def _finding(flag: Mapping[str, Any]) -> Finding:
    code = str(flag.get("code", ""))
    title = BY_CODE[code].meaning if code in BY_CODE else plain(code)
    level, text = str(flag.get("level", WARN)), str(flag.get("text", ""))
    return Finding(level, capfirst(title), text)


def reason_text(content: Mapping[str, Any]) -> str:
    """Why a value is null."""
    return str(content.get("reason") or NOT_SAID)


def plain_tree(value: Any) -> Any:
    """Any JSON value with its numbers and nulls in words, for keys that this version does not know."""
    if isinstance(value, Mapping):
        return {plain(str(key)): plain_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_tree(item) for item in value]
    if isinstance(value, bool):  # before int, since Python counts a bool as one
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NO_VALUE
    return NO_VALUE if value is None or value == "" else str(value)
