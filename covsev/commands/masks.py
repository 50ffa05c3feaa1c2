"""The commands that start from masks or from results: score, scores, compare, change. Parsing and printing only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from covsev import __version__
from covsev.commands import console
from covsev.commands.checks import require_finite
from covsev.labels import DISCLAIMER


def add_commands(app: typer.Typer) -> None:
    """Register this file's commands."""
    for command in (score, scores, compare, change):
        app.command()(command)


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
        float,
        typer.Option(
            min=0, callback=require_finite, help="Lesion below this many ml in a region counts as none in the scores."
        ),
    ] = 1.0,
    case: Annotated[
        str | None, typer.Option(help="Name of the scan; from the lesion mask's name if not given.")
    ] = None,
) -> None:
    """Severity from masks that exist already, of covsev or of another tool. No network is run.

    Exit code 0: scored; 1: a quality check failed, so that scores are null; 2: the input cannot be used.
    """
    from covsev.masks.reading import read_masks
    from covsev.masks.scoring import score_masks, write_scored

    with console.errors_in_words():
        masks = read_masks(
            lesions, lungs=lungs, lobes=lobes, scan=scan, labels=labels or (), resample=resample, case=case
        )
        content = write_scored(score_masks(masks, noise_floor_ml=noise_floor_ml), output)
    # Printed also where a check failed: the table then says why there is no score.
    _print_scores(content)
    console.output.print(f"{escape(str(output))}   covsev {__version__}, {DISCLAIMER}", highlight=False)
    if content["quality"] == "fail":
        raise typer.Exit(console.EXIT_SOME_FAILED)


def _print_scores(content: dict[str, Any]) -> None:
    table = Table("score", "value", "of", "reading or reason", title=escape(content["case"]))
    for id_, result in content["scores"].items():
        value = "-" if result["value"] is None else f"{result['value']:.4g}"
        name = id_ + (" (approximate)" if result["approximate"] else "")
        maximum = f"{result['maximum']:g}"
        # A score with a value may have a reading; one without has a reason.
        meaning = result["reading"] or result["reason"] or ""
        table.add_row(name, value, maximum, escape(meaning))
    console.output.print(table)
    console.output.print(f"Finding: {escape(content['finding']['text'])}.", highlight=False)
    for flag in content["flags"]:
        console.output.print(f"{flag['level']}: {flag['code']}: {escape(flag['text'])}", highlight=False)


def scores() -> None:
    """Print every score: its regions, bands, readings and source."""
    from covsev.severity.score_table import SCORES

    for entry in SCORES:
        console.output.print(f"[bold]{entry.id}[/bold]  {escape(entry.title)}", highlight=False)
        lines = {
            "regions": f"{len(entry.regions)}, {entry.combine}: {', '.join(entry.regions)}",
            "bands": entry.rule and f"{entry.rule} % of the region",
            "readings": "; ".join(text for _, text in entry.readings),
            "approximate": entry.approximate,
            "source": entry.source,
        }
        for name, text in lines.items():
            if text:  # not every score has bands, readings or an approximation
                console.output.print(f"  {name}: {escape(text)}", highlight=False, soft_wrap=True)


def compare(
    reference: Annotated[Path, typer.Argument(help="Reference: a label map, a result (JSON, CSV), or a directory.")],
    predicted: Annotated[Path, typer.Argument(help="What is judged: of the same kind.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables and figures.")],
    kind: Annotated[
        str | None, typer.Option(help="lungs, lobes or lesions, where the files' names do not say it.")
    ] = None,
    ref_labels: Annotated[list[str] | None, typer.Option(help="What the reference's values mean; as in score.")] = None,
    pred_labels: Annotated[list[str] | None, typer.Option(help="What the judged values mean; as in score.")] = None,
    clinical: Annotated[
        Path | None, typer.Option(help="CSV with the columns case and class: scores against the clinical class.")
    ] = None,
) -> None:
    """Agreement with a reference: overlap and surfaces of masks, scores over many scans, the clinical class."""
    # Under another name, since this command is called compare itself.
    from covsev.agreement.comparison import compare as compare_results
    from covsev.agreement.comparison import write_comparison
    from covsev.masks.conventions import KINDS

    # The kinds are imported late, so typer cannot check them by itself.
    if kind not in (None, *KINDS):
        raise typer.BadParameter(f"expected one of {', '.join(KINDS)}", param_hint="--kind")
    with console.errors_in_words():
        found = compare_results(
            reference,
            predicted,
            kind=kind,
            reference_labels=ref_labels or (),
            predicted_labels=pred_labels or (),
            clinical=clinical,
        )
        written = write_comparison(found, output)
    # The terminal gets the columns that fit; the files have all.
    _print_rows("Masks", found.masks, ("case", "structure", "dice", "surface_dice", "hd95_mm", "volume_error_ml"))
    _print_rows("Scores", found.scores, ("score", "pairs", "bias", "icc", "pearson_r", "kappa", "within_one"))
    _print_rows("Clinical class", found.clinical, ("score", "cases", "severe", "auc", "spearman_r"))
    # Named, because a case that is missing on one side would otherwise drop out of the figures in silence.
    for name in found.unpaired:
        console.output.print(f"on one side only: {escape(name)}", highlight=False)
    for path in written:
        console.output.print(escape(str(path)), highlight=False)


def change(
    first: Annotated[Path, typer.Argument(help="<case>_severity.json of the earlier scan.")],
    second: Annotated[Path, typer.Argument(help="<case>_severity.json of the later scan of the same patient.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for a JSON file of the change.")] = None,
    noise_pct: Annotated[
        float, typer.Option(min=0, help="Part of the lesion that is noise where a result has no interval.")
    ] = 10.0,
) -> None:
    """Follow-up of one patient: improving, stable or worsening, per region in ml and per score in points."""
    from dataclasses import asdict

    from covsev.agreement.follow_up import compare_scans, read_result, write_change

    with console.errors_in_words():
        found = compare_scans(read_result(first), read_result(second), noise_pct=noise_pct)
        path = write_change(found, output) if output else None
    columns = ("region", "first_ml", "second_ml", "change_ml", "noise_ml", "change_pct", "state")
    _print_rows("Lesion", [{"region": name} | asdict(region) for name, region in found.regions.items()], columns)
    _print_rows("Scores", [{"score": id_} | dict(values) for id_, values in found.scores.items()])
    for warning in found.warnings:
        console.output.print(f"warn: {escape(warning)}", highlight=False)
    console.output.print(f"{escape(found.text)}; {DISCLAIMER}.", highlight=False)
    if path:
        console.output.print(escape(str(path)), highlight=False)


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    if not rows:
        return
    columns = columns or tuple(rows[0])
    table = Table(*(name.replace("_", " ") for name in columns), title=title)
    for row in rows:
        table.add_row(*(escape(_cell(row[name])) for name in columns))
    console.output.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
