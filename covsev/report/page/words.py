"""Numbers and findings in words: what a reader sees where a program sees null, codes and floats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covsev.quality.table import BY_CODE, FAIL, PASS, WARN

NO_VALUE = "no value"
NOT_SAID = "the reason was not written down"
QUALITY_TEXT = {
    PASS: "No check found anything amiss.",
    WARN: "Look at the points below before you use the numbers.",
    FAIL: "A check failed: there are no scores. Volumes are shown, but do not rely on them.",
}
LEVEL_TEXT = {PASS: "passed", WARN: "look at it", FAIL: "failed"}
_UNITS = {"ml": " ml", "pct": " %", "hu": " HU", "mm": " mm", "fraction": ""}


def number(value: Any, decimals: int = 1) -> str:
    """A number as a reader wants it, :data:`NO_VALUE` for null and for what is no finite number.

    >>> number(12.345), number(-0.01), number(None), number(float("nan")), number(7, 0)
    ('12.3', '0.0', 'no value', 'no value', '7')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return NO_VALUE
    text = f"{value:.{decimals}f}"
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
    return f"CT-{number(value, 0)}" if unit == "class" else f"{number(value, 0)} of {number(score.get('maximum'), 0)}"


def interval_text(interval: Mapping[str, Any], unit: str) -> str:
    """``low to high`` in the unit of a score, empty where the interval is unknown or has no width.

    >>> interval_text({"low": 2.0, "high": 4.0}, "points"), interval_text({"low": 1.21, "high": 2.7}, "%")
    ('2 to 4', '1.2 to 2.7 %')
    """
    decimals = 1 if unit == "%" else 0
    low, high = (number(interval.get(end), decimals) for end in ("low", "high"))
    if NO_VALUE in (low, high) or low == high:
        return ""
    return f"{low} to {high}{' %' if unit == '%' else ''}"


def capfirst(text: str) -> str:
    """A sentence with a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def plain(name: str) -> str:
    """A key as a reader sees it.

    >>> plain("po_without_recovery_pct"), plain("right_upper")
    ('po without recovery (%)', 'right upper')
    """
    words = name.split("_")
    unit = _UNITS.get(words[-1], "").strip() if len(words) > 1 else ""
    return f"{' '.join(words[:-1])} ({unit})" if unit else " ".join(words)


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
    return Finding(str(flag.get("level", WARN)), capfirst(title), str(flag.get("text", "")))


def reason_text(content: Mapping[str, Any]) -> str:
    """Why a value is null."""
    return str(content.get("reason") or NOT_SAID)


def plain_tree(value: Any) -> Any:
    """Any JSON value with its numbers and nulls in words, for keys that this version does not know."""
    if isinstance(value, Mapping):
        return {plain(str(key)): plain_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_tree(item) for item in value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NO_VALUE
    return NO_VALUE if value is None or value == "" else str(value)
