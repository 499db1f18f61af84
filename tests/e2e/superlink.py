"""A SuperLink as a centre runs it, without the centre around it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.pki import Authority
from server.engine.control import Control
from tests.e2e.processes import ENVIRONMENT, wait_for


@contextmanager
def superlink(top: Path, *, authority: Authority, port: int) -> Iterator[Control]:
    """Run a SuperLink with TLS and node authentication; its files are in ``top``."""
    key, certificate = authority.issue_tls(["127.0.0.1"], days=2)
    (top / "server.key").write_text(key)
    (top / "server.pem").write_text(certificate)
    commands = Path(sys.executable).parent
    with (
        (top / "superlink.log").open("wb") as log,
        subprocess.Popen(
            [
                commands / "flower-superlink",
                *("--ssl-certfile", top / "server.pem", "--ssl-keyfile", top / "server.key"),
                *("--ssl-ca-certfile", authority.folder / "ca.pem", "--enable-supernode-auth"),
                *("--database", top / "superlink.db", "--isolation", "subprocess"),
                *("--host", "127.0.0.1", "--port", str(port)),
                "--disable-runtime-dependency-installation",
            ],
            env={
                **ENVIRONMENT,
                "PATH": f"{commands}:{os.defpath}",
                "FLWR_HOME": str(top / "flwr"),
                "HOME": str(top),
            },
            cwd=top,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
        Control(f"127.0.0.1:{port}", authority=authority.folder / "ca.pem") as control,
    ):
        try:
            wait_for(control.is_up, what="SuperLink", seconds=60)
            yield control
        finally:
            process.terminate()
