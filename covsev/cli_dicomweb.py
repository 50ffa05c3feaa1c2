"""``covsev fetch`` and ``covsev store``: a study from a DICOMweb server, and results back to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from covsev.labels import CAPTURE_SUFFIX, SEGMENTATION_SUFFIX, STRUCTURED_REPORT_SUFFIX

EXIT_NOTHING_DONE = 2

_Url = Annotated[str, typer.Argument(help="DICOMweb address, such as http://localhost:8042/dicom-web.")]


def add_commands(app: typer.Typer) -> None:
    """Add both commands to ``app``."""
    app.command()(fetch)
    app.command()(store)


def fetch(
    url: _Url,
    study: Annotated[str, typer.Argument(help="StudyInstanceUID.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the CT series, one folder each.")],
) -> None:
    """Copy the CT series of a study from a DICOMweb server. The files name the patient."""
    from covsev.dicomweb import fetch_study

    with _errors_ended():
        for folder in fetch_study(url, study, output):
            typer.echo(folder)


def store(
    url: _Url,
    results: Annotated[Path, typer.Argument(help="Folder that covsev severity --dicom wrote.")],
) -> None:
    """Send the DICOM segmentations, reports and pictures of a results folder to a DICOMweb server."""
    from covsev import dicomweb
    from covsev.errors import DicomWebError

    suffixes = (SEGMENTATION_SUFFIX, STRUCTURED_REPORT_SUFFIX, CAPTURE_SUFFIX)
    with _errors_ended():
        paths = sorted(path for path in results.glob("*.dcm") if path.name.endswith(suffixes))
        if not paths:
            raise DicomWebError(f"{results}: no DICOM results in it; covsev severity --dicom writes them")
        dicomweb.store(url, paths)
        typer.echo(f"{len(paths)} DICOM files stored at {url}")


@contextmanager
def _errors_ended() -> Iterator[None]:
    """Print an error of covsev's own in one line, and end with exit code 2."""
    from covsev.errors import CovsevError

    try:
        yield
    except (CovsevError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(EXIT_NOTHING_DONE) from error
