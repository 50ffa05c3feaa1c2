"""The tables of the paper's comparison: folds, errors, order, and where they are written."""

from __future__ import annotations

import math

import pytest

from covsev.options import INFECTION_BUNDLE, LESION_BUNDLE
from covsev.training.evaluation.variants import (
    MULTI,
    SINGLE,
    VARIANTS,
    Cell,
    comparison_table,
    fold_cell,
    paired_table,
    replace_between,
)

HEADER = "row,name,infection_dice,infection_jaccard,infection_sensitivity,infection_specificity,infection_mae"


@pytest.mark.parametrize(
    ("values", "folds", "expected"),
    [
        ([0.5], [0], Cell(0.5, math.nan)),
        ([0.2, 0.4, 0.9], [0, 0, 1], Cell(0.6, 0.3)),  # folds 0.3 and 0.9: SD 0.4243, divided by sqrt(2)
        ([0.2, math.nan, 0.9], [0, 0, 1], Cell(0.55, 0.35)),
        ([0.4, math.nan], [0, 1], Cell(0.4, math.nan)),
        ([math.nan], [0], Cell(math.nan, math.nan)),
    ],
)
def test_a_cell_is_the_mean_over_folds_with_its_standard_error(values, folds, expected):
    cell = fold_cell(values, folds)
    assert cell.mean == pytest.approx(expected.mean, nan_ok=True)
    assert cell.error == pytest.approx(expected.error, nan_ok=True)


@pytest.mark.parametrize(
    ("cell", "text"),
    [(Cell(0.6, 0.3), "0.600 ± 0.300"), (Cell(0.6, math.nan), "0.600"), (Cell(math.nan, math.nan), "-")],
)
def test_a_cell_never_says_nan(cell, text):
    assert str(cell) == text


def test_the_table_has_the_variants_that_were_run_in_the_papers_order(tmp_path):
    for variant, dice in (("unet", 0.4), ("infnet", 0.5)):
        rows = [f"case,{name},{dice + shift},0.1,0.2,0.3,0.4" for name, shift in (("a.png", 0), ("b.png", 0.2))]
        summary = "summary,mean,9,9,9,9,9"
        (tmp_path / f"infection_{variant}.csv").write_text("\n".join([HEADER, *rows, summary]) + "\n")
    table = comparison_table(tmp_path, {"a.png": 0, "b.png": 1}, stem="infection", lesion="infection")
    assert table.splitlines() == [
        "| variant | folds | dice | jaccard | sensitivity | specificity | mae |",
        "|---|---|---|---|---|---|---|",
        "| InfNet | 2 | 0.600 ± 0.100 | 0.100 ± 0.000 | 0.200 ± 0.000 | 0.300 ± 0.000 | 0.400 ± 0.000 |",
        "| U-Net | 2 | 0.500 ± 0.100 | 0.100 ± 0.000 | 0.200 ± 0.000 | 0.300 ± 0.000 | 0.400 ± 0.000 |",
    ]


def test_pairs_are_compared_fold_by_fold(tmp_path):
    for variant, dice in (("self_infnet", (0.5, 0.7)), ("infnet", (0.4, 0.75)), ("unet", (0.1, 0.2))):
        rows = [f"case,{name},{value},0,0,0,0" for name, value in zip(("a.png", "b.png"), dice, strict=True)]
        (tmp_path / f"infection_{variant}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    table = paired_table(tmp_path, {"a.png": 0, "b.png": 1}, stem="infection", lesion="infection")
    assert table.splitlines()[2:] == [
        "| Self-InfNet | InfNet | 0.025 ± 0.075 | 1 of 2 |",
        "| U-Net | InfNet | -0.425 ± 0.125 | 0 of 2 |",
    ]


def test_slices_without_a_fold_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no infection_<variant>\.csv in it"):
        comparison_table(tmp_path, {}, stem="infection", lesion="infection")
    (tmp_path / "infection_unet.csv").write_text(f"{HEADER}\ncase,a.png,1,1,1,1,0\n")
    with pytest.raises(ValueError, match=r"infection_unet\.csv: no fold is known for a\.png"):
        comparison_table(tmp_path, {}, stem="infection", lesion="infection")


def test_text_is_replaced_between_its_marks_only():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb <!-- y --><!-- /y -->"
    assert replace_between(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb <!-- y --><!-- /y -->"


@pytest.mark.parametrize(
    "text", ["", "<!-- x -->", "<!-- /x --><!-- x -->", "<!-- x --><!-- /x --><!-- x --><!-- /x -->"]
)
def test_missing_or_double_marks_are_refused(text):
    with pytest.raises(ValueError, match="the marks <!-- x --> and <!-- /x --> must stand in the text once"):
        replace_between(text, "x", "new")


def test_every_variant_names_what_there_is():
    ids = [variant.id for variant in VARIANTS]
    assert len(set(ids)) == len(ids)
    for variant in VARIANTS:
        assert {variant.semi, variant.prior} - {None} <= set(ids)
        for stage in variant.stages:
            bundle = INFECTION_BUNDLE if stage == SINGLE else LESION_BUNDLE
            assert stage not in variant.networks or (bundle / "configs" / variant.networks[stage]).is_file()
        assert set(variant.networks) <= {SINGLE, MULTI}
