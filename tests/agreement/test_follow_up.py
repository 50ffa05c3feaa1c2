"""covsev change: improving, stable, worsening, against the noise; what makes two scans hard to compare."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from covsev.agreement.follow_up import compare_scans, read_result, write_change
from covsev.commands.main import app
from covsev.errors import CovsevError

runner = CliRunner()


def result(case, lesion_ml, *, volume_ml=4000.0, interval=None, points=5, **changed):
    region = {"volume_ml": volume_ml, "lesion_ml": lesion_ml, "lesion_pct": lesion_ml and 100 * lesion_ml / volume_ml}
    content = {
        "case": case,
        "noise_floor_ml": 1.0,
        "weights": "w",
        "covsev_version": "1",
        "quality": "pass",
        "regions": {"both_lungs": region, "left_upper": {"volume_ml": None, "lesion_ml": None, "lesion_pct": None}},
        "scores": {"ctss25_pan2020": {"value": points}, "tss20_chung2020": {"value": None}},
    }
    if interval:
        low, high = interval
        content["uncertainty"] = {"regions": {"both_lungs": {"lesion_ml": {"low": low, "high": high}}}}
    return content | changed


@pytest.mark.parametrize(
    ("first_ml", "second_ml", "state"),
    [
        (0.0, 0.0, "stable"),
        (0.0, 1.0, "stable"),  # the noise floor
        (0.0, 1.12, "worsening"),  # sqrt(0 + 0.112^2) lies below the floor of 1 ml
        (100.0, 114.0, "stable"),  # noise sqrt(10^2 + 11.4^2) = 15.2
        (100.0, 117.0, "worsening"),  # noise 15.4
        (100.0, 87.0, "stable"),  # noise 13.3
        (100.0, 86.0, "improving"),  # noise 13.2
    ],
)
def test_the_change_against_the_noise(first_ml, second_ml, state):
    found = compare_scans(result("a", first_ml), result("b", second_ml))
    assert found.state == found.regions["both_lungs"].state == state
    assert found.regions["both_lungs"].change_ml == second_ml - first_ml
    assert found.text.startswith(f"{state}: lesion in both lungs from {first_ml:.1f} to {second_ml:.1f} ml")


@pytest.mark.parametrize(("second_ml", "state"), [(150.0, "stable"), (151.0, "worsening"), (49.0, "improving")])
def test_intervals_are_the_noise_where_there_are_some(second_ml, state):
    """Half widths 30 and 40: noise 50."""
    first, second = result("a", 100.0, interval=(70, 130)), result("b", second_ml, interval=(10, 90))
    found = compare_scans(first, second)
    assert found.regions["both_lungs"].noise_ml == 50
    assert found.state == state


def test_the_noise_can_be_set():
    assert compare_scans(result("a", 100.0), result("b", 105.0), noise_pct=1).state == "worsening"


def test_points_and_percent_change_with_the_lesion():
    found = compare_scans(result("a", 100.0, points=7), result("b", 200.0, points=12))
    assert found.regions["both_lungs"].change_pct == pytest.approx(2.5)
    assert found.scores["ctss25_pan2020"] == {"first": 7, "second": 12, "change": 5}
    assert found.scores["tss20_chung2020"]["change"] is None


def test_an_absent_region_is_unknown_never_zero():
    region = compare_scans(result("a", 1.0), result("b", 2.0)).regions["left_upper"]
    assert (region.state, region.change_ml, region.noise_ml) == ("unknown", None, None)
    found = compare_scans(result("a", None), result("b", 2.0))
    assert (found.state, found.text) == ("unknown", "unknown: a scan has no lesion volume")


def test_a_failed_scan_gives_no_verdict():
    found = compare_scans(result("a", 100.0), result("b", 300.0, quality="fail"))
    assert (found.state, found.text) == ("unknown", "unknown: a quality check failed")
    assert found.warnings == ("b: a quality check failed",)
    assert {region.state for region in found.regions.values()} == {"unknown"}


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"weights": "v"}, "the lesions were found by different networks or drawn by hand"),
        ({"covsev_version": "2"}, "the scans were assessed by different versions of covsev"),
    ],
)
def test_what_makes_scans_hard_to_compare_is_said(changed, warning):
    assert compare_scans(result("a", 1.0), result("b", 1.0, **changed)).warnings == (warning,)


def test_another_depth_of_breath_is_said():
    found = compare_scans(result("a", 100.0, volume_ml=3000), result("b", 120.0, volume_ml=4000))
    assert found.warnings == (
        "3000 and 4000 ml of lung: breath-hold or coverage differ; percentages change with them",
        "millilitres and percent changed in opposite directions",
    )


def test_other_noise_floors_are_refused():
    with pytest.raises(CovsevError, match=r"the noise floors differ \(1 and 2 ml\)"):
        compare_scans(result("a", 1.0), result("b", 1.0, noise_floor_ml=2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a result of covsev; give"), ('{"case": "a"}', "regions, scores, noise_floor_ml missing")],
)
def test_what_is_no_result_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CovsevError, match=message):
        read_result(tmp_path / "a.json")


def test_the_command_prints_and_writes(tmp_path):
    paths = []
    for name, lesion_ml in (("may", 300.0), ("june", 100.0)):
        paths.append(tmp_path / f"{name}_severity.json")
        paths[-1].write_text(json.dumps(result(name, lesion_ml)))
    outcome = runner.invoke(app, ["change", *map(str, paths), "-o", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    assert "improving: lesion in both lungs from 300.0 to 100.0 ml" in outcome.output
    content = json.loads((tmp_path / "out" / "may_to_june_change.json").read_text())
    assert content["state"] == "improving"
    assert content["regions"]["both_lungs"]["change_ml"] == -200
    refused = runner.invoke(app, ["change", str(paths[0]), str(tmp_path / "none.json")])
    assert refused.exit_code == 2
    assert "error:" in refused.output


def test_a_written_change_is_strict_json(tmp_path):
    path = write_change(compare_scans(result("a", 1.0), result("b", None)), tmp_path)
    assert json.loads(path.read_text())["regions"]["both_lungs"]["change_ml"] is None
