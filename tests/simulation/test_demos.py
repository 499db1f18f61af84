"""Every demo ends with a report, whatever its task draws; here with hardly any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulation.cli import app
from simulation.made_up import DEMOS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [kind for kind in DEMOS if kind not in ("images", "tabular")])
def test_a_demo_ends_with_its_report(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = DEMOS[kind]
    short: dict[str, Any] = {"rounds": 1, "min_plants": 2, "local_epochs": 1, "local_steps": 1}
    short["training"] = demo.settings["training"] | {"epochs": 1, "head_epochs": 2}
    monkeypatch.setitem(DEMOS, kind, replace(demo, settings=demo.settings | short))
    out = tmp_path / "out"
    (out / ".data.part" / "left by a kill").mkdir(parents=True)
    result = CliRunner().invoke(app, ["demo", "--task", kind, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")
