"""The link with Flower's own SuperNode and SuperLink: killed, cut off, readmitted."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from client.link.files import read_status
from client.link.link import link_program
from common.config import PlantConfig
from common.pki import Authority, make_link_key
from common.supervise import Supervisor
from tests.e2e.processes import free_port, wait_for
from tests.e2e.superlink import superlink

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def state(folder: Path) -> str:
    status = read_status(folder)
    return status.state if status else ""


def supernode(link: int | None) -> psutil.Process | None:
    """Return the SuperNode below a link's process."""
    for process in psutil.Process(link).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[1:3] == ["-m", "client.link.supernode_main"]:
                return process
    return None


def test_a_killed_supernode_is_back_before_the_centre_misses_it_and_a_revoked_one_is_not(
    tmp_path: Path,
) -> None:
    authority = Authority.create(tmp_path / "pki", federation="acme")
    folder, port = tmp_path / "plant", free_port()
    (folder / "link").mkdir(parents=True)
    (folder / "link/ca.pem").write_text(authority.pem)
    centre = {"federation": "acme", "fleet": f"127.0.0.1:{port}", "enrolment": "127.0.0.1:1"}
    plant = PlantConfig.model_validate({"name": "ash", "data": "data", "centre": centre})
    with superlink(tmp_path, authority=authority, port=port) as control, Supervisor() as up:
        node = control.register(make_link_key(folder / "link"), name="ash")
        up.start(link_program(folder, plant, link=None))
        wait_for(lambda: state(folder) == "connected", what="the link", seconds=60)
        status = read_status(folder)
        assert status is not None
        assert status.node == str(node)

        first = supernode(up.states()["link"].pid)
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: state(folder) == "connecting", what="the end", seconds=20)
        # Without signing off it would be refused until two heartbeats of 30 s are missing.
        wait_for(lambda: state(folder) == "connected", what="the next", seconds=60)
        assert "Failed to activate" not in (folder / "link/supernode.log").read_text()

        control.unregister(node)
        wait_for(lambda: state(folder) == "revoked", what="revocation", seconds=60)
        link = up.states()["link"].pid
        wait_for(lambda: supernode(link) is None, what="rest", seconds=20)

        (folder / "link/link.key").unlink()
        control.register(make_link_key(folder / "link"), name="ash-again")
        wait_for(lambda: state(folder) == "connected", what="readmission", seconds=60)
    assert state(folder) == "stopped"
    assert not psutil.pid_exists(link or 0)
