"""Cells that were kept: used again under the settings that made them, refused under others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_plants import CASES, cell_path, config, joined, joining_path, there
from common.config import FederationConfig
from common.errors import StateError
from common.files import save_tensors, write_json


def kept(out: Path, case: str, settings: FederationConfig, **more: str) -> None:
    tensors = {"plant/local/truth": np.zeros(1, np.int64)}
    metadata = {"config": settings.model_dump_json(), **more}
    save_tensors(cell_path(out, case, "fedper", 1), tensors, metadata)


def test_a_cell_is_used_again_wherever_its_weights_lay(tmp_path: Path) -> None:
    made = config(CASES["six-20"], method="fedper", seed=1)
    kept(tmp_path, "six-20", made.model_copy(update={"weights": f"/x/{Path(made.weights).name}"}))
    assert there(tmp_path, "six-20", "fedper", 1)
    assert not there(tmp_path, "six-20", "fedper", 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 3}, r"fedper-1.*rounds was 3, is 10; move it away or use another --out"),
        ({"seed": 2}, "seed was 2, is 1"),
        ({"plants": {}}, "plants.elpv_mono was None"),
    ],
)
def test_a_cell_of_another_configuration_is_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    made = config(CASES["six-20"], method="fedper", seed=1)
    kept(tmp_path, "six-20", made.model_copy(update=change))
    with pytest.raises(StateError, match=said):
        there(tmp_path, "six-20", "fedper", 1)


def test_a_cell_of_another_split_or_of_unknown_settings_is_refused(tmp_path: Path) -> None:
    case = "steel4-skew-20"
    made = config(CASES[case], method="fedper", seed=1)
    kept(tmp_path, case, made, split=json.dumps((4, "dirichlet:0.1")))
    with pytest.raises(StateError, match=r"split was .*0\.1.*, is .*0\.3"):
        there(tmp_path, case, "fedper", 1)
    path = cell_path(tmp_path, case, "fedper", 1)
    save_tensors(path, {"a": np.zeros(1)}, {"config": json.dumps({"gone": 1})})
    with pytest.raises(StateError, match="settings are unknown today"):
        there(tmp_path, case, "fedper", 1)


def test_a_late_joiner_that_does_not_say_its_settings_is_refused(tmp_path: Path) -> None:
    assert not joined(tmp_path, "deeppcb", 0)
    write_json(joining_path(tmp_path, "deeppcb", 0), {"gain": {}})
    with pytest.raises(StateError, match="another configuration"):
        joined(tmp_path, "deeppcb", 0)
