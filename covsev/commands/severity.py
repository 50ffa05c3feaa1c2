"""``covsev severity``: scans to masks, scores and pages. Parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from covsev import __version__
from covsev.commands import console
from covsev.commands.checks import require_finite
from covsev.labels import DISCLAIMER

if TYPE_CHECKING:
    from covsev.batch import BatchResult
    from covsev.scan import ScanSource


def add_commands(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command()(severity)


def severity(
    scans: Annotated[Path, typer.Argument(help="A scan, a DICOM folder, or a directory of scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for masks, reports and severity.csv.")],
    lungs: Annotated[
        Literal["network", "threshold"],
        typer.Option(help="By the lung network, or a threshold, which loses dense lung at the chest wall."),
    ] = "network",
    lung_restriction: Annotated[
        bool, typer.Option(help="Drop lesion outside the lung mask. Off gives the bundle's own infection mask.")
    ] = True,
    noise_floor_ml: Annotated[
        float,
        typer.Option(
            min=0,
            callback=require_finite,
            help="Lesion below this many ml in a region counts as none in the scores.",
        ),
    ] = 1.0,
    probability: Annotated[bool, typer.Option("--probability", help="Also write the infection probability.")] = False,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Write DICOM's patient name, id and UIDs into the JSON files.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="An interval on every score; the network runs five times, not once.")
    ] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write DICOM SEG, SR and picture; scans must be DICOM series.")
    ] = False,
    page: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write <case>_report.html, a page that needs no network."),
    ] = True,
    viewer: Annotated[
        bool, typer.Option("--viewer", help="Put an interactive viewer in three planes into the page.")
    ] = False,
    best_series: Annotated[
        bool, typer.Option("--best-series", help="One CT series of each DICOM study; series.json says which and why.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder of the lesion network; the shipped one if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, or one GPU such as cuda:1.")] = "cpu",
    runtime: Annotated[
        str | None,
        typer.Option(
            help="What runs them: auto (OpenVINO on the CPU where installed), openvino or torch.", show_default="auto"
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="f32, or bf16: faster where the processor has it; some mask borders move.", show_default="f32"
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own network and share of cores.")] = 1,
    cluster: Annotated[str, typer.Option(help="'local': a Dask cluster of --workers processes here.")] = "",
    scheduler: Annotated[str, typer.Option(help="Address of a Dask scheduler, such as tcp://node1:8786.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do scans again that are done already.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no table, only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print severity.csv's rows as JSON, not a table.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> None:
    """Assess one scan or many: masks, severity.csv, one JSON and one picture a scan.

    Scans that an earlier run into the same folder has done are skipped.
    Exit code 0: all assessed; 1: some failed, see severity.csv; 2: nothing to do; 130: interrupted.
    """
    from covsev.options import DEFAULT_BUNDLE, Options

    # Options that contradict each other are refused before any work: guessing would hide a mistake.
    if cluster not in ("", "local"):
        raise typer.BadParameter(f"{cluster!r} is not 'local'; name another cluster by --scheduler")
    if scheduler and (cluster or workers > 1):
        raise typer.BadParameter("--scheduler brings its own workers; leave out --cluster and --workers")
    if viewer and not page:
        raise typer.BadParameter("--viewer is a part of the page; leave out --no-report")
    if quiet and as_json:
        raise typer.BadParameter("--quiet prints nothing and --json prints the rows; choose one")
    result = run_assessment(
        scans,
        output,
        debug=debug,
        best_series=best_series,
        options=Options(
            lungs=lungs,
            restrict_to_lungs=lung_restriction,
            noise_floor_ml=noise_floor_ml,
            save_probability=probability,
            keep_identifiers=keep_identifiers,
            uncertainty=uncertainty,
            dicom=dicom,
            report=page,
            viewer=viewer,
            device=device,
            runtime=runtime,
            precision=precision,
        ),
        bundle=bundle or DEFAULT_BUNDLE,
        workers=workers,
        scheduler=scheduler or cluster or None,  # for a cluster on this machine, Dask's own address "local"
        overwrite=overwrite,
        quiet=quiet,
        as_json=as_json,
    )
    if result.failed:
        raise typer.Exit(console.EXIT_SOME_FAILED)


def run_assessment(
    scans: Path,
    output: Path,
    *,
    debug: bool = False,
    quiet: bool = False,
    as_json: bool = False,
    best_series: bool = False,
    **settings: Any,
) -> BatchResult:
    """Assess behind a progress bar and print the table or the rows; what stops the whole run ends with exit code 2."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from covsev.batch import assess_directory
    from covsev.errors import CovsevError
    from covsev.scan import find_scans, require_scans

    # To standard error, so that --json leaves nothing but JSON on standard output.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        sources = find_scans(scans)
        require_scans(sources, scans)  # before a bar or a network appears for nothing
        sources = _best(sources, output, quiet=quiet) if best_series else sources
        with Progress(*columns, console=console.errors, disable=quiet) as progress:
            task = progress.add_task("assessing", total=len(sources))
            result = assess_directory(
                sources,
                output,
                debug=debug,
                on_done=lambda _: progress.advance(task),
                on_note=lambda text: progress.console.print(escape(text), highlight=False) if not quiet else None,
                **settings,
            )
    except (CovsevError, OSError) as error:
        if debug:  # the traceback, not one line
            raise
        console.print_error(error)
        raise typer.Exit(console.EXIT_NOTHING_DONE) from error
    except KeyboardInterrupt:
        console.errors.print(
            "interrupted; finished scans are kept: the same command goes on with the others", highlight=False
        )
        raise typer.Exit(console.EXIT_INTERRUPTED) from None
    if as_json:
        # Not by rich, which wraps lines at the terminal's width.
        typer.echo(json.dumps(list(result.rows), indent=2, allow_nan=False))
    elif not quiet:
        _print_result(result, output)
    return result


def _best(sources: list[ScanSource], output: Path, *, quiet: bool) -> list[ScanSource]:
    """One series of each study, with the choice written and printed."""
    from covsev.scan.dicom.choice import choose_series, write_choice

    kept, candidates = choose_series(sources)
    write_choice(candidates, output / "series.json")
    if not quiet:
        for one in candidates:
            verb = "assessing" if one.chosen else "leaving out"
            console.errors.print(f"{verb} {escape(one.source.case)}: {escape(one.reason)}", highlight=False)
    return kept


def _print_result(result: BatchResult, output: Path) -> None:
    table = Table("case", "opacity %", "CT severity /25", "quality", "notes")
    for row in result.rows:
        # A failed scan's row has no numbers, but a reason.
        if row["status"] == "failed":
            table.add_row(escape(row["case"]), "-", "-", "[red]failed[/red]", escape(row["reason"]))
            continue
        opacity, points = row["po_chaganti2020"], row["ctss25_pan2020"]
        table.add_row(
            escape(row["case"]),
            "-" if opacity is None else f"{opacity:.2f}",
            "-" if points is None else f"{points:.0f}",
            row["quality"],
            row["flags"].replace("_", " "),
        )
    console.output.print(table)
    if result.skipped:
        console.output.print(f"{result.skipped} were done already; --overwrite does them again")
    console.output.print(
        f"{escape(str(output / 'severity.csv'))}   covsev {__version__}, {DISCLAIMER}", highlight=False
    )
