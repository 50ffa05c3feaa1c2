"""``covsev demo``: a synthetic scan, assessed, and what was measured of it against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from covsev.commands import console
from covsev.commands.severity import run_assessment


def add_commands(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command()(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the demonstration.")] = Path("demo"),
) -> None:
    """Make a synthetic scan, assess it, and compare what was measured with the truth."""
    # Here and not above: it imports numpy and nibabel, which --help must not wait for.
    from covsev.commands.demonstration import compare, write_demo

    if run_assessment(write_demo(output).path, output).failed:
        raise typer.Exit(console.EXIT_SOME_FAILED)
    table = Table("region", "lung ml", "true", "lesion ml", "true", "lesion %", "true", title="Measured against true")
    for line in compare(output):
        numbers = (f"{value:.1f}" for value in line.numbers)
        table.add_row(line.region.replace("_", " "), *numbers)
    console.output.print(table)
