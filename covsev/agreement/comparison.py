"""Files and directories of results against those of a reference: pairs, tables and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from covsev import labels
from covsev.agreement.masks import LESION_TOLERANCE_MM, LUNG_TOLERANCE_MM, MaskAgreement, compare_masks
from covsev.agreement.result import Comparison, Values
from covsev.agreement.scores import (
    CLINICAL_CLASSES,
    ClinicalAgreement,
    ScoreAgreement,
    compare_scores,
    compare_with_classes,
)
from covsev.errors import CovsevError, GridMismatchError
from covsev.masks.conventions import LESIONS_KIND, LOBES_KIND, LUNGS_KIND
from covsev.masks.recognition import LabelFile, parse_choices, recognise, translate
from covsev.scan import read_labels
from covsev.scan.volume import GRID_TOLERANCE_MM
from covsev.scan.writing import write_csv
from covsev.severity.score_table import SCORES

# What a label map shows is told by the end of its name; its labels' names become the rows of the table.
_SUFFIXES = {LUNGS_KIND: labels.LUNGS_SUFFIX, LOBES_KIND: labels.LOBES_SUFFIX, LESIONS_KIND: labels.LESIONS_SUFFIX}
_LABELS = {LUNGS_KIND: labels.LUNGS, LOBES_KIND: labels.LOBES, LESIONS_KIND: labels.LESIONS}
_WHOLE = {LUNGS_KIND: "both_lungs", LOBES_KIND: "all_lobes", LESIONS_KIND: "infection"}
"""Name of all labels of a map together."""
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
"""Ends of the names of files that hold label maps; a JSON or CSV file holds scores."""


def compare(
    reference: Path,
    predicted: Path,
    *,
    kind: str | None = None,
    reference_labels: Sequence[str] = (),
    predicted_labels: Sequence[str] = (),
    clinical: Path | None = None,
) -> Comparison:
    """Compare masks and scores with a reference's.

    Args:
        reference, predicted: two label maps, two result files (JSON or CSV), or two directories. Directories may hold
            label maps with equal names, and ``<case>_severity.json`` files or a ``severity.csv``.
        kind: ``lungs``, ``lobes`` or ``lesions``, for label maps whose names do not say it.
        reference_labels, predicted_labels: conventions, see :func:`covsev.masks.recognition.parse_choices`.
        clinical: CSV with the columns ``case`` and ``class``; the predicted scores are compared with it.

    Raises:
        CovsevError: if nothing pairs, or a file cannot be used.
    """
    pairs, unpaired = _mask_pairs(reference, predicted, kind)
    masks = [
        row
        for case, of_kind, paths in pairs
        for row in _compare_maps(case, of_kind, paths, (reference_labels, predicted_labels))
    ]
    of_reference, of_predicted = read_scores(reference), read_scores(predicted)
    cases = [case for case in of_reference if case in of_predicted]
    on_one_side = sorted(set(of_reference) ^ set(of_predicted))
    unpaired = [*unpaired, *(f"scores of {case}" for case in on_one_side)]
    if not masks and not cases:
        raise CovsevError(f"{reference} and {predicted}: nothing to compare; expected label maps or scores of one name")
    classes = read_classes(clinical) if clinical else {}
    return Comparison(
        masks=masks,
        scores=_compare_values(of_reference, of_predicted, cases),
        clinical=_compare_classes(of_predicted, classes) if clinical else [],
        unpaired=unpaired,
        reference={case: of_reference[case] for case in cases},
        # A clinical class needs no reference: all predicted cases take part in that figure.
        predicted=of_predicted if clinical else {case: of_predicted[case] for case in cases},
        classes=classes,
    )


# ---- masks -------------------------------------------------------------------------------------------------------


def _mask_pairs(
    reference: Path, predicted: Path, kind: str | None
) -> tuple[list[tuple[str, str, tuple[Path, Path]]], list[str]]:
    """(case, kind, paths) of maps on both sides, and the names of those on one side only."""
    if reference.is_file() and predicted.is_file():
        if not reference.name.endswith(_VOLUMES):  # two files of scores
            return [], []
        of_kind = kind or _kind_of(predicted) or _kind_of(reference)
        if of_kind is None:
            raise CovsevError(f"{reference.name}: the name does not say what it shows; give --kind")
        return [(_case_of(predicted.name, of_kind), of_kind, (reference, predicted))], []
    of_reference, of_predicted = (_maps_below(folder, kind) for folder in (reference, predicted))
    pairs = []
    for (case, shown), path in of_reference.items():
        if (case, shown) in of_predicted:
            pairs.append((case, shown, (path, of_predicted[case, shown])))
    on_one_side = sorted(set(of_reference) ^ set(of_predicted))
    return pairs, [f"{shown} of {case}" for case, shown in on_one_side]


def _kind_of(path: Path) -> str | None:
    """What a label map shows, as far as its name says it."""
    return next((kind for kind, suffix in _SUFFIXES.items() if path.name.endswith(suffix)), None)


def _maps_below(folder: Path, kind: str | None) -> dict[tuple[str, str], Path]:
    """Paths by case and kind: the path relative to ``folder`` without the suffix that says the kind."""
    if not folder.is_dir():
        raise CovsevError(f"{folder}: compare two files or two directories")
    found = {}
    for path in sorted((*folder.rglob("*.nii"), *folder.rglob("*.nii.gz"))):
        of_kind = _kind_of(path) or kind
        if of_kind is not None:
            # With the folders below ``folder``: equal names in two of them are two cases.
            name = path.relative_to(folder).as_posix()
            found[_case_of(name, of_kind), of_kind] = path
    return found


def _case_of(name: str, kind: str) -> str:
    # A map of another program has no such suffix: its case is the name without .nii or .nii.gz.
    return name.removesuffix(_SUFFIXES[kind]).removesuffix(".gz").removesuffix(".nii")


def _compare_maps(
    case: str, kind: str, paths: tuple[Path, Path], choices: tuple[Sequence[str], Sequence[str]]
) -> list[dict[str, Any]]:
    """One row a structure: everything together, then each label that both maps tell apart."""
    files = [LabelFile(path, *read_labels(path)) for path in paths]
    reference, predicted = files
    same_place = np.allclose(reference.affine, predicted.affine, atol=GRID_TOLERANCE_MM)
    if reference.values.shape != predicted.values.shape or not same_place:
        raise GridMismatchError(f"{paths[1]}: another grid than its reference {paths[0]}; resample one of them first")
    conventions = [
        recognise(file, kind, name=parse_choices(choice).get(kind), option=option)
        for file, choice, option in zip(files, choices, ("--ref-labels", "--pred-labels"), strict=True)
    ]
    maps = [translate(file, convention) for file, convention in zip(files, conventions, strict=True)]
    structures = {_WHOLE[kind]: [array > 0 for array in maps]}
    # Where one map holds any lesion as one value, its single labels say nothing of the other's.
    if all(convention.kinds_known for convention in conventions):
        structures |= {label.name: [array == label.id for array in maps] for label in _LABELS[kind]}
    tolerance_mm = LESION_TOLERANCE_MM if kind == LESIONS_KIND else LUNG_TOLERANCE_MM
    return [
        {"case": case, "kind": kind, "structure": name, "tolerance_mm": tolerance_mm}
        | asdict(compare_masks(r, p, files[0].affine, tolerance_mm=tolerance_mm))
        for name, (r, p) in structures.items()
    ]


# ---- scores ------------------------------------------------------------------------------------------------------


def read_scores(path: Path) -> dict[str, dict[str, float | None]]:
    """Scores by case and id, from a result JSON, a table, or a directory of either; none elsewhere.

    Raises:
        CovsevError: if a file is not what its name says.
    """
    if path.is_dir():
        # The table of a run says the same as its results, so it is read only where there are none.
        results = sorted(path.rglob(f"*{labels.SEVERITY_SUFFIX}"))
        tables = [] if results else sorted(path.rglob("severity.csv"))
        return {case: values for file in (*results, *tables) for case, values in read_scores(file).items()}
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            return {content["case"]: {id_: score["value"] for id_, score in content["scores"].items()}}
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as stream:  # a spreadsheet may write a byte-order mark
                return {row["case"]: _numbers(row) for row in csv.DictReader(stream)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CovsevError(f"{path}: not a result of covsev ({type(error).__name__}: {error})") from error
    return {}  # such as a label map, which has no scores


def _numbers(row: Mapping[str, str]) -> dict[str, float | None]:
    """Scores of one line; a radiologist's table may hold only some of them."""
    texts = {score.id: row[score.id] for score in SCORES if score.id in row}
    return {id_: float(text) if text else None for id_, text in texts.items()}


