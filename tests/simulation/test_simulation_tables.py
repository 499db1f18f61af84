"""Plants with different columns learn together: a whole run on made-up shops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.config import FederationConfig
from common.errors import DataError
from simulation.collect import collect
from simulation.made_up.tables import TABULAR, write_tables
from simulation.prepare import Description, find_plants, noted, rates, units
from simulation.report import write_report
from simulation.run import Plan, run

CONFIG = FederationConfig.model_validate(
    TABULAR
    | {
        "rounds": 1,
        "local_epochs": 1,
        "labels_per_class": 10,
        "test_per_class": 10,
        "training": {"epochs": 2, "head_epochs": 5},
    }
)


def test_a_run_of_tables_ends_in_a_report(tmp_path: Path) -> None:
    write_tables(tmp_path / "data", rows=160)
    told: list[str] = []
    plan = Plan(config=CONFIG, base=tmp_path, data=tmp_path / "data", out=tmp_path / "out")
    found = run(plan, watch=lambda phase, done, total, note: told.append(f"{phase}: {note}"))
    results = collect(plan, found)
    assert (results.task, results.metric, results.share, results.lower) == (
        "tabular",
        "r2",
        False,
        False,
    )
    assert set(results.plants) == {"caps", "gears", "housings", "trays"}
    caps = results.plants["caps"]
    assert (caps.classes, caps.numbers, caps.confusion) == ((), ("strength_MPa",), {})
    assert caps.metrics["deployed"].keys() == {"r2", "rmse", "mae", "bias"}
    assert caps.pooled is not None
    assert caps.pictures[0].title == "strength_MPa: predicted against true"
    reply = results.rounds[0].replies["caps"]
    assert {"r2", "rmse", "loss"} <= reply.scores["trained"].keys()
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert "Confusion matrix" not in page
    assert not [line for line in told if line.startswith("warning")]
    travelled = json.loads((plan.out / "run.json").read_text())["travelling"]
    assert travelled
    assert all(name.startswith("backbone.") for name in travelled)


def test_plants_with_different_targets_are_run_without_a_pooled_model(tmp_path: Path) -> None:
    write_tables(tmp_path / "data", rows=160)
    table = tmp_path / "data" / "gears" / "shots.csv"
    table.write_text(table.read_text().replace("strength_MPa", "weight_g", 1))
    plants = {"gears": {"table": {"target": "weight_g"}}}
    config = FederationConfig.model_validate(CONFIG.model_dump() | {"plants": plants, "rounds": 0})
    told: list[str] = []
    plan = Plan(
        config=config,
        base=tmp_path,
        data=tmp_path / "data",
        out=tmp_path / "out",
        plants=("caps", "gears"),
        alone=("local",),
    )
    found = run(plan, watch=lambda phase, done, total, note: told.append(note))
    assert any(
        "no pooled model: pooled plants must have one target, got strength_MPa and weight_g" in note
        for note in told
    )
    assert "pooled" not in found[0].judged["caps"].predictions


def test_folders_without_tables_are_no_plants(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="--data must hold <plant>/ folders with csv or parquet"):
        find_plants(tmp_path, task="tabular")


def test_units_that_differ_by_a_thousand_are_told() -> None:
    def plant(power: float) -> Description:
        return Description(
            classes=(), good="", numbers=("x",), counts={}, notes=(), skipped=(),
            typical={"power": power, "heat": 200.0},
        )  # fmt: skip

    told = units({"ash": plant(4.5), "elm": plant(4500.0), "oak": plant(5.0)})
    assert told == ["median of power is 5 at ash, oak, but 4500 at elm: units?"]
    assert units({"ash": plant(4.5), "oak": plant(5.0)}) == []
    even = {"ash": plant(4.5), "elm": plant(4500.0), "oak": plant(5.0), "yew": plant(-5000.0)}
    assert units(even) == ["median of power is 5 at ash, oak, but -5000 at elm, yew: units?"]
    assert units({"ash": plant(0.0), "elm": plant(float("nan")), "oak": plant(5.0)}) == []


def test_rates_that_differ_between_plants_are_told() -> None:
    def plant(rate: float) -> Description:
        return Description(
            classes=(), good="", numbers=("x",), counts={}, notes=(), skipped=(), rate=rate
        )

    alike = {"ash": plant(1000.0), "elm": plant(1000.5), "oak": plant(0.0)}
    assert rates(alike) == []
    (told,) = rates(alike | {"yew": plant(2000.0)})
    assert told.startswith(
        "samples a second while series.rate is 0: 1000 at ash, elm, 2000 at yew:"
    )


def test_what_is_noted_of_plants_is_told_once() -> None:
    def plant(*notes: str) -> Description:
        return Description(classes=(), good="", numbers=("x",), counts={}, notes=notes, skipped=())

    still = "channel aux is constant here: the network sees 0"
    plants = {name: plant(still) for name in ("ash", "elm", "oak")}
    assert noted({**plants, "yew": plant("column AP: other units?", still)}) == [
        f"ash, elm, oak and 1 more: {still}",
        "yew: column AP: other units?",
    ]
    assert noted({"ash": plant()}) == []


def test_a_column_outside_the_shared_range_is_warned_of_at_once(tmp_path: Path) -> None:
    write_tables(tmp_path / "data", rows=160)
    table = CONFIG.table.model_dump() | {"shared": {"melt_C": [0.1, 0.3]}}
    config = FederationConfig.model_validate(CONFIG.model_dump() | {"table": table, "rounds": 0})
    plan = Plan(
        config=config, base=tmp_path, data=tmp_path / "data", out=tmp_path / "out", plants=("caps",)
    )
    told: list[str] = []
    run(plan, watch=lambda phase, done, total, note: told.append(f"{phase}: {note}"))
    (said,) = [line for line in told if line.startswith("warning")]
    assert said.startswith("warning: caps: column melt_C: median 2")
    assert said.endswith("lies outside the federation's range 0.1 to 0.3: other units?")
