"""Checks of single options, for typer's ``callback``."""

from __future__ import annotations

import math

import typer


def require_finite(value: float) -> float:
    """Return the value of an option if it is a finite number. Typer's limits let nan and inf pass.

    Raises:
        typer.BadParameter: if it is not.
    """
    # nan is not below any minimum, and inf not above a maximum that is not set.
    if not math.isfinite(value):
        raise typer.BadParameter(f"expected a number; got {value}")
    return value
