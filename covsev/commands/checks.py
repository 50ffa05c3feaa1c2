"""Checks of single options, for typer's ``callback``."""

from __future__ import annotations

import math

import typer


def require_finite(value: float) -> float:
    """The value of an option, if it is a number: neither nan nor inf, which pass typer's limits.

    Raises:
        typer.BadParameter: if it is not.
    """
    if not math.isfinite(value):
        raise typer.BadParameter(f"expected a number; got {value}")
    return value
