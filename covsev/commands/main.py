"""The command line: joins the files of this folder. Work is imported late, so that help is instant."""

from __future__ import annotations

import os
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import typer

from covsev import __version__
from covsev.commands import demo, dicomweb, masks, report, severity, warm_up
from covsev.labels import DISCLAIMER

app = typer.Typer(
    help=f"Lungs, lobes, COVID-19 lesions and severity scores from chest CT. {DISCLAIMER.capitalize()}.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"covsev {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# A module a group: each registers its own commands.
for _group in (severity, demo, masks, dicomweb, report, warm_up):  # in the order in which --help lists them
    _group.add_commands(app)


def main() -> None:
    """Entry point."""
    app()
