"""Every demo ends with a report that has its task's pictures; here with hardly any training.

Of ``tabular`` see `test_simulation_tables`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulation.cli import app
from simulation.made_up import DEMOS

CONFUSION = "<h4>Confusion matrix of the deployed model</h4>"
DRAWN = r'<img src="data:image/svg\+xml;base64,[^"]+" alt="'

#: By demo: what its report shows of every plant, as patterns.
SHOWN = {
    "text": [CONFUSION, r'<ul class="mistakes"><li><figure><q>'],
    "series": [CONFUSION, rf'<ul class="mistakes"><li><figure>{DRAWN}'],
    "rul": [
        f"{DRAWN}{title} of" for title in ("rul: predicted against true", "Over the life of a unit")
    ],
    "anomaly": [
        CONFUSION,
        *(f"{DRAWN}{of} test parts of" for of in ("Scores of the", "The most suspect")),
    ],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [kind for kind in DEMOS if kind not in ("images", "tabular")])
def test_a_demo_ends_with_its_pictures(
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
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "</html>" in page
    plants = page.split('<section class="plant"')[1:]
    assert len(plants) == 4
    for pattern in SHOWN[kind]:
        assert all(re.search(pattern, plant) for plant in plants), pattern
