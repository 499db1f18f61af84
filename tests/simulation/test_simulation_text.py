"""Work orders from files to report: made-up plants, adapters, and what users get wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.console import fitness
from client.console.checks import Plant as CheckedPlant
from client.console.checks import State
from client.plant import open_plant
from client.tasks.tokens import normalised
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError, TransferlineError
from common.files import load_tensors
from server.state.store import history
from simulation.cli import app
from simulation.collect import collect
from simulation.made_up.text import ORDERS, PLANTS, orders, write_text
from simulation.report import write_report
from simulation.run import Plan, run

SETTINGS: dict[str, Any] = {
    "task": "text-classification",
    "rounds": 1,
    "local_epochs": 1,
    "local_steps": 0,
    "labels_per_class": 10,
    "device": "cpu",
    "training": {"epochs": 2, "head_epochs": 10, "learning_rate": 3e-3},
    "text": {"buckets": 512, "width": 8, "length": 8},
}


def quiet(phase: str, done: int, total: int, note: str) -> None:
    """Watch nothing."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made-up") / "plants"
    write_text(root)
    return root


@pytest.fixture
def plan(written: Path, tmp_path: Path) -> Plan:
    config = FederationConfig.model_validate(SETTINGS)
    return Plan(
        config=config,
        base=tmp_path,
        data=written,
        out=tmp_path / "out",
        plants=("foundry", "quarry"),
    )


def test_made_up_plants_lack_a_system_each_and_write_alike(written: Path) -> None:
    assert sorted(folder.name for folder in written.iterdir()) == sorted(PLANTS)
    every = [list(orders(plant)) for plant in range(len(PLANTS))]
    assert all(len(rows) == ORDERS for rows in every)
    systems = [{system for _, _, system in rows} for rows in every]
    assert [len(found) for found in systems] == [5, 5, 5, 5]
    assert len({frozenset(found) for found in systems}) == 4
    assert every[0] == list(orders(0))
    assert every[0] != list(orders(0, seed=1))
    words = [{word for _, text, _ in rows for word in normalised(text).split()} for rows in every]
    assert len(set.intersection(*words)) > 30


def test_a_run_ends_in_a_report_that_quotes_what_was_mistaken(plan: Plan) -> None:
    results = collect(plan, run(plan, watch=quiet))
    assert results.metric == "balanced_accuracy"
    plant = results.plants["quarry"]
    assert len(plant.classes) == 5
    assert set(plant.confusion) == {"head_only", "local", "federated", "pooled", "deployed"}
    (first, *_) = plant.mistakes["deployed"]
    texts = {text for _, text, _ in orders(list(PLANTS).index("quarry"))}
    assert first.text in texts
    assert first.file.startswith("orders.csv:")
    write_report(results, plan.out / "report.html")
    report = (plan.out / "report.html").read_text()
    assert first.text in report.replace("<wbr>", "")
    assert "no picture" not in report


def test_texts_do_not_leave_the_plant(plan: Plan) -> None:
    run(plan, watch=quiet)
    said = (plan.out / "state.db").read_bytes() + b"".join(
        path.read_bytes() for path in (plan.out / "releases").rglob("*") if path.is_file()
    )
    for name in plan.plants:
        for _, text, _ in orders(list(PLANTS).index(name)):
            assert text.encode() not in said


def test_only_adapters_travel(plan: Plan, tmp_path: Path) -> None:
    base = _encoder(tmp_path / "encoder")
    sizes = {}
    for tune in ("lora", "whole"):
        found = run(_with_encoder(plan, base, tune=tune, out=tmp_path / tune), watch=quiet)[0]
        replies = history(found.prepared.home)[0]["replies"].values()
        sizes[tune] = {reply["bytes_up"] for reply in replies}
        assert all(reply["outcome"] == "done" for reply in replies)
    assert max(sizes["lora"]) < min(sizes["whole"]) / 2
    first, _ = load_tensors(tmp_path / "lora/releases/0/backbone.safetensors")
    second, _ = load_tensors(tmp_path / "lora/releases/1/backbone.safetensors")
    assert all("lora" in name for name in first)
    assert any((first[name] != second[name]).any() for name in first)


def test_a_plant_with_another_base_is_told(plan: Plan, tmp_path: Path) -> None:
    base, other = _encoder(tmp_path / "encoder"), _encoder(tmp_path / "other", seed=1)
    plan = _with_encoder(plan, base, tune="lora", out=tmp_path / "out")
    mine = {"quarry": {"text": {"encoder": str(other)}}}
    config = FederationConfig.model_validate(plan.config.model_dump() | {"plants": mine})
    with pytest.raises(ConfigError, match=r"text\.encoder must be the federation's.*other"):
        run(replace(plan, config=config), watch=quiet)


def _with_encoder(plan: Plan, folder: Path, *, tune: str, out: Path) -> Plan:
    own = {"encoder": str(folder), "tune": tune, "rank": 2, "length": 8}
    settings = SETTINGS | {"backbone": "encoder", "text": own}
    return replace(plan, config=FederationConfig.model_validate(settings), out=out, pooled=False)


def _encoder(folder: Path, *, seed: int = 0) -> Path:
    pytest.importorskip("transformers", reason="the extra text is not installed")
    pytest.importorskip("peft", reason="the extra text is not installed")
    from tests.tiny_encoder import make_encoder

    return make_encoder(folder, seed=seed)


def test_check_reads_as_a_round_would(written: Path, tmp_path: Path) -> None:
    config = FederationConfig.model_validate(SETTINGS)
    data = tmp_path / "data"
    shutil.copytree(written / "quarry", data)
    plant = CheckedPlant(
        folder=tmp_path,
        settings=PlantConfig(name="quarry", data=str(data)),
        federation=config,
        now=datetime.now(tz=UTC),
    )
    assert "5 classes" in fitness.data(plant).says
    with (data / "orders.csv").open("a") as file:
        file.write("999,,drive\n")
    found = fitness.data(plant)
    assert found.state is State.WARN
    assert "orders.csv:222: empty text" in found.says
    (data / "orders.csv").write_text("number,what,label\n1,pump,drive\n")
    found = fitness.data(plant)
    assert found.state is State.FAIL
    assert "text missing" in found.says + found.do


# -- what users get wrong --------------------------------------------------------------------------


@pytest.fixture
def here(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    open_plant.cache_clear()  # it knows folders by names that are relative here
    for name in ("quarry", "foundry"):
        shutil.copytree(written / name, tmp_path / "plants" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        (b"number,words,label\n1,a,b\n", "", "must have the columns text and label"),
        (b"number,text,label\n", "", "must hold rows with a text and a label"),
        (b"number,text,label\n1,,Pump\n", "", "orders.csv:2: empty text"),
        (b"number,text,label\n1,pump,Pump\n", "", "at least two classes"),
        (b"number,text,label\n1,\xe4,Pump\n", "", "byte 0xe4 in line 2"),
        (None, 'vocabulary = "none.txt"', "text.vocabulary must be readable"),
        (None, 'column = "text"', "text.column"),
        (None, "least = 2", "text.least"),
    ],
)
def test_a_mistake_is_one_line(here: Path, content: bytes | None, settings: str, said: str) -> None:
    if content is not None:
        (here / "plants/quarry/orders.csv").write_bytes(content)
    (here / "federation.toml").write_text(
        f'task = "text-classification"\nrounds = 1\n[text]\n{settings}\n'
    )
    words = ["run", "federation.toml", "--data", "plants", "--out", "out"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert isinstance(found.exception, TransferlineError)
    assert said in str(found.exception)
    assert "\n" not in str(found.exception)
