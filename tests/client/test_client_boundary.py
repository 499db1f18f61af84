"""A bundle with a `client.app` of its own gets nothing of the plant but the daemon's socket.

It runs as Flower would run it: installed from the bundle, first on ``sys.path``, as the link's
user, with the link's environment, below the keeper that `up` starts. The daemon is the real one.
With a SuperLink and a SuperNode it is in tests/e2e.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import pytest

from client.layout import Account
from client.link.files import read_settings
from client.link.link import link_program
from client.link.supernode import environment
from common.config import load_plant
from common.supervise import Program, State, Supervisor
from tests.hostile.bundle import hostile_bundle
from tests.hostile.plant import SECRET, Site, site
from tests.hostile.report import check_report
from tests.other_user import ROOT, UID, needs_root

pytestmark = needs_root


def attack(here: Site, *, user: int | None, kinds: str = "") -> dict[str, Any]:
    """Run the hostile bundle as the link would; return its report.

    Parameters
    ----------
    kinds : what it may try, by the attempts' first words; "" for all.
    """
    link = None if user is None else Account(uid=user, gid=user)
    plant = load_plant(here.folder / "plant.toml")
    program = link_program(here.folder, plant, link=link)
    folder = here.folder / "link"
    for name in ("flwr", "out"):
        (folder / name).mkdir()
    if user is not None:
        for path in folder.iterdir():
            os.chown(path, user, user)
    bundle = here.folder.parent / "bundle.fab"
    bundle.write_bytes(hostile_bundle())
    config = {
        "folder": str(here.folder),
        "data": str(here.data),
        "daemon": here.daemon,
        "kinds": kinds,
    }
    arguments = [str(bundle), json.dumps(config), str(folder / "out" / "report")]
    run = Program(
        name="hostile",
        command=[str(here.python), "-W", "ignore", str(ROOT / "tests/hostile/run.py"), *arguments],
        env=environment(folder, read_settings(folder), inherited=program.env),
        user=program.user,
        group=program.group,
        log=here.folder.parent / "log",
        final=frozenset(range(256)),
    )
    with Supervisor() as supervisor:
        supervisor.start(run)
        end = time.monotonic() + 60
        while (status := supervisor.states()["hostile"]).state is not State.ENDED:
            assert time.monotonic() < end
            time.sleep(0.1)
    assert status.exit == 0, (here.folder.parent / "log").read_text()
    report: dict[str, Any] = json.loads((folder / "out" / "report").read_text())
    return report


def test_the_links_user_gets_the_socket_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with site(user=str(UID)) as here:
        monkeypatch.setenv("SECRET", SECRET)
        monkeypatch.setattr(sys, "executable", str(here.python))
        report = attack(here, user=UID)
        left = sorted(path.name for path in here.folder.iterdir())
    check_report(report, here)
    assert "new" not in left
    assert "link" in left


def test_with_one_user_the_same_bundle_reads_it_all(caplog: pytest.LogCaptureFixture) -> None:
    """So the attempts above are real ones; and `up` says what this is."""
    with site(user="") as here:
        report = attack(here, user=None, kinds="read,list")
    for name in ("read data", "read identity.key", "list daemon's files", "read plant.toml"):
        assert "done" in report[name], name
    assert SECRET in report["read data"]["done"]
    assert "data and link share a user" in caplog.text
    assert len([record for record in caplog.records if "share a user" in record.message]) == 1
