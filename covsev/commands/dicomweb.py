"""``covsev fetch`` and ``covsev store``: a study from a DICOMweb server, and results back to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from covsev.commands import console
from covsev.labels import CAPTURE_SUFFIX, SEGMENTATION_SUFFIX, STRUCTURED_REPORT_SUFFIX

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
    # Imported late, as in all commands, so that help is instant.
    from covsev.scan.dicom.web import fetch_study

    with console.errors_in_words():
        for folder in fetch_study(url, study, output):
            typer.echo(folder)


def store(
    url: _Url,
    results: Annotated[Path, typer.Argument(help="Folder that covsev severity --dicom wrote.")],
) -> None:
    """Send the DICOM segmentations, reports and pictures of a results folder to a DICOMweb server."""
    from covsev.errors import DicomWebError
    from covsev.scan.dicom import web

    # Only what covsev made: the folder may hold the scan's own slices, too, which the server has already.
    suffixes = (SEGMENTATION_SUFFIX, STRUCTURED_REPORT_SUFFIX, CAPTURE_SUFFIX)
    with console.errors_in_words():
        paths = sorted(path for path in results.glob("*.dcm") if path.name.endswith(suffixes))
        if not paths:
            raise DicomWebError(f"{results}: no DICOM results in it; covsev severity --dicom writes them")
        web.store(url, paths)
        typer.echo(f"{len(paths)} DICOM files stored at {url}")
