"""A centre ships a bundle with code of its own: SuperLink, SuperNode, link, all real.

The link is started as `up` starts it, under its own user, beside the real daemon. Here there is no
proxy before the SuperLink: who ships a bundle is the centre, or has taken it over.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import sys
from pathlib import Path

import pytest
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from client.layout import Account
from client.link.link import link_program
from common.config import load_plant
from common.supervise import Supervisor
from server.engine.control import Control
from tests.e2e.processes import free_port, wait_for
from tests.e2e.superlink import superlink
from tests.hostile.bundle import hostile_bundle
from tests.hostile.plant import Site, site
from tests.hostile.report import check_report
from tests.other_user import UID, needs_root

pytestmark = [needs_root, pytest.mark.slow, pytest.mark.timeout(300)]


def submit(control: Control, here: Site, *, out: Path) -> None:
    """Submit the hostile bundle as whoever holds the centre can."""
    content = hostile_bundle(app="hostile_client:app")
    config = {
        "folder": str(here.folder), "data": str(here.data), "daemon": here.daemon, "out": str(out),
    }  # fmt: skip
    trust = ssl.create_default_context(cafile=str(here.folder.parent / "pki/ca.pem"))
    client = ControlHttpClient(
        f"https://{control.address}", interceptors=[CliClientHttpInterceptor()], verify=trust
    )
    request = StartRunRequest(
        fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
        override_config=user_config_to_proto(config),
    )
    try:
        assert client.StartRun(request).HasField("run_id")
    finally:
        client.close()


def test_a_hostile_centre_gets_an_answer_of_the_service_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    with (
        site(user=str(UID), fleet=f"127.0.0.1:{port}") as here,
        superlink(here.folder.parent, authority=here.authority, port=port) as control,
        Supervisor() as supervisor,
    ):
        control.register(here.link_key, name="plant-a")
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(here.python))
            plant = load_plant(here.folder / "plant.toml")
            supervisor.start(link_program(here.folder, plant, link=Account(uid=UID, gid=UID)))
        wait_for(lambda: any(node.online for node in control.nodes()), what="the plant", seconds=60)
        out = here.folder.parent / "report"
        submit(control, here, out=out)
        wait_for(out.exists, what="the report", seconds=60)
        report = json.loads(out.read_text())
        left = sorted(path.name for path in here.folder.iterdir())
    check_report(report, here)
    assert "new" not in left
    assert "link" in left
