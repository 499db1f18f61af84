"""The driver of docs/results/ and its modules: cells have names, tables say what was not run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import real_tasks
from benchmarks.tasks import anomaly, rul, series, tables, text
from client.tasks.metrics import Prediction

LIFE = {score: [14.0, 13.0, 15.0] for score in ("rmse", "given_rmse", "mae", "score")} | {
    "given_score": [15.0, 14.0, 16.0]
}
SPAN = {"value": 0.7, "low": 0.6, "high": 0.8}


def said(*, classes: int = 2) -> dict[str, Any]:
    """Return what a cell keeps of a perfect model's predictions."""
    truth = np.arange(3 * classes) % classes
    return text.kept(Prediction(truth=truth, predicted=np.eye(classes)[truth]))


@pytest.mark.parametrize("task", real_tasks.TASKS)
def test_cells_have_names_of_files_and_none_is_filled_in(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.tasks.{task}")
    every = module.cells(quick=False)
    assert set(module.cells(quick=True)) <= set(every)
    assert len(every) == len(set(every))
    assert not [cell for cell in every if Path(cell).name != cell]
    arguments = ["real_tasks.py", "--task", task, "--tables", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    real_tasks.main()
    printed = capsys.readouterr().out
    assert f"not run: {', '.join(every)}" in printed
    assert not [line for line in printed.splitlines() if line.startswith("|") and "(" in line]


def test_life_has_linear_rows_beside_the_same_windows_alone() -> None:
    alike: dict[str, Any] = {name: {"local": LIFE, "federated": LIFE} for name in rul.SETS}
    linear: dict[str, Any] = {name: {"local": LIFE, "pooled": LIFE} for name in rul.SETS}
    found = {
        "life-gru": {"plants": alike},
        "life-dcnn": {"plants": alike},
        "life-whole": {"plants": {name: alike[name] for name in rul.WHOLE}},
        "life-linear": {"plants": linear},
        "life-published": {"plants": alike},
        "hour": {"plants": alike},
    }
    gru, dcnn, whole, published, hour = rul.tables(found).split("### ")[1:]
    assert [part.count("| linear, alone |") for part in (gru, dcnn, whole)] == [5, 0, 0]
    assert "\n| published, Li et al. 2018 | 12.61 | 12.64 | 12.62 |" in whole
    assert "8 rounds of 3 epochs" in whole
    assert published.count("| local | 14.00 (13.00 to 15.00) |") == 2
    assert hour.startswith("Energy of the next hour")


def test_series_name_networks_that_were_not_run() -> None:
    found = {"within-wdcnn-0": {"plants": {name: {"local": said()} for name in series.LOADS}}}
    within, unseen = series.tables(found).split("### ")[1:]
    assert "| wdcnn, local | 100.0 (100.0 to 100.0) |" in within
    assert "| gru | not run |" in within
    assert "| wdcnn | not run |" in unseen


def test_texts_have_a_table_a_seed() -> None:
    ours = {variant: said() for variant in text.VARIANTS}
    cell = {"plants": {"a": ours, "b": ours}, "deployed": {"a": "federated", "b": "local"}}
    beside = {name: {one: said() for one in text.REFERENCES} for name in ("a", "b")}
    found: dict[str, Any] = {}
    for seed in range(2):
        found[f"text_cnn-{seed}"] = cell | {"bytes_up": 4_300_000}
        found[f"references-{seed}"] = {"plants": beside}
    page = text.tables(found)
    assert page.index("`text_cnn`, seed 0") < page.index("`text_cnn`, seed 1")
    assert page.count("| a | 1.000 (1.000 to 1.000) |") == 2
    assert page.count("| 1 of 1 |") == page.count("| 0 of 1 |") == 2
    assert "An update is 4.3 MB." in page
    assert "`encoder_lora`: not run." in page


def test_tables_name_the_best_and_who_adopted() -> None:
    row = {"local": SPAN, "federated": SPAN | {"value": 0.75}}
    cell = {
        "title": "concrete",
        "plants": {"early": row},
        "mean": row,
        "adopted": {"early": ["federated", "local"]},
        "seeds": 2,
    }
    assert "| early | 0.700 | **0.750** | 1 of 2 |" in tables.tables({"concrete": cell})


def test_good_parts_without_references_say_so() -> None:
    scores = [0.1, 0.4, 0.6, 0.9] * 2
    truth = [0, 0, 1, 1] * 2
    variants = ("head_only", "local", "federated", "deployed")
    plant = {
        "truth": truth,
        "said": dict.fromkeys(variants, scores),
        "source": "local",
        "held": truth,
        "evidence": {"local": scores, "federated": scores},
        "calibration": 40,
    }
    page = anomaly.tables({"federated-0": {"plants": dict.fromkeys(anomaly.PLANTS, plant)}})
    row = next(line for line in page.splitlines() if line.startswith("| elpv_mono |"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == [
        "not run",
        "100.0 (100.0 to 100.0)",
        "not run",
    ]
    assert "| deeppcb | 40 |" in page
