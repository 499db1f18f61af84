"""What a hostile bundle may bring home: an answer of the daemon's service, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from tests.hostile.plant import SECRET, Site
from tests.other_user import UID

ATTEMPTS = 32  #: of `tests.hostile.app`, without the one that is allowed


def check_report(report: dict[str, Any], here: Site) -> None:
    """Check that each attempt was refused, and what it was run with."""
    found = dict(report)
    status, who, variables, files = (
        found.pop(name) for name in ("status", "who", "environment", "files")
    )
    assert found.pop("ask the daemon") == {"done": "plant-a"}
    assert {name: end for name, end in found.items() if "done" in end} == {}
    assert len(found) == ATTEMPTS
    assert SECRET not in json.dumps([found, variables])
    assert who == {"uid": UID, "gid": UID, "groups": []}
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert [file for file in files if str(here.folder) in file and "/link/" not in file] == []
