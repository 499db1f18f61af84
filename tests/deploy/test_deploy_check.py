"""Each check of deploy/ as a test of its own, and for each something wrong that it must find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploy import check
from deploy.checks import commands, containers, edge, monitoring, systemd, tools
from deploy.checks.tools import SkippedError


@pytest.mark.parametrize("name", check.CHECKS)
def test_all_is_well(name: str) -> None:
    try:
        assert check.CHECKS[name]() == []
    except SkippedError as error:
        pytest.skip(str(error))


def complaints(name: str) -> str:
    try:
        return "\n".join(check.CHECKS[name]())
    except SkippedError as error:
        pytest.skip(str(error))


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of deploy/ that the checks look at instead, to be spoilt."""
    copy = tmp_path / "deploy"
    shutil.copytree(tools.DEPLOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for module, name, folder in (
        (monitoring, "PROMETHEUS", "prometheus"),
        (monitoring, "GRAFANA", "grafana"),
        (systemd, "UNITS", "systemd"),
        (edge, "NGINX", "nginx"),
        (containers, "CONTAINERS", "containers"),
        (containers, "KUBERNETES", "kubernetes"),
        (commands, "DEPLOY", ""),
    ):
        monkeypatch.setattr(module, name, copy / folder)
    return copy


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "complaint"),
    [
        ("prometheus configuration", "prometheus/prometheus.yml", "rules.yml", "none.yml",
         "none.yml"),
        ("alert rules", "prometheus/rules.yml", "up{job", "upp{{job", "parse error"),
        ("alert rules", "prometheus/rules.yml", "_process_up ==", "_proces_up ==", "no metric"),
        ("alert rules", "prometheus/rules.yml", 'state="failed"', 'state="lost"', "no state lost"),
        ("alert rules", "prometheus/rules.yml", "by (plant)", "by (reply)", "no label reply"),
        ("tests of the alert rules", "prometheus/rules.yml", "> 3600)", "> 7200)", "PlantSilent"),
        ("tests of the alert rules", "prometheus/rules.yml", "alert: TransferlineTrainingKilled",
         "alert: Other", "Other has no test"),
        ("dashboards", "grafana/centre.json", "transferline_release_number", "x_number",
         "transferline_release_number is on no dashboard"),
        ("dashboards", "grafana/plant.json", "_daemon_busy", "_daemon_bussy", "no metric"),
        ("queries of the dashboards", "grafana/centre.json", "sum by (kind", "sum by (kind(",
         "parse"),
        ("systemd units", "systemd/transferline-link.service", "PrivateTmp=yes", "PrivatTmp=yes",
         "PrivatTmp"),
        ("exposure of the units", "systemd/transferline-plant.service", "PrivateNetwork=yes", "",
         "deployment.md says"),
        ("users of the units", "systemd/transferline-link.service", "User=transferline-link",
         "User=somebody", "somebody"),
        ("nginx: edge.conf", "nginx/edge.conf", "proxy_pass", "proxy_pas", "proxy_pas"),
        ("nginx: passthrough.conf", "nginx/passthrough.conf", "proxy_pass", "proxy_pas",
         "proxy_pas"),
        ("nginx: same paths as the centre's own", "nginx/edge.conf", "/v1/fleet/", "/v1/",
         "/v1/fleet"),
        ("Containerfile", "containers/Containerfile", "USER 10002:10002", "USER root",
         "link must have a user other than root"),
        ("Containerfile", "containers/Containerfile", "3.11-slim-bookworm", "latest", "a version"),
        ("Containerfile", "containers/Containerfile", "COPY server", "COPY servers", "servers"),
        ("compose.yaml", "containers/compose.yaml", "network_mode: none", "hostname: x",
         "plant must have no network"),
        ("compose.yaml", "containers/compose.yaml", "- socket:/run/transferline:ro",
         "- plant:/plant", "link must see"),
        ("Kubernetes manifests", "kubernetes/centre.yaml", "name: edge\n              cont",
         "name: fleet\n              cont", "no port edge"),
        ("Kubernetes manifests", "kubernetes/centre.yaml", "{name: federation, key: name}",
         "{name: none, key: name}", "no config map none"),
        ("Kubernetes manifests", "kubernetes/postgres.yaml", "name: tmp\n              mount",
         "name: temp\n              mount", "no volume temp"),
        ("command lines", "systemd/transferline-plant.service", "up --no-link", "up --nolink",
         "no option --nolink"),
        ("command lines", "kubernetes/centre.yaml", "transferline-server init",
         "transferline-server make",
         "no command make"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(
    copied: Path, name: str, file: str, old: str, new: str, complaint: str
) -> None:
    path = copied / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = complaints(name)
    assert found
    assert complaint in found


def test_a_dashboard_with_panels_over_each_other_is_found(copied: Path) -> None:
    path = copied / "grafana/centre.json"
    board = json.loads(path.read_text())
    board["panels"][2]["gridPos"]["x"] = board["panels"][1]["gridPos"]["x"]
    board["panels"][3]["id"] = board["panels"][2]["id"]
    path.write_text(json.dumps(board))
    found = complaints("dashboards")
    assert "must not lie over" in found
    assert "different ids" in found


def test_a_page_that_is_old_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "ROOT", tmp_path)
    assert "deploy.metrics_page" in complaints("docs/metrics.md")


def test_a_failed_check_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def skip() -> list[str]:
        raise SkippedError("no tool")

    monkeypatch.setattr(check, "CHECKS", {"a": list, "b": skip})
    assert check.main() == 0
    assert "skipped  b: no tool" in capsys.readouterr().out
    monkeypatch.setattr(check, "CHECKS", {"a": lambda: ["wrong"], "b": skip})
    assert check.main() == 1
    assert "FAILED   a\n           wrong\n" in capsys.readouterr().out
