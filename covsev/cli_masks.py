"""The commands that start from masks or from results: score, scores, compare, change. Parsing and printing only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from covsev import __version__
from covsev.labels import DISCLAIMER

EXIT_BAD_INPUT = 2

_console = Console()
_errors = Console(stderr=True)


def add_commands(app: typer.Typer) -> None:
    """Register this file's commands."""
    for command in (score, scores):
        app.command()(command)


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn errors about the input into one line and exit code 2."""
    from covsev.errors import CovsevError

    try:
        yield
    except (CovsevError, OSError) as error:
        _errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from error


def score(
    lesions: Annotated[Path, typer.Option(help="Lesion mask, or a MEDPSeg folder of *_ggo and *_consolidation.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for <case>_severity.json and severity.csv.")],
    lungs: Annotated[Path | None, typer.Option(help="Lung mask; the union of the lobes if not given.")] = None,
    lobes: Annotated[
        Path | None, typer.Option(help="Lobe mask, or a TotalSegmentator folder of one file a lobe.")
    ] = None,
    scan: Annotated[Path | None, typer.Option(help="The CT: without it no density, no high opacity.")] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="What the values mean: a name, or KIND=NAME; recognised if not given. See docs/scores.md."),
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Bring masks on other grids to the CT's.")] = False,
    noise_floor_ml: Annotated[
        float, typer.Option(min=0, help="Lesion below this many ml in a region counts as none in the scores.")
    ] = 1.0,
    case: Annotated[
        str | None, typer.Option(help="Name of the scan; from the lesion mask's name if not given.")
    ] = None,
) -> None:
    """Severity from masks that exist already, of covsev or of another tool. No network is run.

    Exit code 0: scored; 1: a quality check failed, so that scores are null; 2: the input cannot be used.
    """
    from covsev.masks import read_masks
    from covsev.scoring import score_masks, write_scored

    with _errors_in_words():
        masks = read_masks(
            lesions, lungs=lungs, lobes=lobes, scan=scan, labels=labels or (), resample=resample, case=case
        )
        content = write_scored(score_masks(masks, noise_floor_ml=noise_floor_ml), output)
    _print_scores(content)
    _console.print(f"{escape(str(output))}   covsev {__version__}, {DISCLAIMER}", highlight=False)
    if content["quality"] == "fail":
        raise typer.Exit(1)


def _print_scores(content: dict[str, Any]) -> None:
    table = Table("score", "value", "of", "reading or reason", title=escape(content["case"]))
    for id_, result in content["scores"].items():
        value = "-" if result["value"] is None else f"{result['value']:.4g}"
        name = id_ + (" (approximate)" if result["approximate"] else "")
        table.add_row(name, value, f"{result['maximum']:g}", escape(result["reading"] or result["reason"] or ""))
    _console.print(table)
    _console.print(f"Finding: {escape(content['finding']['text'])}.", highlight=False)
    for flag in content["flags"]:
        _console.print(f"{flag['level']}: {flag['code']}: {escape(flag['text'])}", highlight=False)


def scores() -> None:
    """Print every score: its regions, bands, readings and source."""
    from covsev.severity.score_table import SCORES

    for entry in SCORES:
        _console.print(f"[bold]{entry.id}[/bold]  {escape(entry.title)}", highlight=False)
        lines = {
            "regions": f"{len(entry.regions)}, {entry.combine}: {', '.join(entry.regions)}",
            "bands": entry.rule and f"{entry.rule} % of the region",
            "readings": "; ".join(text for _, text in entry.readings),
            "approximate": entry.approximate,
            "source": entry.source,
        }
        for name, text in lines.items():
            if text:
                _console.print(f"  {name}: {escape(text)}", highlight=False, soft_wrap=True)
