"""Prometheus configuration, alert rules with their tests, dashboards, and the metrics they name."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with flwr, without types

import client.metric_families as plant
import server.metrics.families as centre
from common.metrics import OTHER, Family
from deploy.checks.tools import DEPLOY, ROOT, complaints_of, tool
from deploy.metrics_page import TARGET, metrics_page

PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"

#: Labels that Prometheus adds.
TARGET_LABELS = ("job", "instance")

#: The grid of a Grafana dashboard has so many columns.
COLUMNS = 24

FAMILIES: dict[str, Family] = {one.name: one for one in (*centre.FAMILIES, *plant.FAMILIES)}


def configuration() -> list[str]:
    """Have promtool check the scrape configuration."""
    return complaints_of(_promtool(), "check", "config", str(PROMETHEUS / "prometheus.yml"))


def rules() -> list[str]:
    """Have promtool check the alert rules, and compare the metrics in them with the code."""
    path = PROMETHEUS / "rules.yml"
    found = [line for name, text in alerts().items() for line in unknown(text, where=name)]
    return found + complaints_of(_promtool(), "check", "rules", str(path))


def rule_tests() -> list[str]:
    """Have promtool run the tests of the rules; each alert must have one that fires."""
    path = PROMETHEUS / "rules_test.yml"
    tested = {
        re.findall(r'alertname="(\w+)"', sample["labels"])[0]
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for case in test["promql_expr_test"]
        for sample in case["exp_samples"]
    }
    missing = [f"{name} has no test in which it fires" for name in alerts() if name not in tested]
    return missing or complaints_of(_promtool(), "test", "rules", path.name, folder=PROMETHEUS)


def dashboards() -> list[str]:
    """Check the dashboards' structure, and that their queries name metrics and labels that are."""
    found = []
    shown: set[str] = set()
    for path in sorted(GRAFANA.glob("*.json")):
        try:
            board = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return [f"{path.name} must be JSON: {error}"]
        found += [f"{path.name}: {line}" for line in _structure(board)]
        for title, query in queries(board):
            found += unknown(query, where=f"{path.name}, {title}")
            shown.update(re.findall(r"transferline_\w+", query))
    found += [f"{name} is on no dashboard" for name in FAMILIES if name not in shown]
    return found


def dashboard_queries() -> list[str]:
    """Have promtool parse every query of the dashboards."""
    promtool = _promtool()
    boards = (json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json")))
    asked = [
        query for board in boards for _, query in queries(board) if "label_values" not in query
    ]
    entries = [{"record": f"query:{n}", "expr": _filled(q)} for n, q in enumerate(asked)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queries.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": entries}]}))
        return complaints_of(promtool, "check", "rules", str(path))


def page() -> list[str]:
    """Compare docs/metrics.md with the code."""
    path = ROOT / TARGET
    if path.is_file() and path.read_text(encoding="utf-8") == metrics_page():
        return []
    return [f"{TARGET} must be what the code says; write it with python -m deploy.metrics_page"]


def alerts() -> dict[str, str]:
    """Return the expression of each alert, by name."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (title, query) of the panels and variables of a dashboard."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def unknown(query: str, *, where: str) -> list[str]:
    """Return what a query names that is not there: metrics, labels, values of labels."""
    found, labels = [], set(TARGET_LABELS)
    for name, selector in re.findall(r"(transferline_\w+)(?:\{([^}]*)\})?", query):
        family = FAMILIES.get(name)
        if family is None:
            found.append(f"{where}: no metric {name}")
            continue
        labels.update(family.labels)
        values = plant.VALUES if family in plant.FAMILIES else centre.VALUES
        for label, text in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selector):
            if label not in (*family.labels, *TARGET_LABELS):
                found.append(f"{where}: {name} has no label {label}")
            elif label in values and "$" not in text:
                wrong = set(text.split("|")) - {*values[label], OTHER}
                found += [f"{where}: {name} has no {label} {value}" for value in sorted(wrong)]
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        asked = {label.strip() for label in group.split(",")}
        found += [f"{where}: no label {label}" for label in sorted(asked - labels)]
    return found


def _structure(board: dict[str, Any]) -> Iterator[str]:
    panels = board["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        yield "panels must have different ids"
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"{panel['title']} must end within {COLUMNS} columns"
        cells = [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        for cell in cells:
            if cell in taken:
                yield f"{panel['title']} must not lie over {taken[cell]}"
                break
        taken.update(dict.fromkeys(cells, panel["title"]))
        if panel["type"] != "row" and panel["datasource"]["uid"] != "${datasource}":
            yield f"{panel['title']} must use the variable datasource"


def _filled(query: str) -> str:
    """Put values in the place of Grafana's variables."""
    return query.replace("$__rate_interval", "5m").replace("$plant", ".*")


def _promtool() -> str:
    return tool("promtool", package="apt install prometheus")
