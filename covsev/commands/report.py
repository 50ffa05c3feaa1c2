"""The command that makes pages and files for viewers from results: report. Parsing and printing only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from covsev.commands import console

if TYPE_CHECKING:
    from covsev.report.results import Result


def add_commands(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command()(report)


def report(
    results: Annotated[Path, typer.Argument(help="Output folder of covsev severity, or one *_severity.json in it.")],
    viewer: Annotated[
        bool, typer.Option("--viewer", help="Put an interactive viewer in three planes into the page.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="Also write a one-page summary as PNG.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write a one-page summary as PDF.")] = False,
    slicer: Annotated[
        bool, typer.Option("--slicer", help="Also write <case>.seg.nrrd and colour tables for 3D Slicer.")
    ] = False,
    itksnap: Annotated[bool, typer.Option("--itksnap", help="Also write label descriptions for ITK-SNAP.")] = False,
) -> None:
    """Make the HTML report of every scan in a results folder, anew or for the first time.

    The scans must be where they were when they were assessed, or beside the results.
    Exit code 0: all made; 1: some could not be made; 2: nothing to do.
    """
    from covsev.errors import CovsevError
    from covsev.report.results import find_results, load_result
    from covsev.report.viewers import write_itksnap_labels, write_slicer_colours

    with console.errors_in_words():
        paths = find_results(results)
    failed = 0
    for path in paths:
        try:
            written = _write(load_result(path), viewer=viewer, png=png, pdf=pdf, slicer=slicer)
        # One scan that was moved or deleted does not keep the others from their pages.
        except (CovsevError, OSError) as error:
            console.print_error(error)
            failed += 1
            continue
        _print_paths(written)
    # Names and colours are the same for all scans: one file a map in the results' folder.
    tables = (write_slicer_colours if slicer else None, write_itksnap_labels if itksnap else None)
    for write_table in filter(None, tables):
        _print_paths(write_table(paths[0].parent))
    if failed:
        raise typer.Exit(console.EXIT_SOME_FAILED)


def _print_paths(paths: Sequence[Path]) -> None:
    text = escape("\n".join(map(str, paths)))
    # Soft-wrapped, so that a long path stays one line that can be copied.
    console.output.print(text, highlight=False, soft_wrap=True)


def _write(result: Result, *, viewer: bool, png: bool, pdf: bool, slicer: bool) -> list[Path]:
    """Write what was asked for of one scan."""
    from covsev.labels import OVERLAY_SUFFIX, REPORT_SUFFIX, SUMMARY_SUFFIXES, VIEWER_SUFFIX
    from covsev.report.page.page import write_report
    from covsev.report.page.summary import write_summary_page
    from covsev.report.results import record_output
    from covsev.report.viewers import write_segmentation

    maps = (result.lungs, result.lobes, result.lesions)
    page = result.beside(REPORT_SUFFIX)
    write_report(result.content, result.scan, *maps, page, viewer=viewer)
    written = [page]
    for suffix in (suffix for wanted, suffix in zip((png, pdf), SUMMARY_SUFFIXES, strict=True) if wanted):
        write_summary_page(result.content, result.beside(OVERLAY_SUFFIX), result.beside(suffix))
        written.append(result.beside(suffix))
    if slicer:
        write_segmentation(result.scan, *maps, result.beside(VIEWER_SUFFIX))
        written.append(result.beside(VIEWER_SUFFIX))
    # The JSON file lists every result with its size. A page of another size would make the next run start anew.
    for path in written:
        record_output(result.path, path)
    return written