def _compare_values(reference: Values, predicted: Values, cases: Sequence[str]) -> list[dict[str, Any]]:
    """One row a score, where either side has a value at all."""
    rows = []
    for score in SCORES:
        of_reference = [reference[case].get(score.id) for case in cases]
        of_predicted = [predicted[case].get(score.id) for case in cases]
        if any(value is not None for value in (*of_reference, *of_predicted)):
            # Only a banded score has whole points; a percentage has none to agree on.
            found = compare_scores(of_reference, of_predicted, points=bool(score.edges))
            rows.append({"score": score.id, "unit": score.unit} | asdict(found))
    return rows


def read_classes(path: Path) -> dict[str, str]:
    """Clinical class by case, from a CSV with the columns ``case`` and ``class``; cases of other classes are left out.

    Raises:
        CovsevError: if a column is missing, or no class is known.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        # An empty file has no field names at all.
        if not {"case", "class"} <= set(reader.fieldnames or ()):
            raise CovsevError(f"{path}: expected the columns case and class, got {reader.fieldnames}")
        found = {row["case"]: row["class"].strip().lower() for row in reader}
    known = {case: name for case, name in found.items() if name in CLINICAL_CLASSES}
    if not known:
        raise CovsevError(f"{path}: no known class; expected one of {', '.join(CLINICAL_CLASSES)}")
    return known


def _compare_classes(values: Values, classes: Mapping[str, str]) -> list[dict[str, Any]]:
    cases = [case for case in values if case in classes]
    if not cases:
        raise CovsevError("no case has both scores and a clinical class; check that the names are equal")
    ranks = [CLINICAL_CLASSES[classes[case]] for case in cases]
    rows = []
    for score in SCORES:
        of_score = [values[case].get(score.id) for case in cases]
        rows.append({"score": score.id} | asdict(compare_with_classes(of_score, ranks)))
    return rows


# ---- writing -----------------------------------------------------------------------------------------------------

# The columns are named here, not taken from the first row, so that a table looks the same whatever it holds.
_MASK_COLUMNS = ("case", "kind", "structure", "tolerance_mm", *(f.name for f in fields(MaskAgreement)))
_SCORE_COLUMNS = ("score", "unit", *(f.name for f in fields(ScoreAgreement)))
_CLINICAL_COLUMNS = ("score", *(f.name for f in fields(ClinicalAgreement)))


def write_comparison(found: Comparison, folder: Path) -> list[Path]:
    """Write ``mask_agreement.csv``, ``score_agreement.csv``, ``bland_altman.png``, ``clinical.csv``, ``clinical.png``.

    Only those that hold something are written; returns their paths.

    Raises:
        CovsevError: if matplotlib, which draws the figures, is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    tables = (
        ("mask_agreement.csv", found.masks, _MASK_COLUMNS),
        ("score_agreement.csv", found.scores, _SCORE_COLUMNS),
        ("clinical.csv", found.clinical, _CLINICAL_COLUMNS),
    )
    for name, rows, columns in tables:
        if rows:
            write_csv(rows, folder / name, columns)
            written.append(folder / name)
    # Imported only here: matplotlib takes a moment, is an extra, and tables alone do not need it.
    if found.scores:
        from covsev.agreement.plots import plot_bland_altman

        written.append(plot_bland_altman(found, folder / "bland_altman.png"))
    if found.clinical:
        from covsev.agreement.plots import plot_clinical

        written.append(plot_clinical(found, folder / "clinical.png"))
    return written
