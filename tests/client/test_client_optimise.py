"""Proposed settings: inside bounds, limits and what the rows support, and honest about doubt."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from client.cli import app
from client.console.proposing import facts, measured, propose, propose_by, show
from client.earlier import read_by
from client.optimise.ensemble import Ensemble, rank_correlation, train
from client.optimise.search import Measured, search, space
from client.optimise.support import Support
from client.optimise.wishes import Bounds, Limit, Wishes, read_bounds, read_limits
from client.plant import Plant
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, DataError, StateError
from common.source import start
from simulation.made_up.tables import write_tables

CONFIG = FederationConfig.model_validate(
    {
        "task": "tabular",
        "table": {"target": "strength_MPa", "width": 16, "blocks": 1, "bins": 4},
        "training": {"epochs": 6, "head_epochs": 60, "batch_size": 32},
    }
)
BOUNDS = Bounds(
    bounds={"melt_C": (200.0, 270.0), "speed_mm_s": (10.0, 90.0), "supplier": ("Ast", "Bor")},
    formulas={"cost": {"speed_mm_s": 0.5, "constant": 1.0}},
)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    root = tmp_path_factory.mktemp("shops")
    folder = write_tables(root, rows=200)[0]
    settings = PlantConfig(name="caps", data=str(folder), device="cpu")
    made = Plant.create(root / "plant", settings)
    made.train_alone("local", source=start(CONFIG, base=Path()).release, config=CONFIG)
    return made


@pytest.fixture(scope="module")
def parts(plant: Plant) -> tuple[Ensemble, Support, Measured]:
    data = plant.data(CONFIG)
    return train(plant, CONFIG, members=2), Support.of(data, CONFIG), measured(data)


def test_rows_of_today_are_read_as_the_model_was_made(plant: Plant, tmp_path: Path) -> None:
    """A name that sorts first moves no code of the others, new rows no scale."""
    data = shutil.copytree(plant.settings.data, tmp_path / "data")
    settings = plant.settings.model_copy(update={"data": str(data)})
    shutil.copytree(plant.folder, tmp_path / "plant")
    later = Plant.create(tmp_path / "plant", settings)
    table = next(data.iterdir())
    header, *rows = table.read_text().splitlines()
    supplier, target = (header.split(",").index(name) for name in ("supplier", "strength_MPa"))
    more = []
    for row in rows[:60]:
        cells = row.split(",")
        cells[supplier], cells[target] = "Aaa", "500.5"
        more.append(",".join(cells))
    table.write_text("\n".join([header, *rows, *more]) + "\n")

    now, found = later.data(CONFIG), train(later, CONFIG, members=1).trainer.data
    made = plant.data(CONFIG)
    assert now.columns.categories[0].levels[0] == "Aaa"
    assert found.columns == made.columns
    assert torch.equal(found.centre, made.centre)
    assert not torch.equal(found.centre, now.centre)
    assert found.names == now.names
    known = {name: place for place, name in enumerate(made.names)}
    for place, name in enumerate(found.names):
        if name in known:
            np.testing.assert_array_equal(found.inputs[place], made.inputs[known[name]])
    assert found.inputs[:, -1].isnan().sum() >= 30  # nobody knew that name


def test_a_model_of_another_target_is_one_line(plant: Plant) -> None:
    other = CONFIG.model_copy(
        update={"table": CONFIG.table.model_copy(update={"target": "melt_C"})}
    )
    with pytest.raises(
        ConfigError, match=r"model 1 must say melt_C, .* one that says strength_MPa"
    ):
        train(plant, other, members=1)


def wishes(**changes: Any) -> Wishes:
    return replace(Wishes(target="strength_MPa", bounds=BOUNDS, trials=60), **changes)


@pytest.mark.parametrize("lower", [False, True])
def test_proposals_keep_to_bounds_limits_and_support(parts: Any, lower: bool) -> None:
    pytest.importorskip("optuna")
    ensemble, support, rows = parts
    limit = Limit(name="cost", value=29.0)
    asked = wishes(lower=lower, limits=(limit,))
    found = search(ensemble, support, asked, measured=rows)
    assert found.allowed <= found.tried
    for one in found.proposals:
        assert 1.0 + 0.5 * float(one.values["speed_mm_s"]) == pytest.approx(one.limits["cost"])
        assert one.limits["cost"] <= 29.0
        assert one.values["supplier"] in ("Ast", "Bor")
        assert one.distance <= 1.0 + 1e-6
        assert one.low is not None
        assert one.high is not None
        assert one.chance is not None
        assert one.low < one.mean < one.high
        assert 0 <= one.chance <= 1
        for setting in support.settings:
            if not setting.levels:
                value = float(one.values[setting.name])
                assert setting.low - 1e-4 <= value <= setting.high + 1e-4
    assert set(found.held) == {"packing_MPa", "cooling_s", "moisture", "cushion"}
    again = search(ensemble, support, asked, measured=rows)
    assert again.proposals[0].values == found.proposals[0].values
    best = found.proposals[0].mean
    usual = {one.name: one.usual for one in support.settings} | {"supplier": "Ast"}
    there = float(ensemble.predict(support.encode(usual)[None])[0][0])
    assert best <= there if lower else best >= there


def test_a_row_far_from_all_is_not_supported(parts: Any) -> None:
    _, support, _ = parts
    numbers = [one for one in support.settings if not one.levels]
    usual = {one.name: one.usual for one in support.settings}
    corner = usual | {one.name: one.high for one in numbers}
    assert support.distance(support.encode(usual)) <= support.reach
    assert support.distance(support.encode(corner)) > support.reach


def test_missing_values_do_not_widen_a_column(parts: Any) -> None:
    """A column far from 0 of which a third is missing keeps its deviation, and so its reach."""
    ensemble, support, _ = parts
    place = next(one.place for one in support.settings if one.name == "melt_C")
    rows = torch.from_numpy(support.rows.copy())
    rows[::3, place] = torch.nan
    every = torch.arange(len(rows))
    data = replace(ensemble.trainer.data, inputs=rows, train=every[:-20], validation=every[-20:])
    holed = Support.of(data, CONFIG)
    assert holed.spread[place] == pytest.approx(support.spread[place], rel=0.2)
    rows[:, place] = torch.nan
    assert Support.of(data, CONFIG).spread[place] == 0.0


def test_the_interval_holds_on_the_rows_that_it_was_scaled_on(plant: Plant, parts: Any) -> None:
    ensemble, _, _ = parts
    assert ensemble.factor is not None, ensemble.doubt
    data = plant.data(CONFIG)
    mean, deviation = ensemble.predict(data.inputs[data.validation].numpy())
    truth = data.targets[data.validation][:, 0].numpy()
    assert (np.abs(truth - mean) <= ensemble.factor * deviation + 1e-6).mean() >= 0.9
    assert ensemble.chance(10.0, 1.0, above=10.0) == pytest.approx(0.5)
    chances = [ensemble.chance(10.0, 1.0, above=value) or 0.0 for value in (5.0, 9.0)]
    assert chances[0] > chances[1]


def test_members_learn_nothing_from_the_rows_that_vouch_for_them(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*told: Any, **named: Any) -> Any:
        data = read_by(*told, **named)
        assert data is not None
        targets = data.targets.clone()
        targets[data.validation] = targets[data.validation].flip(0) * 2
        return replace(data, targets=targets)

    one = train(plant, CONFIG, members=1)
    monkeypatch.setattr("client.optimise.ensemble.read_by", other)
    two = train(plant, CONFIG, members=1)
    rows = one.trainer.data.inputs[:20].numpy()
    np.testing.assert_array_equal(one.predict(rows)[0], two.predict(rows)[0])


def test_rows_that_the_model_may_know_make_no_interval(plant: Plant, tmp_path: Path) -> None:
    """Below ten labels a class it has learned from all of them; a table that grew is dealt anew."""
    pytest.importorskip("optuna")
    few = plant.settings.model_copy(update={"labels_per_class": 6})
    config = CONFIG.model_copy(update={"labels_per_class": 6})
    made = Plant.create(tmp_path / "few", few)
    made.train_alone("local", source=start(config, base=Path()).release, config=config)
    ensemble, found = propose_by(made, config, wishes(trials=25))
    assert (
        ensemble.doubt
        == "the model has learned from all labelled rows, as below ten labels a class"
    )
    told = facts(ensemble, found)
    assert told["validation"]["doubt"] == ensemble.doubt
    assert all(one["low"] is one["high"] is one["chance"] is None for one in told["proposals"])
    with (tmp_path / "said").open("w") as text:
        show(Console(file=text, width=300), ensemble, found, wishes=wishes())
    said = (tmp_path / "said").read_text()
    assert "90 %" not in said
    assert f"no interval: {ensemble.doubt}" in said

    shutil.copytree(plant.folder, tmp_path / "plant")
    data = shutil.copytree(plant.settings.data, tmp_path / "data")
    table = next(data.iterdir())
    table.write_text("\n".join(table.read_text().splitlines()[:-20]) + "\n")
    grown = Plant.create(tmp_path / "plant", plant.settings.model_copy(update={"data": str(data)}))
    assert "others than the model was judged on" in train(grown, CONFIG, members=1).doubt


def test_nothing_that_is_allowed_is_one_line(parts: Any) -> None:
    pytest.importorskip("optuna")
    ensemble, support, rows = parts
    with pytest.raises(DataError, match=r"none of 60 was; the nearest broke cost by"):
        search(ensemble, support, wishes(limits=(Limit(name="cost", value=0.5),)), measured=rows)


@pytest.mark.parametrize(
    ("bounds", "limits", "told"),
    [
        ({"power": (1.0, 2.0)}, (), "bounds must be of columns of the model, got 'power'"),
        ({"supplier": ("Zet",)}, (), r"bounds\.supplier must be among Ast, Bor, Cym, got 'Zet'"),
        ({"melt_C": "hot"}, (), r"bounds\.melt_C must be numbers, got 'hot'"),
        (
            {"melt_C": (900.0, 950.0)},
            (),
            r"must overlap with what the plant's rows hold, .* got 900",
        ),
        ({"melt_C": 230.0}, (), "must leave at least one column free"),
        (
            {"melt_C": (200.0, 260.0)},
            (Limit(name="price", value=1.0),),
            "a limit must be of a formula",
        ),
    ],
)
def test_what_is_not_known_is_one_line(parts: Any, bounds: Any, limits: Any, told: str) -> None:
    asked = wishes(bounds=Bounds(bounds=bounds), limits=limits)
    with pytest.raises((ConfigError, DataError), match=told) as caught:
        space(asked, parts[1])
    assert "\n" not in str(caught.value)


def test_bounds_beyond_the_rows_are_narrowed_and_told(parts: Any) -> None:
    found = space(wishes(bounds=Bounds(bounds={"melt_C": (0.0, 900.0)})), parts[1])
    known = {one.name: one for one in parts[1].settings}["melt_C"]
    assert tuple(found.free["melt_C"]) == (known.low, known.high)
    assert found.notes[0].startswith("melt_C: narrowed from 0 to 900 to what the rows hold")


def test_files_and_options_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text("[bounds]\nheat = [3, 1]\n")
    with pytest.raises(ConfigError, match=r"bounds.heat must be \[low, high\]"):
        read_bounds(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_bounds(tmp_path / "none.toml")
    for text in ("cost", "cost=x", "=3", "cost=nan", "cost=inf"):
        with pytest.raises(ConfigError, match="--at-most must be NAME=NUMBER"):
            read_limits([text], least=False)
    assert read_limits(["a=2"], least=True)[0].excess(3.0) == -1.0


@pytest.mark.parametrize(
    "bound",
    [
        "[]",
        "[nan, 5]",
        "[-inf, inf]",
        "[true, 5]",
        "true",
        "nan",
        "[1, 2, 3]",
        '["Ast", 2]',
        "1e39",
    ],
)
def test_a_bound_that_is_none_is_one_line(bound: str, tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text(f"[bounds]\nheat = {bound}\n")
    with pytest.raises(ConfigError, match=r"bounds.heat must be \[low, high\].*, got") as caught:
        read_bounds(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option", [("--caution", "nan"), ("--caution", "-1"), ("--seed", "99999999999")]
)
def test_an_option_out_of_range_is_refused(option: tuple[str, str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["optimise", str(tmp_path), "--maximise", "y", *option])
    told = str(done.exception) if isinstance(done.exception, ConfigError) else done.output
    assert done.exit_code
    assert option[0] in told
    assert "0" in told


def test_a_simulated_plant_cannot_be_asked(plant: Plant) -> None:
    with pytest.raises(StateError, match="a simulated plant has none: join a federation first"):
        propose(plant.folder, wishes())


def test_only_a_plant_with_a_table_of_this_target_can_be_asked(plant: Plant) -> None:
    with pytest.raises(ConfigError, match="--maximise must name what the plant's model says"):
        propose_by(plant, CONFIG, wishes(target="weight"))
    images = FederationConfig()
    with pytest.raises(ConfigError, match="got task image-classification"):
        propose_by(plant, images, wishes())


def test_facts_are_ready_for_json(parts: Any) -> None:
    pytest.importorskip("optuna")
    ensemble, support, rows = parts
    told = facts(ensemble, search(ensemble, support, wishes(trials=25), measured=rows))
    assert told["proposals"][0]["values"].keys() == {one.name for one in support.settings}
    assert told["validation"]["rows"] == ensemble.judged


def test_what_was_measured_elsewhere_is_said(parts: Any) -> None:
    """A row is the yardstick although a column without bounds is not as it is held."""
    pytest.importorskip("optuna")
    ensemble, support, rows = parts
    asked = wishes(trials=25)
    found = search(ensemble, support, asked, measured=rows)
    row = support.decode(support.rows[rows.names.index(found.compared[1])])
    assert found.elsewhere
    assert found.elsewhere == {n: row[n] for n, held in found.held.items() if row[n] != held}
    assert facts(ensemble, found)["compared"]["elsewhere"] == found.elsewhere
    far = replace(found, held={"AP": 1000.0, "RH": 50.0}, elsewhere={"AP": 1020.0, "RH": 65.2})
    near = replace(found, held={"AP": 1000.0}, elsewhere={"AP": 1000.00001})
    shown = []
    for one in (far, near):
        out = Console(record=True, width=200, file=io.StringIO())
        show(out, ensemble, one, wishes=asked)
        shown.append(out.export_text())
    assert "limits (there AP 1020, RH 65.2, which are held at other values here)" in shown[0]
    assert "(there" not in shown[1]


def test_rank_correlation_is_spearmans() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 8, 60).astype(float)
    other = one + rng.normal(0, 3, 60)
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert rank_correlation(one, np.ones(60)) == 0.0
