"""results.json and compare.json: read back as written, refused in any other shape."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from simulation.results import Comparison, Interval, Results, save_results, write_plants_csv
from simulation.schema import schema_reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def written(tmp_path: Path, made_up_results: Any) -> Path:
    path = tmp_path / "results.json"
    save_results(path, made_up_results(seeds=2, rounds=2))
    return path


def test_results_read_back_as_written(written: Path, made_up_results: Any) -> None:
    assert Results.model_validate_json(written.read_bytes()) == made_up_results(seeds=2, rounds=2)


def test_file_has_the_documented_shape(written: Path) -> None:
    value = json.loads(written.read_text())
    assert value["version"] == 2
    plant = value["plants"]["neu_steel"]
    for name in ("head_only", "local", "federated", "pooled", "deployed"):
        assert {"value", "low", "high"} <= plant[name].keys()
    assert plant["deployed"]["source"] == "federated"


def test_comparison_reads_back(
    tmp_path: Path, made_up_results: Any, made_up_comparison: Any
) -> None:
    runs = {method: made_up_results(method=method, rounds=1) for method in ("fedper", "ditto")}
    compare = made_up_comparison(runs)
    save_results(tmp_path / "compare.json", compare)
    assert Comparison.model_validate_json((tmp_path / "compare.json").read_bytes()) == compare


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value.update(version=1), "version\n  Input should be 2"),
        (lambda value: value.pop("plants"), "plants\n  Field required"),
        (lambda value: value.update(extra=1), "extra\n  Extra inputs are not permitted"),
        (lambda value: value["gain"].update(low=0.5), "low must be at most high"),
        (
            lambda value: value["plants"]["elpv_mono"]["confusion"].update(deployed=[[1, 0]]),
            "confusion.deployed must be 2 by 2",
        ),
        (
            lambda value: value["plants"]["elpv_mono"]["mistakes"]["deployed"][0].update(
                picture="https://example.org/x.jpg"
            ),
            "picture\n  String should match",
        ),
    ],
)
def test_other_shape_is_refused(written: Path, change: Any, told: str) -> None:
    value = json.loads(written.read_text())
    change(value)
    with pytest.raises(ValidationError, match=told):
        Results.model_validate(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_interval_is_finite(value: float) -> None:
    with pytest.raises(ValidationError):
        Interval(value=value, low=0.0, high=1.0)


def test_csv_has_a_row_a_plant(tmp_path: Path, made_up_results: Any) -> None:
    products = {"a,b": ("x", "y"), "c": ("x", "y")}
    results = made_up_results(products=products, rounds=0, pooled=False)
    write_plants_csv(tmp_path / "plants.csv", results)
    with (tmp_path / "plants.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["plant"] for row in rows] == ["a,b", "c"]
    assert float(rows[0]["local"]) == results.plants["a,b"].local.value
    assert rows[0]["pooled"] == rows[0]["pooled_high"] == ""
    assert rows[0]["source"] == "federated"
    assert rows[0]["test"] == "300"
    assert list(rows[0])[:4] == ["plant", "head_only", "head_only_low", "head_only_high"]


def test_documentation_is_that_of_the_models() -> None:
    told = (ROOT / "docs" / "results-schema.md").read_text()
    assert told == schema_reference(), "run `python -m simulation.schema`"
    for field in (
        "plants.<name>.deployed.source",
        "rounds[].replies.<name>.bytes_up",
        "runs.<name>",
    ):
        assert f"`{field}`" in told
